"use strict";
// The coefficients of `diffusionbench correlate`, to the printed digits: Pearson's r, Fisher's z interval, the
// least-squares line, and "not defined" under the same conditions. x and y are arrays of finite numbers.
const stats = (() => {
  const Z95 = 1.959963984540054;
  const UNDEFINED = "not defined";

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const centred = (values) => {
    const centre = mean(values);
    return values.map((value) => value - centre);
  };
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const same = (values) => values.every((value) => value === values[0]);
  const clip = (value) => Math.min(1, Math.max(-1, value));

  // Centred and scaled to unit spread, so that neither tiny nor huge values lose digits.
  function standard(values) {
    const moved = centred(values);
    const largest = moved.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    return moved.map((value) => value / largest);
  }

  function pearson(x, y) {
    if (x.length < 3) return { value: null, note: `${UNDEFINED} for fewer than 3 points` };
    if (same(x)) return { value: null, note: `${UNDEFINED}: x is the same for every point` };
    if (same(y)) return { value: null, note: `${UNDEFINED}: y is the same for every point` };
    const u = centred(standard(x));
    const v = centred(standard(y));
    return { value: clip(dot(u, v) / Math.sqrt(dot(u, u) * dot(v, v))), note: null };
  }

  function fisher(r, n) {
    if (r === null || n < 4 || Math.abs(r) >= 1 - 1e-12) return null;
    const half = Z95 / Math.sqrt(n - 3);
    return [Math.tanh(Math.atanh(r) - half), Math.tanh(Math.atanh(r) + half)];
  }

  function line(x, y) {
    if (x.length < 3 || same(x)) return null;
    if (same(y)) return { slope: 0, intercept: y[0] };
    const u = centred(x);
    const slope = dot(u, centred(y)) / dot(u, u);
    return { slope, intercept: mean(y) - slope * mean(x) };
  }

  // Decimals as Python prints them: an exact tie goes to the even digit, where toFixed goes away from zero.
  function fixed(value, digits, signed = false) {
    const size = Math.abs(value);
    const exact = size.toFixed(60);
    const point = exact.indexOf(".");
    const kept = exact.slice(0, point + 1 + digits);
    const tie = /^50*$/.test(exact.slice(point + 1 + digits));
    const text = tie && "02468".includes(kept.at(-1)) ? kept : size.toFixed(digits);
    const sign = value < 0 || Object.is(value, -0) ? "-" : signed ? "+" : "";
    return sign + text;
  }

  const number = (value, digits = 4) => (value === null ? UNDEFINED : fixed(value, digits, true));
  const span = (interval, digits = 3) =>
    interval === null ? UNDEFINED : `[${fixed(interval[0], digits, true)}, ${fixed(interval[1], digits, true)}]`;

  function summary(x, y) {
    const r = pearson(x, y);
    const interval = fisher(r.value, x.length);
    const fitted = line(x, y);
    return {
      n: x.length,
      line: fitted,
      note: r.note,
      text: {
        r: number(r.value),
        interval: span(interval),
        line: fitted === null ? UNDEFINED : `${fixed(fitted.intercept, 4)} ${fixed(fitted.slope, 5, true)} x`,
      },
    };
  }

  return { pearson, fisher, line, fixed, number, span, summary, UNDEFINED };
})();
