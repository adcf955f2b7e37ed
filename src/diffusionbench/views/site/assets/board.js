"use strict";
// The leaderboard: sorts, filters, and keeps what is shown in the address. Rows come from JSON, cells as text.
(() => {
  const data = JSON.parse(document.getElementById("board-data").textContent);
  const byId = (id) => document.getElementById(id);
  const state = { set: data.sets[0].key, sort: "place", down: false, query: "", family: "", kind: "", columns: "headline" };
  const DEFAULTS = { ...state };
  let rows = [];
  let heads = [];

  const setNow = () => data.sets.find((one) => one.key === state.set);

  function text(name, content, className = "") {
    const made = document.createElement(name);
    made.textContent = content;
    if (className) made.className = className;
    return made;
  }

  const filled = (now) => new Set(now.rows.flatMap((row) => row.cells.flatMap((cell, i) => (cell ? [now.columns[i].id] : []))));

  // Ids of the headline columns that some row fills; all headline ones where none is filled.
  function usual(now) {
    const headline = now.columns.filter((column) => column.headline).map((column) => column.id);
    const held = filled(now);
    return headline.some((id) => held.has(id)) ? headline.filter((id) => held.has(id)) : headline;
  }

  // Ids of the columns that are shown: the usual ones, all, or those that the reader chose.
  function chosen(now) {
    const ids = now.columns.map((column) => column.id);
    if (state.columns === "all") return new Set(ids);
    const named = state.columns.split(" ").filter((id) => ids.includes(id));
    return new Set(named.length ? named : usual(now));
  }

  // What a column shows and sorts by; `better` false means small values come first.
  function columns(now) {
    const wanted = chosen(now);
    const shown = now.columns.map((column, index) => ({ ...column, index })).filter((one) => wanted.has(one.id));
    const rank = (id, title, read, show) => ({ id, title, better: false, read, show });
    const plain = (value) => (value === null ? "–" : String(Number(value.toFixed(1))));
    return [
      rank("place", "Place", (row) => row.place, (row) => text("span", plain(row.place))),
      { id: "name", title: "Method", words: true, read: (row) => row.title.toLowerCase(), show: nameCell },
      { id: "family", title: "Family", words: true, read: (row) => data.families[row.family].title, show: (row) => text("span", data.families[row.family].title) },
      ...(now.kinds > 1 ? [{ id: "kind", title: "Kind", words: true, read: (row) => row.kind, show: (row) => text("span", row.kind) }] : []),
      ...shown.map((one) => ({ ...one, read: (row) => row.cells[one.index]?.[0] ?? null, show: (row) => valueCell(row.cells[one.index]) })),
      ...now.axes.map((axis, i) => rank(`rank:${axis}`, `Rank, ${axis.replaceAll("_", " ")}`, (row) => row.axisRanks[i], (row) => text("span", plain(row.axisRanks[i])))),
      rank("mean", "Mean rank [95\u00a0%]", (row) => row.mean, (row) => text("span", plain(row.mean) + (row.interval ? ` [${row.interval.map((end) => end.toFixed(1)).join(", ")}]` : ""))),
      rank("places", "Places, one metric dropped", (row) => row.places?.[0] ?? null, (row) => text("span", row.places ? row.places.map(plain).join("–") : "–")),
      { id: "pareto", title: "Pareto front", better: true, read: (row) => (row.pareto ? 1 : row.mean === null ? null : 0), show: (row) => text("span", row.pareto ? "yes" : "") },
    ];
  }

  function nameCell(row) {
    const span = document.createElement("span");
    const link = text("a", row.title);
    link.href = row.page;
    const mark = axes.node("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true", class: "mark-cell" });
    mark.append(axes.symbol(data.families[row.family]));
    span.append(mark, link);
    span.title = row.name;
    return span;
  }

  function valueCell(cell) {
    if (!cell) return text("span", "–");
    const link = text("a", cell[1], cell[3] ? "doubt" : "");
    link.href = cell[2];
    if (cell[3]) link.title = cell[3];
    return link;
  }

  function listedItem([title, page, values, reason]) {
    const item = text("li", `: ${values}: ${reason}`);
    const link = text("a", title);
    link.href = page;
    item.prepend(link);
    return item;
  }

  function build() {
    const now = setNow();
    byId("about-set").textContent = now.about;
    byId("notes").replaceChildren(...[...now.notes, ...now.doubts].map((line) => text("li", line)));
    byId("listed").replaceChildren(...now.listed.map(listedItem));
    if (now.unlisted) byId("listed").append(text("li", `and ${now.unlisted} more, in the CSV of the data page`));
    byId("listed-box").hidden = !now.listed.length;
    document.querySelectorAll('input[name="set"]').forEach((input) => (input.checked = input.value === state.set));
    const families = [...new Set(now.rows.map((row) => data.families[row.family].title))].sort();
    if (!families.includes(state.family)) state.family = "";
    byId("family").replaceChildren(new Option("all", ""), ...families.map((name) => new Option(name, name)));
    for (const name of ["query", "family", "kind"]) byId(name).value = state[name];
    buildChooser(now);
    byId("kind-field").hidden = now.kinds < 2;
    heads = columns(now);
    if (!heads.some((head) => head.id === state.sort)) [state.sort, state.down] = ["place", false];
    byId("head").replaceChildren(...heads.map(headCell));
    const best = heads.map((head) => bestOf(head, now));
    rows = now.rows.map((row) => ({ ...row, element: rowElement(row, best), words: `${row.title} ${row.name}`.toLowerCase() }));
    show();
  }

  function buildChooser(now) {
    const wanted = chosen(now);
    const choose = (ids) => {
      state.columns = ids.join() === usual(now).join() ? "headline" : ids.length === now.columns.length ? "all" : ids.join(" ");
      build();
    };
    const held = filled(now);
    const items = now.columns.map((column) => {
      const item = text("label", ` ${column.title}${held.has(column.id) ? "" : " (empty)"}`);
      const box = Object.assign(document.createElement("input"), { type: "checkbox", value: column.id, checked: wanted.has(column.id) });
      box.addEventListener("change", () => {
        if (!wanted.delete(column.id)) wanted.add(column.id);
        choose(now.columns.map((one) => one.id).filter((id) => wanted.has(id)));
      });
      item.prepend(box);
      return item;
    });
    byId("columns").replaceChildren(...items);
    byId("columns-count").textContent = `${wanted.size} of ${now.columns.length}`;
    byId("columns-usual").onclick = () => choose(usual(now));
    byId("columns-all").onclick = () => choose(now.columns.map((column) => column.id));
  }

  function headCell(head) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.dataset.column = head.id;
    cell.className = head.words ? head.id : "number";
    const arrow = head.axis && head.better !== null ? (head.better ? "\u00a0↑" : "\u00a0↓") : "";
    const button = text("button", head.title + arrow);
    button.type = "button";
    button.addEventListener("click", () => {
      state.down = state.sort === head.id && !state.down;
      state.sort = head.id;
      show();
    });
    cell.append(button);
    return cell;
  }

  // The best value of a column that has a better end, among those that take a place; null where it has fewer than two.
  function bestOf(head, now) {
    if (!head.axis || head.better === null || head.better === undefined) return null;
    const values = now.rows.map(head.read).filter((value) => value !== null);
    return values.length > 1 ? Math[head.better ? "max" : "min"](...values) : null;
  }

  function rowElement(row, best) {
    const element = document.createElement("tr");
    for (const [index, head] of heads.entries()) {
      const cell = document.createElement(head.id === "name" ? "th" : "td");
      if (head.id === "name") cell.scope = "row";
      else cell.className = head.words ? head.id : "number";
      cell.append(head.show(row));
      if (best[index] !== null && head.read(row) === best[index]) {
        cell.classList.add("best");
        cell.setAttribute("aria-description", "best in this column");
      }
      element.append(cell);
    }
    return element;
  }

  // Best first; rows without the value come last in either direction.
  function compare(head) {
    const sign = (head.better ? -1 : 1) * (state.down ? -1 : 1);
    return (a, b) => {
      const [left, right] = [head.read(a), head.read(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      return sign * (head.words ? left.localeCompare(right) : left - right);
    };
  }

  function show() {
    const head = heads.find((one) => one.id === state.sort);
    const query = state.query.trim().toLowerCase();
    const kept = rows.filter(
      (row) => row.words.includes(query) && (!state.family || data.families[row.family].title === state.family) && (!state.kind || row.kind === state.kind),
    );
    byId("body").replaceChildren(...kept.sort(compare(head)).map((row) => row.element));
    fit();
    byId("count").textContent = `${kept.length} of ${rows.length} rows.`;
    for (const cell of byId("head").children) {
      if (cell.dataset.column === state.sort) {
        const falling = Boolean(head.better) !== state.down;
        cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
      } else cell.removeAttribute("aria-sort");
    }
    const words = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (value !== DEFAULTS[name]) words.set(name, value === true ? "1" : value);
    const wanted = words.size ? `#${words}` : "";
    if (location.hash !== wanted) history.replaceState(null, "", wanted || location.pathname + location.search);
  }

  function fit() {
    const box = document.querySelector(".board");
    box.classList.remove("fits");
    box.classList.toggle("fits", box.scrollWidth <= box.clientWidth);
  }

  function readAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    Object.assign(state, DEFAULTS);
    for (const name of Object.keys(state)) if (words.has(name)) state[name] = name === "down" ? words.get(name) === "1" : words.get(name);
    // Links of before the boards were declared name the set of records.
    const known = data.sets.find((one) => one.key === state.set) ?? data.sets.find((one) => one.key.startsWith(`${state.set}-`));
    state.set = known?.key ?? DEFAULTS.set;
  }

  for (const input of document.querySelectorAll('input[name="set"]')) {
    input.addEventListener("change", () => {
      state.set = input.value;
      build();
    });
  }
  for (const name of ["query", "family", "kind"]) {
    byId(name).addEventListener("input", (event) => {
      state[name] = event.target.value;
      show();
    });
  }
  addEventListener("resize", fit);
  addEventListener("hashchange", () => {
    readAddress();
    build();
  });
  readAddress();
  build();
})();
