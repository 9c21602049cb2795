"use strict";
(function () {
  const root = document.documentElement, body = document.body;
  const all = (what, where) => Array.from((where || document).querySelectorAll(what));
  const at = (id) => document.getElementById(id);
  const list = at("index"), main = at("features"), field = at("search"), shown = at("shown");
  const entries = all("a", list).map((link) => ({
    link: link, row: link.parentNode, article: at(link.hash.slice(1)), words: null,
  }));

  function words(entry) {
    if (entry.words === null) entry.words = entry.article.textContent.toLowerCase();
    return entry.words;
  }
  function search() {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const entry of entries) {
      const number = entry.link.dataset.index;
      const hit = wanted.every((word) =>
        word.startsWith("#") ? number === word.slice(1) : words(entry).includes(word));
      entry.row.hidden = entry.article.hidden = !hit;
      count += hit ? 1 : 0;
    }
    shown.textContent = count.toLocaleString("en") + " of " + entries.length.toLocaleString("en");
  }
  function sort() {
    const [key, way] = at("sort").value.split(":");
    const value = (entry) => entry.link.dataset[key];
    entries.sort((a, b) => {
      const x = value(a), y = value(b);
      if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
      const order = key === "label" ? x.localeCompare(y) : x - y;
      return (way === "down" ? -order : order) || a.link.dataset.index - b.link.dataset.index;
    });
    for (const entry of entries) { list.append(entry.row); main.append(entry.article); }
  }
  function press(id, change) {
    const button = at(id);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      change(on);
    });
  }
  function table(figure) {
    const old = figure.querySelector("table");
    if (old) { old.remove(); return; }
    const counts = figure.dataset.n.split(",").map(Number);
    const low = Number(figure.dataset.lo), step = (Number(figure.dataset.hi) - low) / counts.length;
    const made = document.createElement("table");
    counts.forEach((count, i) => {
      const row = made.insertRow();
      for (const value of [low + i * step, low + (i + 1) * step]) {
        const cell = row.insertCell();
        cell.className = "num";
        cell.textContent = value.toPrecision(4);
      }
      const cell = row.insertCell();
      cell.className = "num";
      cell.textContent = count.toLocaleString("en");
    });
    figure.append(made);
  }
  function step(by) {
    const open = entries.filter((entry) => !entry.row.hidden);
    if (!open.length) return;
    const here = open.findIndex((entry) => entry.link.classList.contains("here"));
    const next = open[Math.min(open.length - 1, Math.max(0, here + by))];
    location.hash = next.link.hash;
  }
  function mark() {
    for (const entry of entries) entry.link.classList.toggle("here", entry.link.hash === location.hash);
  }

  let timer = 0;
  field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 200); });
  at("sort").addEventListener("change", sort);
  press("linear", (on) => body.classList.toggle("linear", on));
  press("breaks", (on) => body.classList.toggle("breaks", on));
  at("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  document.addEventListener("click", (event) => {
    const figure = event.target.closest("figure");
    if (figure && !event.target.closest("table")) table(figure);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "/") { event.preventDefault(); field.focus(); }
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
  });
  addEventListener("hashchange", mark);
  mark();
})();
