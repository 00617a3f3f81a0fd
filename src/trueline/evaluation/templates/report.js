"use strict";
// Sorting, filtering and switching boxes on and off. Without it the page shows the same cases, worst first.
(() => {
  const $ = (id) => document.getElementById(id);
  const list = $("cases");
  const cases = [...list.querySelectorAll(".case")].map((node, place) => ({
    node, place,
    scores: JSON.parse(node.dataset.scores),
    text: node.querySelector(".prompt").textContent.toLowerCase(),
  }));
  const methods = JSON.parse(list.dataset.methods);
  const mean = (values) => values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  const minus = (text) => text.replace("-", "\u2212");

  // The number a case is sorted by: of one method, the mean of all, or the difference of two ("1-0").
  function score(one, metric, whose) {
    const values = one.scores[metric] || {};
    if (whose === "") return mean(Object.values(values));
    const [value, against] = whose.split("-").map((i) => values[methods[i]] ?? null);
    if (against === undefined) return value;
    return value === null || against === null ? null : value - against;
  }

  function sort() {
    if (!$("metric")) return;
    const metric = $("metric").value, { lower, places } = $("metric").selectedOptions[0].dataset;
    const sign = lower === "1" ? -1 : 1;  // lower is better: the largest is the worst
    const keyed = cases.map((one) => ({ one, key: score(one, metric, $("whose").value) }));
    keyed.sort((a, b) => (a.key === null) - (b.key === null) || sign * (a.key - b.key) || a.one.place - b.one.place);
    list.append(...keyed.map(({ one }) => one.node));
    for (const { node, scores } of cases) {
      const values = scores[metric] || {}, all = Object.values(values);
      const worst = sign > 0 ? Math.min(...all) : Math.max(...all);
      for (const span of node.querySelectorAll(".score")) {
        const value = values[span.dataset.method];
        span.textContent = value === undefined ? "\u2013" : minus(value.toFixed(places));
        span.classList.toggle("low", value === worst && new Set(all).size > 1);
      }
    }
  }

  function filter() {
    const category = $("category") ? $("category").value : "all", text = $("search").value.trim().toLowerCase();
    let shown = 0;
    for (const one of cases) {
      const fits = (category === "all" || category === "=" + one.node.dataset.category) && one.text.includes(text);
      one.node.hidden = !fits;
      shown += fits;
    }
    const all = list.dataset.total, held = cases.length;
    $("shown").textContent = shown === held ? initial : `${shown} of the ${held} cases in this report, which are of ${all}`;
    $("empty").hidden = shown > 0;
  }

  function show(kind) {
    list.classList.toggle("hide-" + kind, !$(kind).checked);
  }

  function step(by) {
    const visible = [...list.querySelectorAll(".case:not([hidden])")];
    if (!visible.length) return;
    const now = visible.indexOf(document.activeElement.closest(".case"));
    const next = visible[now < 0 ? 0 : Math.min(Math.max(now + by, 0), visible.length - 1)];
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  }

  const initial = $("shown").textContent;
  const themes = ["auto", "light", "dark"];
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
    document.documentElement.dataset.theme = next;
    $("theme").textContent = "Theme: " + next;
  });

  for (const part of document.querySelectorAll("[data-apart]")) {
    const select = part.querySelector("select");
    const choose = () => part.querySelectorAll("[data-metric]").forEach((node) => { node.hidden = node.dataset.metric !== select.value; });
    select.parentElement.hidden = false;
    select.addEventListener("change", choose);
    choose();
  }

  // On a phone a table is a list of cells; each then says whose number it is.
  for (const row of document.querySelectorAll(".stacks tbody tr")) {
    const heads = row.closest("table").querySelectorAll("th.method");
    row.querySelectorAll("td.number").forEach((cell, i) => { cell.dataset.method = heads[i].textContent; });
  }

  if (!cases.length) return;
  $("toolbar").hidden = false;
  for (const id of ["metric", "whose"]) if ($(id)) $(id).addEventListener("change", sort);
  if ($("category")) $("category").addEventListener("change", filter);
  $("search").addEventListener("input", filter);
  for (const kind of ["asked", "seen"]) $(kind).addEventListener("change", () => show(kind));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], select")) return;
    if (event.key === "b") $("asked").click();
    else if (event.key === "d") $("seen").click();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
  });
  for (const kind of ["asked", "seen"]) show(kind);  // a reloaded page keeps its ticks
  sort();
  filter();
})();
