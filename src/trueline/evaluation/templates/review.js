"use strict";
// One item at a time. The state is {decisions: {id: "keep" | "drop"}, seen: {id: hash of the picture and boxes that were
// decided on}, history: [[id, what it was before or null]]}; it is kept in the browser after each decision, under the
// build and the page. Decisions on what the page no longer shows are forgotten.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent), items = data.items;
  const shelf = `trueline-review-${data.build}-${data.page}`;
  let place = 0, keeps = true, boxes = true;

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(shelf));
      if (kept && kept.decisions && typeof kept.decisions === "object" && Array.isArray(kept.history)) return shown(kept);
    } catch { keeps = false; }
    return { decisions: {}, seen: {}, history: [] };
  }

  function shown(kept) {
    const now = Object.fromEntries(items.map((item) => [item.id, item.seen])), seen = kept.seen || {};
    const same = (id) => id in now && (!(id in seen) || seen[id] === now[id]);
    const only = (group) => Object.fromEntries(Object.entries(group).filter(([id]) => same(id)));
    return { decisions: only(kept.decisions), seen: only(seen), history: kept.history.filter(([id]) => same(id)) };
  }

  function keep() {
    try { localStorage.setItem(shelf, JSON.stringify(state)); } catch { keeps = false; }
    $("kept").textContent = keeps ? "Decisions are kept in this browser." : "This browser keeps nothing: save before you close the page.";
    $("kept").classList.toggle("warning", !keeps);
  }

  const decided = () => items.filter((item) => state.decisions[item.id]).length;
  const count = (choice) => items.filter((item) => state.decisions[item.id] === choice).length;
  const open = (from) => items.findIndex((item, i) => i >= from && !state.decisions[item.id]);

  function progress() {
    $("progress").firstElementChild.style.width = 100 * decided() / items.length + "%";
    $("progress").setAttribute("aria-valuenow", decided());
  }

  function draw() {
    $("item").hidden = false;
    $("end").hidden = true;
    progress();
    const item = items[place], choice = state.decisions[item.id] || "";
    $("count").textContent = `${place + 1} of ${items.length}: ${count("keep")} kept, ${count("drop")} dropped`;
    $("prompt").textContent = item.prompt;
    $("about").textContent = [item.id, item.category, item.clip === null ? "" : `CLIP ${item.clip.toFixed(3)}`].filter(Boolean).join(", ");
    $("picture").src = item.src;
    $("shown").style.setProperty("--ratio", item.width / item.height);
    $("shown").dataset.choice = choice;
    for (const old of document.querySelectorAll(".box")) old.remove();
    for (const [phrase, x0, y0, x1, y1] of boxes ? item.boxes : []) {
      const box = document.createElement("div"), label = document.createElement("span");
      box.className = "box";
      Object.assign(box.style, { left: 100 * x0 + "%", top: 100 * y0 + "%", width: 100 * (x1 - x0) + "%", height: 100 * (y1 - y0) + "%" });
      label.textContent = phrase;
      box.append(label);
      $("shown").append(box);
    }
    for (const name of ["keep", "drop"]) $(name).setAttribute("aria-pressed", String(choice === name));
    $("boxes").setAttribute("aria-pressed", String(boxes));
    $("undo").disabled = state.history.length === 0;
    $("back").disabled = place === 0;
  }

  function finish() {
    $("item").hidden = true;
    $("end").hidden = false;
    progress();
    const left = items.length - decided();
    $("count").textContent = `${decided()} of ${items.length} decided`;
    $("done").textContent = left ? `${left} still open` : `All decided: ${count("keep")} kept, ${count("drop")} dropped`;
    $("done").focus();
  }

  function go(to) {
    if (to >= items.length) return finish();
    place = Math.max(to, 0);
    draw();
    $("prompt").focus({ preventScroll: true });
  }

  function decide(choice) {
    const id = items[place].id;
    state.history.push([id, state.decisions[id] || null]);
    state.decisions[id] = choice;
    if (items[place].seen) state.seen[id] = items[place].seen;
    keep();
    go(place + 1);
  }

  function undo() {
    const last = state.history.pop();
    if (!last) return;
    const [id, before] = last;
    if (before) state.decisions[id] = before; else delete state.decisions[id];
    keep();
    go(items.findIndex((item) => item.id === id));
  }

  function save() {
    const file = { format: data.format, build: data.build, page: data.page, decisions: state.decisions, seen: state.seen };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
    link.download = `decisions-${data.build.slice(0, 6)}-${data.page}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const state = load();
  keep();
  const first = open(0);
  go(first < 0 ? items.length : first);

  const acts = {
    k: () => decide("keep"), d: () => decide("drop"), ArrowLeft: () => go(place - 1), ArrowRight: () => go(place + 1),
    b: () => { boxes = !boxes; draw(); },
  };
  $("keep").addEventListener("click", acts.k);
  $("drop").addEventListener("click", acts.d);
  $("undo").addEventListener("click", undo);
  $("back").addEventListener("click", acts.ArrowLeft);
  $("next").addEventListener("click", acts.ArrowRight);
  $("boxes").addEventListener("click", acts.b);
  $("again").addEventListener("click", () => go(0));
  for (const button of document.querySelectorAll(".save")) button.addEventListener("click", save);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.key === "u") undo();
    else if (!$("item").hidden && acts[event.key]) acts[event.key]();
    else return;
    event.preventDefault();
  });
})();
