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

  // The 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5; within 0.1 % from 3 degrees of freedom on).
  function student(freedom) {
    if (freedom < 3) return [NaN, 12.7062, 4.3027][freedom] ?? NaN;
    const terms = [
      [[1, 3], [1, 1], 4],
      [[5, 5], [16, 3], [3, 1], 96],
      [[3, 7], [19, 5], [17, 3], [-15, 1], 384],
      [[79, 9], [776, 7], [1482, 5], [-1920, 3], [-945, 1], 92160],
    ];
    return terms.reduce((sum, term, i) => {
      const top = term.slice(0, -1).reduce((all, [factor, power]) => all + factor * Z95 ** power, 0);
      return sum + top / term.at(-1) / freedom ** (i + 1);
    }, Z95);
  }

  // The 95 % confidence band of the least-squares line: half its height at a place on x; null for fewer than 4 points.
  function band(x, y) {
    const fitted = line(x, y);
    if (fitted === null || x.length < 4) return null;
    const centre = mean(x);
    const spread = dot(centred(x), centred(x));
    const left = y.reduce((sum, value, i) => sum + (value - fitted.intercept - fitted.slope * x[i]) ** 2, 0);
    const scale = student(x.length - 2) * Math.sqrt(left / (x.length - 2));
    return (place) => scale * Math.sqrt(1 / x.length + (place - centre) ** 2 / spread);
  }

  // Indices of the points that no other one matches or beats on both axes; `better` says whether high is good on each.
  function front(x, y, better) {
    const [sx, sy] = better.map((high) => (high ? 1 : -1));
    const kept = [];
    let top = -1;
    // From the best x on, a point that raises y is on the front, and so is one equal to the last that did.
    for (const i of x.map((_, i) => i).sort((i, j) => sx * (x[j] - x[i]) || sy * (y[j] - y[i]))) {
      const gain = top < 0 ? 1 : sy * (y[i] - y[top]);
      if (gain > 0) top = i;
      if (gain > 0 || (gain === 0 && x[i] === x[top])) kept.push(i);
    }
    return kept.sort((i, j) => x[i] - x[j]);
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

  return { pearson, fisher, line, band, front, student, fixed, number, span, summary, UNDEFINED };
})();
