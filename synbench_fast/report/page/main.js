// Controls, the dialog about one encoder, and the start.

function showDetail(i) {
  const b = board(), m = b.members, setup = b.setups[m.setup[i]];
  const [value, stderr, low, high] = scoreOf(b, i);
  const parts = [facts([
    ["Score", `${fixed(value, 4)} ± ${fixed(stderr, 4)} (one standard error), 95 % interval ${fixed(low, 4)} to ${fixed(high, 4)}, at eps ${b.eps[state.e]}, above accuracy ${b.thresholds[state.a]}`],
    ["Structure score", m.structure_missing[i] ? `none: ${m.structure_missing[i]}` : `${structureText(b, i, 4).join(" ")} (one standard error)`],
    ["Structure by family", m.structure_profile[i].map(([name, score]) => `${name} ${fixed(score, 4)}`).join(", ")],
    ["Label-free metrics", m.label_free[i].map(([name, one, error]) => `${name.replace("_", " ")} ${short(one)}${error === null ? "" : ` ± ${short(error)}`}`).join(", ")],
    ["Robust area", `${fixed(nan(m.robust_area[i]), 4)}${m.robust_area_stderr[i] === null ? "" : ` ± ${fixed(m.robust_area_stderr[i], 4)} (one standard error)`}`],
    ["Configuration", m.configuration[i]],
  ])];
  if (m.page[i]) parts.push(el("p", {}, el("a", { href: m.page[i], target: "_blank", rel: "noopener noreferrer" }, "Page of this model")));
  if (m.warnings[i].length) parts.push(el("h3", {}, "Warnings"), el("ul", { class: "warnings" }, ...m.warnings[i].map((one) => el("li", {}, one))));
  parts.push(el("h3", {}, "Run it again"));
  if (m.command[i]) parts.push(commandBox(m.command[i]));
  else parts.push(el("p", { class: "small" }, "No shell line does: the encoder was passed as a Python object."));
  const phases = Object.entries(m.phases[i]).map(([name, seconds]) => `${name} ${short(seconds)} s`).join(", ");
  parts.push(el("h3", {}, "Encoder and run"), facts([
    ["Weights, sha256", m.sha[i] || "unknown: the encoder is a callable"], ["Revision", m.revision[i]], ["Checkpoint", m.checkpoint[i]],
    ["Parameters", m.parameters[i] === null ? "unknown" : grouped(m.parameters[i])], ["Feature dimension F", widthOf(b, i)],
    ["Images", grouped(m.images[i])], ["Rate", `${short(nan(m.images_per_second[i]))} images/s`],
    ["Time", `${short(nan(m.seconds[i]))} s in all${phases ? `; ${phases}` : ""}`], ["Peak memory", memory(m.peak_memory_bytes[i])],
    ...Object.entries(setup), ["File", m.file[i]],
  ]));
  openDetail(m.spec[i], parts);
}

function setBoard(index) {
  state.board = index;
  const b = board();
  [state.e, state.a] = [b.eps.indexOf(b.shown[0]), b.thresholds.indexOf(b.shown[1])];
  [state.of, state.task, state.sort, state.down] = ["mean", 0, b.structured ? "structure" : "score", true];
  options(control("eps"), b.eps.map((one, k) => [k, String(one)]), state.e);
  options(control("threshold"), b.thresholds.map((one, k) => [k, String(one)]), state.a);
  control("of-label").hidden = control("task-label").hidden = !b.suite;
  options(control("of"), [["mean", "mean over tasks"], ["worst", "worst task"], ...b.tasks.map((one, k) => [k, one.name])], "mean");
  options(control("task"), b.tasks.map((one, k) => [k, one.name]), 0);
  control("title").textContent = b.title;
  control("verdict").hidden = !b.verdict.length;
  control("verdict").replaceChildren(...b.verdict.map((one) => el("p", {}, one)));
  scroller.scrollTop = 0;
  refreshTable();
  if (!chosen().length) for (const i of view.order.slice(0, 4)) {
    slots().set(i, chosen().length);
    chosen().push(i);
  }
  refreshRows();
  drawCharts();
}

function redraw() {
  refreshTable();
  drawCharts();
}

let waiting = 0;
control("board").addEventListener("change", (event) => setBoard(Number(event.target.value)));
control("of").addEventListener("change", (event) => {
  state.of = /^\d+$/.test(event.target.value) ? Number(event.target.value) : event.target.value;
  if (typeof state.of === "number") control("task").value = String((state.task = state.of));
  redraw();
});
control("eps").addEventListener("change", (event) => { state.e = Number(event.target.value); redraw(); });
control("threshold").addEventListener("change", (event) => { state.a = Number(event.target.value); redraw(); });
control("cost").addEventListener("change", (event) => { state.cost = event.target.value; drawScatter(); });
control("task").addEventListener("change", (event) => { state.task = Number(event.target.value); drawCurves(); });
control("filter").addEventListener("input", (event) => {
  state.filter = event.target.value;
  scroller.scrollTop = 0;
  refreshTable();
  drawScatter();
});
control("controls").addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => { refreshTable(); drawScatter(); drawCurves(); }, 120); });

explain(COLUMNS);
control("version").textContent = DATA.version;
control("unfinished").hidden = !DATA.unfinished;
control("unfinished").textContent = DATA.unfinished;
if (DATA.problems.length) {
  control("problems").hidden = false;
  control("problems").append(`${DATA.problems.length} ${DATA.problems.length === 1 ? "file was" : "files were"} left out:`, el("ul", {}, ...DATA.problems.slice(0, 20).map((one) => el("li", {}, one))));
}
if (DATA.failures.length) {
  control("failures").hidden = false;
  control("failures").querySelector("tbody").append(...DATA.failures.map(([name, reason]) => el("tr", {}, el("td", {}, name), el("td", {}, reason))));
}
options(control("cost"), Object.entries(COSTS), state.cost);
if (BOARDS.length) {
  control("board-label").hidden = BOARDS.length === 1;
  options(control("board"), BOARDS.map((one, k) => [k, `${one.title} (${one.size})`]), 0);
  setBoard(0);
} else {
  for (const id of ["controls", "rows", "chosen", "charts"]) control(id).hidden = true;
}
