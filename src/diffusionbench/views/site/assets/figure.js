"use strict";
// Figure 1: draws the panels, keeps the state (score set, guidance, families, selection) in the address, and hands
// every change to `update`, which recomputes the statistics of all panels at once.
(() => {
  const data = JSON.parse(document.getElementById("figure-data").textContent);
  const byId = (id) => document.getElementById(id);
  const families = new Map(data.families.map((family) => [family.key, family]));
  // What can be drawn beside the points, and whether it is at first.
  const LAYERS = { band: true, front: true, lines: true, labels: false };
  const state = { set: null, axis: "", guidance: "none", hidden: new Set(), chosen: null, box: null, layers: new Set() };
  let panels = [];
  let rows = new Map();
  let waiting = 0;

  const setNow = () => data.sets.find((one) => one.key === state.set);
  const view = () => (setNow().views[state.axis] ?? setNow().views[""])[state.guidance];
  const visible = (method) => !state.hidden.has(method.family);
  const picked = (method) => visible(method) && (state.chosen === null || state.chosen.has(method.name));
  const hiddenAtFirst = () => setNow().hidden;

  const layersAtFirst = () => Object.keys(LAYERS).filter((name) => LAYERS[name]);

  // --- The address -----------------------------------------------------------------------------------------------

  function address() {
    const words = new URLSearchParams();
    words.set("set", state.set);
    words.set("guidance", state.guidance);
    if (state.axis) words.set("x", state.axis);
    const layers = [...state.layers];
    if (layers.join() !== layersAtFirst().join()) words.set("show", layers.join(","));
    const hidden = [...state.hidden];
    words.set("hide", hidden.filter((key) => !key.includes(",")).join(","));
    for (const key of hidden) if (key.includes(",")) words.append("hide", key);
    if (state.chosen) for (const name of state.chosen) words.append("select", name);
    if (state.box) {
      const { panel, x, y } = state.box;
      words.set("box", [panel, ...x, ...y].map((part) => (part.toPrecision ? Number(part.toPrecision(6)) : part)).join(","));
    }
    return `#${words}`;
  }

  function readAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    const known = (list, name, fallback) => (list.includes(name) ? name : fallback);
    const sets = data.sets.map((one) => one.key);
    state.set = known(sets, words.get("set"), sets[0]);
    state.guidance = known(["none", "cfg"], words.get("guidance"), "none");
    state.axis = known(Object.keys(setNow().axes), words.get("x"), "");
    const layers = words.has("show") ? words.get("show").split(",") : layersAtFirst();
    state.layers = new Set(Object.keys(LAYERS).filter((name) => layers.includes(name)));
    const named = words.getAll("hide").flatMap((word) => (families.has(word) ? [word] : word.split(",")));
    state.hidden = new Set(words.has("hide") ? named.filter((key) => families.has(key)) : hiddenAtFirst());
    state.chosen = words.has("select") ? new Set(words.getAll("select").filter((name) => name)) : null;
    const [panel, ...edges] = (words.get("box") ?? "").split(",");
    const numbers = edges.map(Number);
    const whole = state.chosen && numbers.length === 4 && numbers.every(Number.isFinite);
    state.box = whole ? { panel, x: numbers.slice(0, 2), y: numbers.slice(2) } : null;
  }

  function keepAddress() {
    const wanted = address();
    byId("link").href = wanted;
    if (location.hash !== wanted) history.replaceState(null, "", wanted);
  }

  // --- Statistics of what is chosen ------------------------------------------------------------------------------

  function update({ settled = true } = {}) {
    const spoken = [];
    for (const panel of panels) spoken.push(updatePanel(panel));
    for (const [name, row] of rows) {
      const inside = picked(row.method);
      row.element.classList.toggle("off", !inside);
      row.box.checked = state.chosen !== null && state.chosen.has(name);
    }
    byId("reset").disabled = state.chosen === null;
    if (!settled) return;
    keepAddress();
    byId("live").textContent = spoken.join(". ");
    byId("commands").textContent = panels.map(command).join("\n");
  }

  function updatePanel(panel) {
    const inside = [];
    for (const mark of panel.marks) {
      const chosen = picked(mark.method);
      mark.element.classList.toggle("off", !chosen);
      mark.element.setAttribute("aria-selected", String(state.chosen !== null && chosen));
      if (chosen) inside.push(mark);
    }
    const found = stats.summary(inside.map((mark) => mark.x), inside.map((mark) => mark.y));
    panel.inside = inside;
    panel.show("n", String(found.n));
    panel.show("r", found.text.r);
    panel.show("fisher", found.text.interval);
    panel.show("line", found.text.line);
    const concealed = panel.marks.length === 0 && panel.data.points.length > 0;
    const low = inside.filter((mark) => mark.low).length;
    const floor = low > 1 ? `${low} of these methods are at the floor of this score, which does not order them` : null;
    panel.show("note", (concealed ? "every method here belongs to a hidden family" : found.note ?? floor) ?? "");
    drawLine(panel, found.line, inside);
    drawBand(panel, found.line, inside);
    drawFront(panel, inside);
    drawBox(panel);
    return `${panel.data.title}: r ${found.text.r}, interval ${found.text.interval}, ${found.n} points`;
  }

  function drawLine(panel, line, inside) {
    panel.line.toggleAttribute("hidden", line === null);
    if (line === null) return;
    const xs = inside.map((mark) => mark.x);
    const [low, high] = panel.range;
    for (const [i, end] of [Math.min(...xs), Math.max(...xs)].entries()) {
      // Where the line would leave the panel it ends at its edge.
      const y = Math.min(high, Math.max(low, line.intercept + line.slope * end));
      const x = y === line.intercept + line.slope * end ? end : (y - line.intercept) / line.slope;
      panel.line.setAttribute(`x${i + 1}`, panel.x.place(x));
      panel.line.setAttribute(`y${i + 1}`, panel.y.place(y));
    }
  }

  function drawBand(panel, line, inside) {
    const xs = inside.map((mark) => mark.x);
    const half = stats.band(xs, inside.map((mark) => mark.y));
    const shown = state.layers.has("band") && line !== null && half !== null;
    panel.band.toggleAttribute("hidden", !shown);
    if (!shown) return;
    const [from, to] = [Math.min(...xs), Math.max(...xs)];
    const places = Array.from({ length: 33 }, (_, i) => from + ((to - from) * i) / 32);
    // Where the band would leave the panel it ends at its edge.
    const edge = (value) => panel.y.place(Math.min(panel.range[1], Math.max(panel.range[0], value)));
    const side = (sign) => places.map((x) => `${panel.x.place(x)},${edge(line.intercept + line.slope * x + sign * half(x))}`);
    panel.band.setAttribute("points", [...side(1), ...side(-1).reverse()].join(" "));
  }

  function drawFront(panel, inside) {
    const better = [view().x.better, panel.data.better];
    const shown = state.layers.has("front") && inside.length > 1 && !better.includes(null);
    panel.front.toggleAttribute("hidden", !shown);
    if (!shown) return;
    const order = stats.front(inside.map((mark) => mark.x), inside.map((mark) => mark.y), better);
    const corners = [];
    for (const index of order) {
      const { at } = inside[index];
      // Steps: between two points of the front lies what either of them beats.
      if (corners.length) corners.push(better[0] ? `${corners.at(-1).split(",")[0]},${at.y}` : `${at.x},${corners.at(-1).split(",")[1]}`);
      corners.push(`${at.x},${at.y}`);
    }
    panel.front.setAttribute("points", corners.join(" "));
  }

  function drawBox(panel) {
    const mine = state.box !== null && state.box.panel === panel.data.key;
    panel.box.toggleAttribute("hidden", !mine);
    if (!mine) return;
    const [left, right] = state.box.x.map(panel.x.place);
    const [bottom, top] = state.box.y.map(panel.y.place);
    const edges = { x: Math.min(left, right), y: Math.min(top, bottom), width: Math.abs(right - left), height: Math.abs(top - bottom) };
    for (const [name, value] of Object.entries(edges)) panel.box.setAttribute(name, value);
  }

  // The command that prints the same numbers for the same points.
  function command(panel) {
    const words = ["diffusionbench", "correlate", "--set", state.set, "--guidance", state.guidance];
    words.push("--x", view().x.key, "--y", panel.data.key);
    if (panel.data.flagged) words.push("--flagged");
    const shown = data.families.filter((family) => !state.hidden.has(family.key)).map((family) => family.key);
    const plain = shown.every((key) => families.get(key).known) && (shown.includes("e2e-vae") || !shown.includes("vae"));
    if (state.chosen === null && plain && shown.length) words.push("--family", shown.join(","));
    else {
      const names = panel.inside.flatMap(({ method, record }) => (method.name.includes(",") ? [method.record, record] : [method.name]));
      if (names.length) words.push("--select", names.join(","));
      else return `# ${panel.data.title}: no point`;
    }
    return words.map((word) => (/^[\w.,@+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
  }

  // --- Changes ---------------------------------------------------------------------------------------------------

  function choose(names, box = null, settled = true) {
    state.chosen = names;
    state.box = box;
    update({ settled });
  }

  function toggle(method) {
    const names = new Set(state.chosen ?? []);
    if (!names.delete(method.name)) names.add(method.name);
    choose(names.size ? names : null);
  }

  function reset() {
    choose(null);
  }

  function drag(panel, from, to, settled) {
    const xs = [panel.x.value(from.x), panel.x.value(to.x)].sort((a, b) => a - b);
    const ys = [panel.y.value(from.y), panel.y.value(to.y)].sort((a, b) => a - b);
    const within = (value, [low, high]) => low <= value && value <= high;
    const inside = panel.marks.filter((mark) => within(mark.x, xs) && within(mark.y, ys));
    choose(new Set(inside.map((mark) => mark.method.name)), { panel: panel.data.key, x: xs, y: ys }, settled);
  }

  function again(box) {
    const panel = panels.find((one) => one.data.key === box.panel);
    if (!panel) return;
    const corner = (i) => ({ x: panel.x.place(box.x[i]), y: panel.y.place(box.y[i]) });
    drag(panel, corner(0), corner(1), true);
  }

  // --- Pointer and keyboard --------------------------------------------------------------------------------------

  function place(panel, event) {
    const edge = panel.svg.getBoundingClientRect();
    return { x: event.clientX - edge.left, y: event.clientY - edge.top };
  }

  function nearest(panel, at, reach) {
    let found = null;
    let least = reach * reach;
    for (const mark of panel.marks) {
      const far = (mark.at.x - at.x) ** 2 + (mark.at.y - at.y) ** 2;
      if (far <= least) [found, least] = [mark, far];
    }
    return found;
  }

  function listen(panel) {
    let start = null;
    let dragging = false;
    panel.svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      start = place(panel, event);
      dragging = false;
      panel.svg.setPointerCapture(event.pointerId);
    });
    panel.svg.addEventListener("pointermove", (event) => {
      const at = place(panel, event);
      if (start === null) return hover(panel, nearest(panel, at, 16));
      dragging ||= Math.hypot(at.x - start.x, at.y - start.y) > 4;
      if (!dragging) return;
      hover(null, null);
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => start !== null && drag(panel, start, at, false));
    });
    panel.svg.addEventListener("pointerup", (event) => {
      if (start === null) return;
      const at = place(panel, event);
      const from = start;
      start = null;
      if (dragging) return drag(panel, from, at, true);
      const mark = nearest(panel, at, event.pointerType === "mouse" ? 10 : 18);
      if (mark) toggle(mark.method);
      hover(panel, mark);
    });
    panel.svg.addEventListener("pointercancel", () => {
      start = null;
      if (dragging) update();
    });
    // A finger leaves with every tap; what it named stays until the next one.
    panel.svg.addEventListener("pointerleave", (event) => start === null && event.pointerType === "mouse" && hover(null, null));
    panel.svg.addEventListener("dblclick", reset);
    panel.svg.addEventListener("keydown", (event) => onKey(panel, event));
    panel.svg.addEventListener("blur", () => hover(null, null));
  }

  function onKey(panel, event) {
    const order = panel.marks;
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    if (event.key === "Escape") reset();
    else if (event.key === "Home") panel.current = 0;
    else if (event.key === "End") panel.current = order.length - 1;
    else if (event.key in steps) panel.current = Math.max(0, Math.min(order.length - 1, (panel.current ?? -steps[event.key]) + steps[event.key]));
    else if ((event.key === " " || event.key === "Enter") && order[panel.current]) toggle(order[panel.current].method);
    else return;
    event.preventDefault();
    const mark = order[panel.current];
    if (!mark) return;
    panel.svg.setAttribute("aria-activedescendant", mark.element.id);
    hover(panel, mark);
  }

  function hover(panel, mark) {
    const tip = byId("tip");
    tip.hidden = !mark;
    for (const one of panels) {
      const same = mark && one.marks.find((other) => other.method === mark.method);
      one.ring.toggleAttribute("hidden", !same);
      if (same) one.ring.setAttribute("transform", `translate(${same.at.x},${same.at.y})`);
    }
    if (!mark) return;
    tip.replaceChildren(...tipLines(mark.method));
    const edge = panel.svg.getBoundingClientRect();
    const left = edge.left + mark.at.x + 14;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const above = edge.top + mark.at.y - tip.offsetHeight - 12;
    tip.style.left = `${window.scrollX + Math.max(8, Math.min(left, room))}px`;
    tip.style.top = `${window.scrollY + (above < 4 ? edge.top + mark.at.y + 16 : above)}px`;
  }

  function tipLines(method) {
    const head = document.createElement("strong");
    head.textContent = method.title;
    const kind = document.createElement("span");
    kind.className = "kind";
    kind.textContent = families.get(method.family).title;
    const list = document.createElement("dl");
    const runs = method.runs > 1 ? ` (mean of ${method.runs}, sd ${method.sd.toPrecision(2)})` : "";
    for (const [name, value] of [[view().x.title, method.shown + runs], ...panels.map((panel) => [panel.data.title, panel.values.get(method) ?? "–"])]) {
      list.append(text("dt", name), text("dd", value));
    }
    return [head, kind, list];
  }

  function text(name, content) {
    const made = document.createElement(name);
    made.textContent = content;
    return made;
  }

  // --- Drawing ---------------------------------------------------------------------------------------------------

  function draw() {
    const now = view();
    document.querySelectorAll('input[name="set"]').forEach((input) => (input.checked = input.value === state.set));
    document.querySelectorAll('input[name="guidance"]').forEach((input) => (input.checked = input.value === state.guidance));
    byId("about-set").textContent = setNow().about;
    if (!(state.axis in setNow().axes)) state.axis = "";
    const options = Object.entries(setNow().axes).map(([key, title]) => new Option(title, key));
    byId("axis").replaceChildren(...options);
    byId("axis").value = state.axis;
    byId("axis-field").hidden = options.length < 2;
    document.querySelectorAll('input[name="layer"]').forEach((input) => (input.checked = state.layers.has(input.value)));
    drawLegend(now);
    const home = byId("panels");
    const slots = [...home.children];
    for (const [i, slot] of slots.entries()) slot.hidden = i >= now.panels.length;
    byId("undrawn").textContent = now.undrawn && `${now.panels.length ? "Left out" : "There is nothing to draw"}: ${now.undrawn}`;
    panels = now.panels.map((one, i) => drawPanel(one, now, slots[i]));
    drawTable(now);
    drawLeftOut(now);
    update();
  }

  function drawLegend(now) {
    const counts = new Map();
    for (const method of now.methods) counts.set(method.family, (counts.get(method.family) ?? 0) + 1);
    for (const button of document.querySelectorAll("#legend button")) {
      const count = counts.get(button.dataset.family) ?? 0;
      button.setAttribute("aria-pressed", String(!state.hidden.has(button.dataset.family)));
      button.parentElement.hidden = count === 0;
      button.querySelector(".count").textContent = count;
    }
  }

  function drawPanel(one, now, slot) {
    const svg = slot.querySelector("svg");
    const width = Math.max(240, Math.round(svg.clientWidth));
    const height = Math.round(Math.max(220, Math.min(330, width * 0.64)));
    const edge = { left: 58, right: width - 10, top: 10, bottom: height - 40 };
    const points = one.points
      .map(([index, y, shown, record, sd, low]) => ({ method: now.methods[index], x: now.methods[index].x, y, shown, record, sd, low }))
      .filter((point) => visible(point.method))
      .sort((a, b) => a.x - b.x || a.y - b.y);
    // One horizontal axis for all panels: from every visible method, not only those of this panel.
    const xs = now.methods.filter(visible).flatMap(({ x, sd }) => [x - sd, x + sd]);
    const x = axes.scale(xs, edge.left, edge.right, Math.max(4, Math.floor(width / 55)));
    const y = axes.scale(points.flatMap((point) => [point.y - point.sd, point.y + point.sd]), edge.bottom, edge.top, 6);
    const fresh = svg.cloneNode(false);
    svg.replaceWith(fresh);
    fresh.setAttribute("viewBox", `0 0 ${width} ${height}`);
    fresh.setAttribute("height", height);
    fresh.removeAttribute("aria-activedescendant");
    fresh.setAttribute("aria-label", `${one.title} against ${now.x.title}. Arrow keys move between points, space selects, escape resets.`);
    fresh.append(frame(x, y, edge, now.x.axis, one.axis));
    const line = axes.node("line", { class: "fit" });
    const box = axes.node("rect", { class: "box" });
    const ring = axes.node("circle", { class: "ring", r: 9, hidden: "" });
    const band = axes.node("polygon", { class: "band" });
    const front = axes.node("polyline", { class: "front" });
    fresh.append(band, box, front, line);
    const beyond = [];
    if (state.layers.has("lines")) fresh.append(baselines(one, now, x, y, edge, beyond));
    const marks = points.map((point, i) => {
      const at = { x: x.place(point.x), y: y.place(point.y) };
      const element = axes.symbol(families.get(point.method.family));
      element.setAttribute("transform", `translate(${at.x},${at.y})`);
      element.id = `${one.key}-${i}`;
      element.dataset.name = point.method.name;
      element.setAttribute("role", "option");
      element.setAttribute("aria-label", `${point.method.title}: ${now.x.title} ${point.method.shown}, ${one.title} ${point.shown}`);
      if (point.low) {
        element.classList.add("low");
        element.setAttribute("aria-description", "at the floor of this score");
      }
      for (const [dx, dy] of [[point.method.sd, 0], [0, point.sd]]) {
        const ends = { x1: x.place(point.x - dx), x2: x.place(point.x + dx), y1: y.place(point.y - dy), y2: y.place(point.y + dy) };
        if (dx || dy) fresh.append(axes.node("line", { ...ends, class: "spread" }));
      }
      fresh.append(element);
      return { ...point, at, element };
    });
    fresh.append(ring);
    slot.dataset.panel = one.key;
    slot.querySelector("h3").textContent = one.title;
    slot.querySelector(".about").textContent = one.about;
    slot.querySelector(".seeds").textContent = one.seeds ?? "";
    slot.querySelector(".beyond").textContent = beyond.length ? `Baselines beyond this panel: ${beyond.join(", ")}` : "";
    const show = (name, value) => (slot.querySelector(`[data-stat="${name}"]`).textContent = value);
    const words = (shown, sd, low) => shown + (sd ? `, sd ${sd.toPrecision(2)}` : "") + (low ? ", at the floor" : "");
    const values = new Map(one.points.map(([index, , shown, , sd, low]) => [now.methods[index], words(shown, sd, low)]));
    const range = [y.value(edge.bottom), y.value(edge.top)];
    const panel = { data: one, svg: fresh, x, y, range, line, band, front, box, ring, marks, values, show, inside: [] };
    if (state.layers.has("labels")) drawLabels(panel, edge);
    listen(panel);
    return panel;
  }

  // Lines of what methods are held against; those that the panel has no room for go to `beyond`.
  function baselines(one, now, x, y, edge, beyond) {
    const group = axes.node("g", { class: "lines", "aria-hidden": "true" });
    let last = -Infinity;
    for (const [title, value, shown] of [...one.lines].sort((a, b) => b[1] - a[1])) {
      const at = y.place(value);
      if (at < edge.top || at > edge.bottom) beyond.push(`${title} ${shown}`);
      else {
        group.append(axes.node("line", { x1: edge.left, x2: edge.right, y1: at, y2: at }));
        last = Math.max(at - 3, last + 12);
        group.append(axes.node("text", { x: edge.right, y: last, "text-anchor": "end" }, title));
      }
    }
    for (const [title, value] of now.x.lines) {
      const at = x.place(value);
      if (at < edge.left || at > edge.right) continue;
      group.append(axes.node("line", { x1: at, x2: at, y1: edge.top, y2: edge.bottom }));
      group.append(axes.node("text", { transform: `translate(${at - 4},${edge.bottom - 4})rotate(-90)` }, title));
    }
    return group;
  }

  // Names beside the points, off their bars, where neither a point nor another name is; else none.
  function drawLabels(panel, edge) {
    const taken = panel.marks.map(({ at }) => [at.x - 6, at.y - 6, at.x + 6, at.y + 6]);
    const free = (box) => box[0] >= edge.left && box[2] <= edge.right && box[1] >= edge.top && box[3] <= edge.bottom && !taken.some((one) => box[0] < one[2] && one[0] < box[2] && box[1] < one[3] && one[1] < box[3]);
    for (const { at, method } of panel.marks) {
      const name = method.title.length > 22 ? `${method.title.slice(0, 21)}…` : method.title;
      const width = 6.3 * name.length;
      for (const [dx, dy] of [[8, -6], [8, 14], [-8 - width, -6], [-8 - width, 14]]) {
        const box = [at.x + dx, at.y + dy - 9, at.x + dx + width, at.y + dy + 2];
        if (!free(box)) continue;
        taken.push(box);
        panel.svg.insertBefore(axes.node("text", { x: box[0], y: at.y + dy, class: "label", "aria-hidden": "true" }, name), panel.ring);
        break;
      }
    }
  }

  function frame(x, y, edge, xTitle, yTitle) {
    const group = axes.node("g", { class: "axes", "aria-hidden": "true" });
    for (const value of x.values) {
      const at = x.place(value);
      group.append(axes.node("line", { x1: at, x2: at, y1: edge.top, y2: edge.bottom, class: "grid" }));
      group.append(axes.node("text", { x: at, y: edge.bottom + 16, "text-anchor": "middle" }, x.text(value)));
    }
    for (const value of y.values) {
      const at = y.place(value);
      group.append(axes.node("line", { x1: edge.left, x2: edge.right, y1: at, y2: at, class: "grid" }));
      group.append(axes.node("text", { x: edge.left - 7, y: at + 4, "text-anchor": "end" }, y.text(value)));
    }
    const middle = (edge.top + edge.bottom) / 2;
    group.append(axes.node("text", { x: (edge.left + edge.right) / 2, y: edge.bottom + 34, "text-anchor": "middle", class: "title" }, xTitle));
    group.append(axes.node("text", { transform: `translate(11,${middle})rotate(-90)`, "text-anchor": "middle", class: "title" }, yTitle));
    return group;
  }

  function drawTable(now) {
    const heads = ["Use", "Method", "Family", now.x.title, ...panels.map((panel) => panel.data.title)];
    byId("table-head").replaceChildren(...heads.map((head) => Object.assign(text("th", head), { scope: "col" })));
    rows = new Map();
    for (const method of now.methods.filter(visible).sort((a, b) => a.x - b.x)) {
      const element = document.createElement("tr");
      const box = Object.assign(document.createElement("input"), { type: "checkbox" });
      box.setAttribute("aria-label", `select ${method.title}`);
      box.addEventListener("change", () => toggle(method));
      const use = document.createElement("td");
      use.append(box);
      const head = Object.assign(document.createElement("th"), { scope: "row" });
      head.append(Object.assign(text("a", method.title), { href: method.page }));
      const family = text("td", families.get(method.family).title);
      const numbers = [method.shown, ...panels.map((panel) => panel.values.get(method) ?? "–")];
      element.append(use, head, family, ...numbers.map((value) => Object.assign(text("td", value), { className: "number" })));
      rows.set(method.name, { element, box, method });
    }
    byId("table-body").replaceChildren(...[...rows.values()].map((row) => row.element));
  }

  function drawLeftOut(now) {
    byId("left-out").replaceChildren(...now.leftOut.map((line) => text("li", line)));
  }

  // --- Start -----------------------------------------------------------------------------------------------------

  function start() {
    readAddress();
    for (const name of ["set", "guidance"]) {
      for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
        input.addEventListener("change", () => {
          const usual = [...state.hidden].sort().join() === [...hiddenAtFirst()].sort().join();
          state[name] = input.value;
          if (usual) state.hidden = new Set(hiddenAtFirst());
          state.box = null;
          draw();
        });
      }
    }
    byId("axis").addEventListener("input", (event) => {
      state.axis = event.target.value;
      state.box = null;
      draw();
    });
    for (const input of document.querySelectorAll('input[name="layer"]')) {
      input.addEventListener("change", () => {
        if (!state.layers.delete(input.value)) state.layers.add(input.value);
        state.layers = new Set(Object.keys(LAYERS).filter((name) => state.layers.has(name)));
        draw();
      });
    }
    for (const button of document.querySelectorAll("#legend button")) {
      button.addEventListener("click", () => {
        const family = button.dataset.family;
        if (!state.hidden.delete(family)) state.hidden.add(family);
        draw();
        // A family that appears inside the rectangle belongs to the selection.
        if (state.box) again(state.box);
      });
    }
    byId("reset").addEventListener("click", reset);
    addEventListener("hashchange", () => {
      readAddress();
      draw();
    });
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      draw();
    });
    draw();
  }

  start();
})();
