// Checks of an open page: what a reader without a pointer, with weak eyes or on a telephone runs into.
({
  // Texts whose colour is closer than 4.5 : 1 to what lies behind them (WCAG 2.2, level AA); disabled controls and
  // outlined words on a picture are exempt.
  contrast: () => {
    const parse = (text) => text.match(/[\d.]+/g).map(Number);
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => sum + weight * linear(rgb[i] / 255), 0);
    const behind = (element) => {
      for (let one = element; one; one = one.parentElement) {
        const colour = parse(getComputedStyle(one).backgroundColor);
        if (colour.length === 3 || colour[3] === 1) return colour;
      }
      return [255, 255, 255];
    };
    const wrong = [];
    for (const element of document.querySelectorAll("main *, header *, footer *")) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!own || element.closest("[disabled], .unseen, noscript, svg:has(image)") || !element.getClientRects().length) continue;
      const style = getComputedStyle(element);
      const [a, b] = [light(parse(element instanceof SVGElement ? style.fill : style.color)), light(behind(element))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < 4.5) wrong.push(`${element.tagName} ${element.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
    }
    return wrong.slice(0, 5);
  },

  // Controls, links and pictures without a name, ids that stand twice, headings that skip a level, heads of tables without
  // a scope, and targets that a finger misses (WCAG 2.2, 2.5.8: 24 pixels; links in a line of text are exempt).
  faults: () => {
    const wrong = [];
    const shown = (element) => element.getClientRects().length && !element.closest("noscript");
    const all = (selector) => [...document.querySelectorAll(selector)].filter(shown);
    const fault = (what, element) => wrong.push(`${what}: ${element.outerHTML.slice(0, 90)}`);
    const named = (element) =>
      [element.getAttribute("aria-label"), element.textContent, element.title, ...[...(element.labels ?? [])].map((one) => one.textContent)]
        .concat([...element.querySelectorAll("img[alt]")].map((one) => one.alt))
        .some((text) => text?.trim());
    if (!document.documentElement.lang) wrong.push("no language");
    if (!document.title.trim()) wrong.push("no title");
    for (const name of ["viewport", "color-scheme"]) if (!document.querySelector(`meta[name=${name}]`)) wrong.push(`no ${name}`);
    if (document.querySelectorAll("main").length !== 1) wrong.push("not one main");
    if (all("h1").length !== 1) wrong.push(`${all("h1").length} h1`);
    for (const element of all("a[href], button, summary")) if (!named(element)) fault("no name", element);
    for (const element of all("input, select, textarea")) {
      const text = element.getAttribute("aria-label") ?? [...(element.labels ?? [])].map((one) => one.textContent).join("");
      if (!text.trim()) fault("no label", element);
    }
    for (const element of document.querySelectorAll("img:not([alt])")) fault("no alt", element);
    for (const element of all("img")) if (!element.getAttribute("width")) fault("moves the page when it comes", element);
    for (const element of all("svg:not([aria-hidden])")) if (!element.getAttribute("aria-label")) fault("no name", element);
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) wrong.push(`id ${id} twice`);
    for (const element of document.querySelectorAll("[aria-activedescendant], [aria-labelledby], [aria-describedby], [for]"))
      for (const name of ["aria-activedescendant", "aria-labelledby", "aria-describedby", "for"])
        for (const id of (element.getAttribute(name) ?? "").split(" ").filter(Boolean)) if (!ids.includes(id)) fault(`no element ${id}`, element);
    let level = 0;
    for (const head of all("h1, h2, h3, h4, h5, h6")) {
      const own = Number(head.tagName[1]);
      if (own > level + 1) fault(`heading after level ${level}`, head);
      level = own;
    }
    for (const cell of all("table th")) if (!cell.scope) fault("no scope", cell);
    for (const element of all("button, select, summary, input:not([type=radio])")) {
      const box = (element.closest("label") ?? element).getBoundingClientRect();
      if (box.height < 24 || box.width < 24) fault(`${box.width.toFixed()} x ${box.height.toFixed()} pixels`, element);
    }
    return wrong.slice(0, 8);
  },
})
