"use strict";
// Shows the record that the address names: record.html#ID. Pages in the file system may not fetch, so records come as
// scripts, some dozens in each, sorted by id; the page knows the first id of every file. All content is set as text.
(() => {
  const { files } = JSON.parse(document.getElementById("page-data").textContent);
  const main = document.getElementById("main");
  const home = document.getElementById("record");
  const status = document.getElementById("status");
  const siteTitle = document.title.replace(/^.* - /, "");
  const known = new Map();

  function make(name, content = [], attributes = {}) {
    const made = document.createElement(name);
    made.append(...[content].flat());
    for (const [key, value] of Object.entries(attributes)) if (value) made.setAttribute(key, value);
    return made;
  }

  // A text, or a text with a link.
  const linked = (cell) => (Array.isArray(cell) ? make("a", cell[0], { href: cell[1], rel: cell[1].includes(":") && "noopener noreferrer" }) : cell);
  const items = (lines) => lines.map((line) => make("li", line));

  function table({ heads, rows }) {
    const head = heads.map(([title, look]) => make("th", title, { scope: "col", class: look }));
    const body = rows.map(([first, ...cells]) =>
      make("tr", [make("th", linked(first), { scope: "row" }), ...cells.map((cell, i) => make("td", linked(cell), { class: heads[i + 1][1] }))]),
    );
    return make("div", make("table", [make("thead", make("tr", head)), make("tbody", body)]), { class: "scroll" });
  }

  // By kind of block what draws its content.
  const BLOCKS = {
    crumbs: ([method, id]) => make("p", [linked(method), ` / ${id}`], { class: "crumbs" }),
    h1: (title) => make("h1", title),
    h2: (title) => make("h2", title),
    lead: ({ tags, text }) => make("p", [...tags.flatMap(([tag, look]) => [make("span", tag, { class: `tag ${look}` }), " "]), text], { class: "lead" }),
    facts: (facts) => make("dl", facts.map(([name, fact]) => make("div", [make("dt", name), make("dd", linked(fact))])), { class: "facts" }),
    table,
    text: (text) => make("p", text),
    about: (text) => make("p", text, { class: "about" }),
    code: (text) => make("pre", text),
    list: (lines) => make("ul", items(lines)),
    picture: ({ src, alt, width, height }) => make("img", [], { class: "samples", src, alt, width, height }),
    prompts: (lines) => make("details", [make("summary", "Their prompts, row by row"), make("ol", items(lines))]),
  };

  function show() {
    const id = location.hash.slice(1);
    const path = files.filter(([first]) => first <= id).at(-1)?.[1];
    const blocks = known.get(id);
    home.replaceChildren(...(blocks ?? []).map(([kind, content]) => BLOCKS[kind](content)));
    status.textContent = "";
    document.title = `${home.querySelector("h1")?.textContent ?? "Record"} - ${siteTitle}`;
    if (blocks) return;
    if (!path || known.has(path)) {
      home.append(make("h1", "Record"));
      status.append(id ? `There is no record ${id} here. ` : "The address names no record. ", linked(["All methods and their records", "methods.html"]));
      return;
    }
    status.textContent = "Loading …";
    known.set(path, null);
    const script = make("script", [], { src: path });
    // A file that is missing names no record either.
    script.addEventListener("load", show);
    script.addEventListener("error", show);
    document.head.append(script);
  }

  window.addRecords = (records) => records.forEach(([id, blocks]) => known.set(id, blocks));
  // The target of the skip link would take the place of the record in the address.
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.tabIndex = -1;
    main.focus();
  });
  addEventListener("hashchange", show);
  show();
})();
