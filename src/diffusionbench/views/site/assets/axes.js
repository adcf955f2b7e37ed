"use strict";
// Drawing for the figure: SVG elements, round tick values, linear scales and the marks of the families.
const axes = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  function node(name, attributes = {}, text = null) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return made;
  }

  // Round steps of 1, 2 or 5 times a power of ten within [low, high].
  function ticks(low, high, count) {
    const rough = (high - low) / count || Math.abs(high) || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    const digits = Math.max(0, Math.min(12, -Math.floor(Math.log10(step) + 1e-9)));
    const values = [];
    for (let i = first; i <= last; i += 1) values.push(i * step);
    return { values, text: (value) => value.toFixed(digits) };
  }

  // A linear scale with some room around the values.
  function scale(values, from, to, count) {
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (!values.length) [low, high] = [0, 1];
    const bare = values.length ? {} : { values: [] };
    const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.5;
    const start = low - room;
    const end = high + room;
    return {
      ...ticks(start, end, count),
      ...bare,
      place: (value) => from + ((value - start) / (end - start)) * (to - from),
      value: (place) => start + ((place - from) / (to - from)) * (end - start),
    };
  }

  // The mark of a family, around (0, 0); `look` has the path and the class that colours it.
  function symbol(look) {
    return node("path", { d: look.path, class: `mark fam-${look.look}` });
  }

  return { node, scale, symbol };
})();
