// The leaderboard: columns, sorting, filtering, and rows that exist only where they can be seen.

const SPARE = 8;
const MOST = 8; // encoders drawn at once: as many as the palette has colours
const NAME = 186; // least width of a name, in pixels

const NARROW = matchMedia("(max-width: 600px)");
const ROW = () => (NARROW.matches ? 58 : 42); // style sheet: --row

// Every column: `meaning` is its hint and its entry in the list below the charts.
const COLUMNS = [
  { key: "pick", label: "", title: "Draw", width: 36, left: true, meaning: "Draw: a mark puts the encoder into the charts, up to eight at once." },
  { key: "rank", label: "Rank", width: 62, up: true, meaning: "Place by the published score: 1 is best. 2–4 means that the samples do not tell which of these places it is. All ranks of a board hold together with at least 95 %. Encoders are ranked only against others that saw the same samples.",
    value: (b, i) => { const r = ranking(b); return r ? r.values[2 * i] + r.values[2 * i + 1] / 1e6 : NaN; },
    text: (b, i) => {
      const r = ranking(b);
      if (!r || Number.isNaN(r.values[2 * i])) return "–";
      const [low, high] = [r.values[2 * i], r.values[2 * i + 1]];
      return low === high ? `${low}` : `${low}–${high}`;
    } },
  { key: "encoder", label: "Encoder", left: true, up: true, meaning: "Where the encoder comes from, and its name. A click shows its details, the command that repeats its run, and the page of a published model.", value: (b, i) => b.labels[i].toLowerCase(), cell: nameCell },
  { key: "structure", label: "Structure", unit: "± std. error", width: 132, narrow: 84, structured: true, meaning: "How far the encoder makes classes of synthetic images linearly separable that no linear map of the pixels separates: 0 is guessing, 1 is no error. ± is one standard error. A dash has its reason in the hint and in the encoder's details: the score was not asked for, or the inputs are not images.", value: field("structure"), cell: structureCell },
  { key: "score", label: "Score", unit: "± std. error", width: 206, plain: 152, narrow: 78, left: true, meaning: "Expected scaled bound above the threshold accuracy, relative to the optimum on the raw inputs: 1 keeps everything a linear classifier could use. ± is one standard error. The bar is the 95 % interval of the score alone; two bars that overlap may still belong to encoders that differ, because encoders share their samples' luck.", value: (b, i) => scoreOf(b, i)[0], cell: scoreCell },
  { key: "worst", label: "Worst task", width: 126, left: true, suite: true, meaning: "Score of the suite's task on which the encoder has the least, and that task.", value: (b, i) => suiteNumbers(b, i)[4],
    text: (b, i) => { const task = worstTask(b, i); return task < 0 ? "–" : `${fixed(suiteNumbers(b, i)[4], 3)} ${b.tasks[task].name}`; } },
  { key: "robust_area", label: "Robust area", width: 124, meaning: "Accuracy under attack, averaged over all eps in [0, 1] and all scales, and its share of the raw inputs' area.", value: field("robust_area"),
    text: (b, i) => { const ratio = b.members.robust_area_ratio[i]; return fixed(nan(b.members.robust_area[i]), 3) + (ratio === null ? "" : ` (${(100 * ratio).toFixed(0)} %)`); } },
  { key: "images_per_second", label: "Images/s", width: 80, meaning: "Images per second of the whole run, sampling and statistics included, loading left out, on the device named. Compare within one device only.", value: field("images_per_second"), text: (b, i) => short(nan(b.members.images_per_second[i])) },
  { key: "seconds", label: "Seconds", width: 76, up: true, meaning: "Time of the whole run, loading included. Compare within one device only.", value: field("seconds"), text: (b, i) => short(nan(b.members.seconds[i])) },
  { key: "parameters", label: "Params", width: 76, up: true, meaning: "Number of parameters of the encoder.", value: field("parameters"), text: (b, i) => short(nan(b.members.parameters[i])) },
  { key: "feature_dim", label: "F", width: 58, up: true, meaning: "Number of features per image.", value: field("feature_dim"), text: (b, i) => grouped(b.members.feature_dim[i]) },
  { key: "peak_memory_bytes", label: "Memory", width: 78, up: true, meaning: "Largest memory of the run: on a GPU what its tensors took, on a processor what the process grew by.", value: field("peak_memory_bytes"), text: (b, i) => memory(b.members.peak_memory_bytes[i]) },
  { key: "warnings", label: "Warnings", width: 86, meaning: "Number of warnings of the run. The hint and the encoder's details have their texts.", value: (b, i) => b.members.warnings[i].length,
    cell: (b, i) => { const n = b.members.warnings[i].length; return n ? el("span", { class: "warn", title: b.members.warnings[i].join("\n") }, `⚠ ${n}`) : ""; } },
];

function nan(value) {
  return value === null || value === undefined ? NaN : value;
}

function field(name) {
  return (b, i) => nan(b.members[name][i]);
}

const view = { order: [], low: 0, high: 1, rows: new Map(), all: false, layout: null, family: getComputedStyle(document.body).fontFamily };
const scroller = document.getElementById("rows");
const body = document.querySelector("#leaderboard tbody");
const top_ = el("tr", { class: "spacer", "aria-hidden": "true" }, el("td"));
const bottom = el("tr", { class: "spacer", "aria-hidden": "true" }, el("td"));

// The columns of the board; where the window is narrow, the name and the scores come first.
function columns() {
  const b = board();
  const shown = COLUMNS.filter((one) => (!one.suite || b.suite) && (!one.structured || b.structured));
  if (!NARROW.matches) return shown;
  const first = ["pick", "encoder", "structure", "score"];
  return [...shown.filter((one) => first.includes(one.key)), ...shown.filter((one) => !first.includes(one.key))];
}

// Widths of all columns but that of the name, which takes what they leave; without room the score has no bar.
function layout() {
  const width = (one, plain) => (NARROW.matches && one.narrow) || (plain && one.plain) || one.width || 0;
  const total = (plain) => columns().reduce((sum, one) => sum + width(one, plain), 0);
  const room = scroller.clientWidth;
  const plain = NARROW.matches || total(false) + NAME > room;
  if (NARROW.matches) { // name and scores fill the window; the others follow sideways
    const beside = columns().filter((one) => ["pick", "structure", "score"].includes(one.key)).reduce((sum, one) => sum + width(one, true), 0);
    return { width: (one) => width(one, true), plain, name: Math.max(110, room - beside), total: total(true) };
  }
  return { width: (one) => width(one, plain), plain, name: Math.max(NAME, room - total(plain)), total: total(plain) };
}

const pen = document.createElement("canvas").getContext("2d");

function textWidth(text, font) {
  pen.font = `${font} ${view.family}`;
  return pen.measureText(text).width;
}

// Text that fits into so many pixels: without room for all of it, its middle is left out.
function fitted(text, room, font = "13px") {
  if (textWidth(text, font) <= room) return text;
  let low = 1, high = text.length - 1; // characters that are kept
  while (low < high) {
    const kept = Math.ceil((low + high) / 2);
    if (textWidth(shortened(text, kept), font) <= room) low = kept;
    else high = kept - 1;
  }
  return shortened(text, low);
}

function shortened(text, kept) {
  return `${text.slice(0, Math.ceil(kept / 2))}…${text.slice(text.length - Math.floor(kept / 2))}`;
}

function structureText(b, i, digits) {
  const value = nan(b.members.structure[i]), error = nan(b.members.structure_stderr[i]);
  return [fixed(value, digits), Number.isFinite(error) ? `±\u202f${fixed(error, digits)}` : ""];
}

function structureCell(b, i) {
  const missing = b.members.structure_missing[i];
  const profile = b.members.structure_profile[i].map(([name, score]) => `${name} ${fixed(score, 2)}`).join(", ");
  return el("span", { title: missing ? `None: ${missing}` : profile }, ...(missing ? ["–"] : stacked(structureText(b, i, 3))),
    missing ? el("span", { class: "hidden" }, ` none: ${missing}`) : "");
}

// A number and its error: in one line, or below each other where the window is narrow.
function stacked([value, error]) {
  return [value, el("span", { class: "error" }, error && ` ${error}`)];
}

// Names take up to two lines, three in a narrow window; what differs between results of one encoder takes the last.
function nameCell(b, i) {
  const configuration = b.members.configuration[i], lines = NARROW.matches ? 3 : 2;
  const line = view.layout.name - 20 - 12; // without the padding; a line may end a character early
  const name = fitted(b.members.spec[i], line * (configuration ? lines - 1 : lines));
  return el("button", { type: "button", class: "name", title: b.labels[i], "aria-label": b.labels[i], onclick: () => showDetail(i) },
    name, configuration ? el("span", { class: "dim" }, fitted(configuration, line)) : "");
}

function scoreCell(b, i) {
  const [value, stderr, low, high] = scoreOf(b, i);
  const bar = el("span", { class: "bar" });
  const span = view.high - view.low || 1;
  const place = (x) => 100 * Math.min(1, Math.max(0, (x - view.low) / span));
  if (Number.isFinite(low) && Number.isFinite(high)) {
    const range = el("i");
    range.style.left = `${place(low)}%`;
    range.style.width = `${place(high) - place(low)}%`;
    bar.append(range);
  }
  if (Number.isFinite(value)) {
    const mark = el("s");
    mark.style.left = `${place(value)}%`;
    bar.append(mark);
  }
  const interval = Number.isFinite(low) && Number.isFinite(high) ? `95 % interval ${fixed(low, 4)} to ${fixed(high, 4)}` : "no interval known";
  bar.title = interval;
  if (Math.max(Math.abs(value), stderr) < 5e-5) return el("span", { class: "dim", title: "No scale showed a signal above the threshold." }, "below detection");
  return el("span", { class: "score" }, el("b", {}, fixed(value, 4)),
    el("span", { class: "dim", title: interval }, Number.isFinite(stderr) ? `±\u202f${fixed(stderr, 4)}` : ""),
    view.layout.plain ? "" : bar, el("span", { class: "hidden" }, interval));
}

function makeHead() {
  const head = document.querySelector("#leaderboard thead tr");
  head.replaceChildren(...columns().map((one) => {
    const th = el("th", { scope: "col", class: `k-${one.key}${one.left ? " left" : ""}`, title: one.meaning });
    th.style.width = `${one.key === "encoder" ? view.layout.name : view.layout.width(one)}px`;
    if (one.key === "pick") {
      th.append(el("span", { class: "hidden" }, "Draw"));
      return th;
    }
    const active = state.sort === one.key;
    th.setAttribute("aria-sort", active ? (state.down ? "descending" : "ascending") : "none");
    th.append(el("button", { type: "button", "data-sort": one.key, onclick: () => sortBy(one) },
      one.label, el("span", { class: "arrow", "aria-hidden": "true" }, active ? (state.down ? "↓" : "↑") : ""),
      one.unit ? el("span", { class: "unit" }, one.unit) : ""));
    return th;
  }));
}

function sortBy(column) {
  if (state.sort === column.key) state.down = !state.down;
  else [state.sort, state.down] = [column.key, !column.up];
  refreshTable();
  document.querySelector(`#leaderboard button[data-sort="${column.key}"]`).focus();
}

function arrange() {
  const b = board();
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = [];
  for (let i = 0; i < b.size; i++) if (words.every((word) => b.words[i].includes(word))) kept.push(i);
  const column = COLUMNS.find((one) => one.key === state.sort);
  const keys = new Map(kept.map((i) => [i, column.value(b, i)]));
  const sign = state.down ? -1 : 1;
  const missing = (x) => typeof x === "number" && Number.isNaN(x);
  kept.sort((i, j) => {
    const [x, y] = [keys.get(i), keys.get(j)];
    if (missing(x) || missing(y)) return missing(x) - missing(y) || i - j; // unknown comes last either way
    return x < y ? -sign : x > y ? sign : i - j;
  });
  view.order = kept;
  [view.low, view.high] = [Infinity, -Infinity];
  for (let i = 0; i < b.size; i++) {
    const [value, , low, high] = scoreOf(b, i);
    for (const one of [value, low, high]) if (Number.isFinite(one)) {
      view.low = Math.min(view.low, one);
      view.high = Math.max(view.high, one);
    }
  }
  if (view.low > view.high) [view.low, view.high] = [0, 1];
  const pad = 0.04 * (view.high - view.low) || 0.05; // a single score without an interval
  [view.low, view.high] = [view.low - pad, view.high + pad];
}

function makeRow(position) {
  const b = board(), i = view.order[position];
  const picked = chosen().includes(i);
  const row = el("tr", { "aria-rowindex": position + 2, "data-index": i, class: picked ? "chosen" : null });
  for (const one of columns()) {
    if (one.key === "pick") {
      const box = el("input", { type: "checkbox", "aria-label": `Draw ${b.labels[i]}`, onchange: (event) => choose(i, event.target.checked) });
      box.checked = picked;
      row.append(el("td", { class: "pick k-pick" }, box));
    } else {
      row.append(el("td", { class: `k-${one.key}${one.left ? " left" : ""}`, role: one.key === "encoder" ? "rowheader" : null }, one.cell ? one.cell(b, i) : one.text(b, i)));
    }
  }
  return row;
}

// Rows near the window are made, rows far from it dropped; those that stay are not touched, and keep the focus.
function drawRows() {
  const count = view.order.length;
  const first = view.all ? 0 : Math.max(0, Math.floor(scroller.scrollTop / ROW()) - SPARE);
  const last = view.all ? count : Math.min(count, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW()) + SPARE);
  for (const [position, row] of view.rows)
    if (position < first || position >= last) {
      row.remove();
      view.rows.delete(position);
    }
  let next = top_.nextSibling;
  for (let position = first; position < last; position++) {
    let row = view.rows.get(position);
    if (!row) {
      row = makeRow(position);
      view.rows.set(position, row);
      body.insertBefore(row, next);
    } else next = row.nextSibling;
  }
  top_.firstChild.style.height = `${first * ROW()}px`;
  bottom.firstChild.style.height = `${(count - last) * ROW()}px`;
  top_.hidden = first === 0;
  bottom.hidden = last === count;
}

function refreshRows() {
  view.rows.clear();
  for (const one of [top_, bottom]) one.firstChild.colSpan = columns().length;
  body.replaceChildren(top_, bottom);
  drawRows();
}

function refreshTable() {
  const b = board();
  view.layout = layout();
  document.getElementById("leaderboard").style.width = `${view.layout.total + view.layout.name}px`;
  makeHead();
  arrange();
  document.getElementById("leaderboard").setAttribute("aria-rowcount", view.order.length + 1);
  refreshRows();
  const found = ranking(b);
  const methods = {
    pairs: "Ranks hold together with 95 %, simulated over all pairs.",
    bound: "Ranks hold together with at least 95 %: all pairs, Sidak's bound.",
    separate: "Ranks hold together with at least 95 %: intervals that do not overlap (Bonferroni).",
    none: "Not ranked.",
  };
  const rank = found ? methods[found.method] + (found.note ? ` ${found.note}.` : "")
    : b.suite ? "Ranks are those of the mean over the tasks." : `Ranks were made at ${b.ranks.map((one) => `eps ${one.eps}, accuracy ${one.threshold}`).join("; ")}.`;
  document.getElementById("note").textContent = `The bar is the 95 % interval of each score alone, from ${fixed(view.low, 2)} to ${fixed(view.high, 2)}. ${rank}`;
  document.getElementById("count").textContent = view.order.length === b.size ? `${grouped(b.size)} encoders` : `${grouped(view.order.length)} of ${grouped(b.size)} encoders`;
}

function choose(i, on) {
  const list = chosen();
  if (on && !list.includes(i)) {
    if (list.length >= MOST) {
      document.getElementById("count").textContent = `At most ${MOST} encoders are drawn: leave one out first`;
      refreshRows();
      return;
    }
    list.push(i);
    const used = new Set(list.map((one) => slots().get(one)));
    let slot = 0;
    while (used.has(slot)) slot++;
    slots().set(i, slot); // an encoder keeps its colour while others come and go
  } else if (!on && list.includes(i)) {
    list.splice(list.indexOf(i), 1);
    slots().delete(i);
  }
  for (const row of view.rows.values())
    if (Number(row.dataset.index) === i) {
      row.classList.toggle("chosen", list.includes(i));
      row.querySelector("input").checked = list.includes(i);
    }
  drawCharts();
}

scroller.addEventListener("scroll", drawRows, { passive: true });
body.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = event.target.closest("tr");
  if (!step || !row) return;
  event.preventDefault();
  const position = Number(row.getAttribute("aria-rowindex")) - 2 + step;
  if (position < 0 || position >= view.order.length) return;
  const head = document.querySelector("#leaderboard thead").offsetHeight, at = position * ROW();
  if (at < scroller.scrollTop) scroller.scrollTop = at;
  else if (at + ROW() > scroller.scrollTop + scroller.clientHeight - head) scroller.scrollTop = at + ROW() + head - scroller.clientHeight;
  drawRows();
  view.rows.get(position).querySelector(event.target.tagName === "INPUT" ? "input" : ".name").focus();
});
addEventListener("beforeprint", () => { view.all = true; drawRows(); });
addEventListener("afterprint", () => { view.all = false; drawRows(); });
