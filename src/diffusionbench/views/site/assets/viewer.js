"use strict";
(() => {
  const cards = JSON.parse(document.getElementById("data").textContent);
  const grid = document.getElementById("cards");
  const large = document.getElementById("large");
  const form = document.getElementById("filters");
  const STEP = 60;
  let shown = [], drawn = 0, current = -1;

  function node(name, attributes = {}, ...children) {
    const made = name.startsWith("svg:")
      ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function picture(image, alt) {
    if (!image.src) return node("div", { class: "absent" }, "no image");
    const { width, height } = image;
    const small = Math.max(width, height) <= 64;
    const drawing = node("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": alt, class: small ? "small" : "" });
    drawing.append(node("svg:image", { href: image.src, width, height }));
    const size = Math.max(width, height) / 24;
    for (const [x0, y0, x1, y1, label, score] of image.boxes) {
      const at = { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0) };
      drawing.append(node("svg:rect", { ...at, class: "under" }), node("svg:rect", at));
      const words = label + (typeof score === "number" ? ` ${score.toFixed(2)}` : "");
      drawing.append(node("svg:text", { x: x0 + size / 4, y: Math.max(size, y0 + size), "font-size": size }, words));
    }
    return drawing;
  }

  function images(card) {
    return node("div", { class: "images" }, ...card.images.map((image) => {
      const figure = node("figure", {}, picture(image, [card.title, image.name, card.text].filter(Boolean).join(", ")));
      if (image.name) figure.append(node("figcaption", {}, image.name));
      return figure;
    }));
  }

  function verdict(card) {
    const kind = ["right", "wrong"].includes(card.verdict) ? ` ${card.verdict}` : "";
    const score = typeof card.score === "number" && !kind ? ` (${Number(card.score.toPrecision(4))})` : "";
    return node("p", { class: `verdict${kind}` }, card.verdict + score);
  }

  function answers(card) {
    if (!card.answers.length) return "";
    const head = node("tr", {}, ...["question", "answer", "probability", "reason"].map((word) => node("th", { scope: "col" }, word)));
    const rows = card.answers.map(([question, answer, odds, reason]) => node("tr", {},
      ...[question, answer ?? "", typeof odds === "number" ? odds.toFixed(3) : "", reason ?? ""].map((text) => node("td", {}, String(text)))));
    return node("div", { class: "scroll" }, node("table", {}, node("thead", {}, head), node("tbody", {}, ...rows)));
  }

  function open(index) {
    const card = shown[index];
    if (!card) return;
    const close = node("button", { type: "button" }, "Close");
    close.addEventListener("click", () => large.close());
    const facts = node("dl", {}, ...card.facts.flatMap(([name, text]) => [node("dt", {}, name), node("dd", {}, text)]));
    large.replaceChildren(node("h2", {}, card.title), close, verdict(card), node("p", {}, card.text), images(card), answers(card), facts);
    if (!large.open) large.showModal();
  }

  function select(index) {
    if (!shown.length) return;
    const next = Math.max(0, Math.min(index, shown.length - 1));
    while (next >= drawn) more();
    grid.children[current]?.removeAttribute("aria-current");
    current = next;
    const chosen = grid.children[current];
    chosen.setAttribute("aria-current", "true");
    chosen.scrollIntoView({ block: "nearest" });
    if (large.open) open(current);
  }

  function more() {
    const next = shown.slice(drawn, drawn + STEP).map((card, place) => {
      const index = drawn + place;
      const because = card.facts.filter(([name]) => name === "because").slice(0, 2).map(([, text]) => node("p", {}, text));
      const made = node("article", { "data-index": index }, images(card), node("h2", {}, card.title), verdict(card),
        ...(card.text ? [node("p", {}, card.text)] : []), ...because);
      made.addEventListener("click", () => { select(index); open(index); });
      return made;
    });
    grid.append(...next);
    drawn += next.length;
  }

  function field(name, label, options) {
    const control = options
      ? node("select", { name }, ...options.map(([value, words]) => node("option", { value }, words)))
      : node("input", { name, type: "search" });
    form.append(node("label", {}, label, control));
    return control;
  }

  function counted(key) {
    const numbers = new Map();
    for (const card of cards) numbers.set(card[key], (numbers.get(card[key]) ?? 0) + 1);
    return [["", `all (${cards.length})`], ...[...numbers].map(([value, number]) => [value, `${value || "none"} (${number})`])];
  }

  const verdicts = field("verdict", "Verdict", counted("verdict"));
  const tasks = field("task", "Task", counted("task"));
  const order = field("order", "Order", [["", "as in the record"], ["up", "lowest value first"], ["down", "highest value first"]]);
  const search = field("search", "Search");
  if (!cards.some((card) => typeof card.score === "number")) order.parentElement.hidden = true;
  grid.classList.toggle("paired", cards.some((card) => card.images.length > 1));

  function filter() {
    const words = search.value.toLowerCase();
    shown = cards.filter((card) => (!verdicts.value || card.verdict === verdicts.value)
      && (!tasks.value || card.task === tasks.value)
      && (!words || [card.title, card.text, ...card.facts.flat(), ...card.answers.flat()].join(" ").toLowerCase().includes(words)));
    const sign = { up: 1, down: -1 }[order.value];
    if (sign) shown = shown.filter((card) => typeof card.score === "number").sort((a, b) => sign * (a.score - b.score));
    grid.replaceChildren();
    drawn = 0;
    current = -1;
    more();
    document.getElementById("count").textContent = `${shown.length} of ${cards.length} cards`;
  }

  function columns() {
    const top = grid.children[0]?.offsetTop;
    return Math.max(1, [...grid.children].filter((one) => one.offsetTop === top).length);
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select")) {
      if (event.key === "Escape") grid.focus();
      return;
    }
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
    if (event.key in steps) select(current < 0 ? 0 : current + steps[event.key]);
    else if (event.key === "Enter" && !large.open && current >= 0) open(current);
    else if (event.key === "/") search.focus();
    else if (event.key.toLowerCase() === "v" || event.key.toLowerCase() === "t") {
      const control = event.key.toLowerCase() === "v" ? verdicts : tasks;
      control.selectedIndex = (control.selectedIndex + 1) % control.options.length;
      filter();
    } else return;
    event.preventDefault();
  });
  new IntersectionObserver((seen) => { if (seen[0].isIntersecting && drawn < shown.length) more(); }, { rootMargin: "800px" })
    .observe(document.body.appendChild(node("div", { id: "end" })));
  filter();
})();
