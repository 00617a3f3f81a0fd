"use strict";
// One pair at a time. The state is {rater, name, votes: {pair id: {question: answer}}}; it is kept after each answer.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const questions = Object.keys(data.questions), pairs = data.pairs, shelf = "trueline-votes-" + data.study;
  const fields = [...document.querySelectorAll("fieldset")];
  let place = 0, waiting = 0, keeps = true;

  function fresh() {
    const bytes = crypto.getRandomValues(new Uint8Array(8));
    return { rater: [...bytes].map((b) => b.toString(16).padStart(2, "0")).join(""), name: "", votes: {} };
  }

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(shelf));
      if (kept && typeof kept.rater === "string" && kept.votes && typeof kept.votes === "object") return kept;
    } catch { keeps = false; }
    return fresh();
  }

  function keep() {
    try { localStorage.setItem(shelf, JSON.stringify(state)); } catch { keeps = false; }
    $("forgetful").hidden = keeps;
    $("kept").textContent = keeps ? "Your votes are kept in this browser." : "This browser keeps nothing: save your votes before you close the page.";
  }

  const votes = (i) => state.votes[pairs[i].id] || {};
  const complete = (i) => questions.every((question) => votes(i)[question]);
  const answered = () => pairs.filter((_, i) => complete(i)).length;
  const open = () => questions.findIndex((question) => !votes(place)[question]);

  function panel(name) {
    for (const id of ["intro", "vote", "end"]) $(id).hidden = id !== name;
    $("footer").hidden = name === "intro";
    $("progress").firstElementChild.style.width = 100 * answered() / pairs.length + "%";
    $("progress").setAttribute("aria-valuenow", answered());
  }

  function draw() {
    const pair = pairs[place];
    panel("vote");
    $("count").textContent = `Pair ${place + 1} of ${pairs.length}`;
    $("prompt").textContent = pair.prompt;
    for (const side of ["left", "right"]) $(side).src = pair[side];
    const now = open();
    fields.forEach((field, i) => {
      field.classList.toggle("now", i === now);
      for (const button of field.querySelectorAll("button"))
        button.setAttribute("aria-pressed", votes(place)[questions[i]] === button.dataset.answer);
    });
    $("back").disabled = place === 0;
    $("next").disabled = !complete(place);
    $("next").textContent = place + 1 < pairs.length ? "Next" : "Finish";
  }

  function finish() {
    panel("end");
    const left = pairs.length - answered();
    $("count").textContent = `${answered()} of ${pairs.length} answered`;
    $("done").textContent = left ? `${left} pair${left > 1 ? "s are" : " is"} still open` : "Thank you, that was all";
    $("done").focus();
  }

  function go(to) {
    clearTimeout(waiting);
    waiting = 0;
    if (to >= pairs.length) return finish();
    place = Math.max(to, 0);
    draw();
    $("prompt").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  // Answering the last open question goes on by itself, after a moment in which the answer can be seen.
  function answer(question, value) {
    if (waiting) return;
    const was = complete(place);
    state.votes[pairs[place].id] = { ...votes(place), [question]: value };
    keep();
    draw();
    if (!was && complete(place)) waiting = setTimeout(() => go(place + 1), 350);
  }

  function save() {
    const file = { format: data.format, study: data.study, rater: state.rater, name: state.name, votes: state.votes };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
    link.download = `votes-${data.study.slice(0, 6)}-${state.rater.slice(0, 6)}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function begin() {
    state.name = $("name").value.trim();
    keep();
    const first = pairs.findIndex((_, i) => !complete(i));
    go(first < 0 ? pairs.length : first);
  }

  let state = load();
  $("name").value = state.name || "";
  $("begin").textContent = answered() ? `Go on (${answered()} of ${pairs.length} done)` : "Begin";
  keep();
  panel("intro");

  $("begin").addEventListener("click", begin);
  $("back").addEventListener("click", () => go(place - 1));
  $("next").addEventListener("click", () => go(place + 1));
  $("review").addEventListener("click", () => go(0));
  for (const button of document.querySelectorAll(".save")) button.addEventListener("click", save);
  $("restart").addEventListener("click", () => {
    if (!confirm("Forget the votes that are kept here and begin anew? Save them first if they are still needed.")) return;
    clearTimeout(waiting);
    waiting = 0;
    state = fresh();
    place = 0;
    keep();
    $("name").value = "";
    $("begin").textContent = "Begin";
    $("count").textContent = "";
    panel("intro");
  });
  fields.forEach((field) => field.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) answer(field.dataset.question, button.dataset.answer);
  }));
  document.addEventListener("keydown", (event) => {
    if ($("vote").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const value = { ArrowLeft: "left", ArrowDown: "same", ArrowRight: "right" }[event.key];
    if (value && open() >= 0) answer(questions[open()], value);
    else if (event.key === "Backspace" && place > 0) go(place - 1);
    else return;
    event.preventDefault();
  });
})();
