// The leaderboard: columns, sorting, filtering, and rows that exist only where they can be seen.

const ROW = 35;
const SPARE = 8;
const MOST = 8; // encoders drawn at once: as many as the palette has colours

const COLUMNS = [
  { key: "pick", label: "", width: 40, left: true },
  { key: "rank", label: "Rank", width: 86, up: true, title: "Places the samples leave open",
    value: (b, i) => { const r = ranking(b); return r ? r.values[2 * i] + r.values[2 * i + 1] / 1e6 : NaN; },
    text: (b, i) => {
      const r = ranking(b);
      if (!r || Number.isNaN(r.values[2 * i])) return "–";
      const [low, high] = [r.values[2 * i], r.values[2 * i + 1]];
      return low === high ? `${low}` : `${low}–${high}`;
    } },
  { key: "encoder", label: "Encoder", left: true, up: true, value: (b, i) => b.labels[i].toLowerCase(), cell: nameCell },
  { key: "structure", label: "Structure", width: 120, structured: true, title: "Structure score, half its 95 % interval", value: field("structure"), cell: structureCell },
  { key: "score", label: "Score", width: 250, left: true, title: "Score, half its 95 % interval, and the interval drawn", value: (b, i) => scoreOf(b, i)[0], cell: scoreCell },
  { key: "worst", label: "Worst task", width: 136, left: true, suite: true, value: (b, i) => suiteNumbers(b, i)[4],
    text: (b, i) => { const task = worstTask(b, i); return task < 0 ? "–" : `${fixed(suiteNumbers(b, i)[4], 3)} ${b.tasks[task].name}`; } },
  { key: "robust_area", label: "Robust area", width: 122, value: field("robust_area"),
    text: (b, i) => { const ratio = b.members.robust_area_ratio[i]; return fixed(nan(b.members.robust_area[i]), 3) + (ratio === null ? "" : ` (${(100 * ratio).toFixed(0)} %)`); } },
  { key: "images_per_second", label: "Images/s", width: 90, value: field("images_per_second"), text: (b, i) => short(nan(b.members.images_per_second[i])) },
  { key: "seconds", label: "Seconds", width: 86, up: true, value: field("seconds"), text: (b, i) => short(nan(b.members.seconds[i])) },
  { key: "parameters", label: "Parameters", width: 102, up: true, value: field("parameters"), text: (b, i) => short(nan(b.members.parameters[i])) },
  { key: "feature_dim", label: "F", width: 62, up: true, value: field("feature_dim"), text: (b, i) => grouped(b.members.feature_dim[i]) },
  { key: "peak_memory_bytes", label: "Memory", width: 92, up: true, value: field("peak_memory_bytes"), text: (b, i) => memory(b.members.peak_memory_bytes[i]) },
  { key: "warnings", label: "Warnings", width: 94, value: (b, i) => b.members.warnings[i].length,
    cell: (b, i) => { const n = b.members.warnings[i].length; return n ? el("span", { class: "warn", title: b.members.warnings[i].join("\n") }, `⚠ ${n}`) : ""; } },
];

function nan(value) {
  return value === null || value === undefined ? NaN : value;
}

function field(name) {
  return (b, i) => nan(b.members[name][i]);
}

const view = { order: [], low: 0, high: 1, rows: new Map(), all: false };
const scroller = document.getElementById("rows");
const body = document.querySelector("#leaderboard tbody");
const top_ = el("tr", { class: "spacer", "aria-hidden": "true" }, el("td"));
const bottom = el("tr", { class: "spacer", "aria-hidden": "true" }, el("td"));

const columns = () => COLUMNS.filter((one) => (!one.suite || board().suite) && (!one.structured || board().structured));

function structureText(b, i, digits) {
  const value = nan(b.members.structure[i]), half = 1.959964 * nan(b.members.structure_stderr[i]);
  return fixed(value, digits) + (Number.isFinite(half) ? ` ±\u202f${fixed(half, digits)}` : "");
}

function structureCell(b, i) {
  const missing = b.members.structure_missing[i];
  const profile = b.members.structure_profile[i].map(([name, score]) => `${name} ${fixed(score, 2)}`).join(", ");
  return el("span", { title: missing ? `None: ${missing}` : profile }, missing ? "–" : structureText(b, i, 3),
    missing ? el("span", { class: "hidden" }, ` none: ${missing}`) : "");
}

function nameCell(b, i) {
  const configuration = b.members.configuration[i];
  return el("button", { type: "button", class: "name", title: b.labels[i], onclick: () => showDetail(i) },
    b.members.spec[i], configuration ? el("span", { class: "dim" }, "  " + configuration) : "");
}

function scoreCell(b, i) {
  const [value, , low, high] = scoreOf(b, i);
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
  return el("span", { class: "score" }, el("b", {}, fixed(value, 4)),
    el("span", { class: "dim", title: interval }, Number.isFinite(high - low) ? `±\u202f${fixed((high - low) / 2, 4)}` : ""),
    bar, el("span", { class: "hidden" }, interval));
}

function makeHead() {
  const head = document.querySelector("#leaderboard thead tr");
  head.replaceChildren(...columns().map((one) => {
    const th = el("th", { scope: "col", class: `k-${one.key}${one.left ? " left" : ""}`, title: one.title || null });
    if (one.width) th.style.width = `${one.width}px`;
    if (one.key === "pick") {
      th.append(el("span", { class: "hidden" }, "Draw"));
      return th;
    }
    const active = state.sort === one.key;
    th.setAttribute("aria-sort", active ? (state.down ? "descending" : "ascending") : "none");
    th.append(el("button", { type: "button", "data-sort": one.key, onclick: () => sortBy(one) },
      one.label, el("span", { class: "arrow", "aria-hidden": "true" }, active ? (state.down ? "↓" : "↑") : "")));
    return th;
  }));
}

// The encoder's column takes what the others leave, and never less than its share.
function makeWidths() {
  const fixedWidth = columns().reduce((sum, one) => sum + (one.width || 190), 0);
  document.getElementById("leaderboard").style.minWidth = `${fixedWidth}px`;
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
  const first = view.all ? 0 : Math.max(0, Math.floor(scroller.scrollTop / ROW) - SPARE);
  const last = view.all ? count : Math.min(count, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW) + SPARE);
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
  top_.firstChild.style.height = `${first * ROW}px`;
  bottom.firstChild.style.height = `${(count - last) * ROW}px`;
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
  makeHead();
  makeWidths();
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
  const head = 36, at = position * ROW;
  if (at < scroller.scrollTop) scroller.scrollTop = at;
  else if (at + ROW > scroller.scrollTop + scroller.clientHeight - head) scroller.scrollTop = at + ROW + head - scroller.clientHeight;
  drawRows();
  view.rows.get(position).querySelector(event.target.tagName === "INPUT" ? "input" : ".name").focus();
});
addEventListener("beforeprint", () => { view.all = true; drawRows(); });
addEventListener("afterprint", () => { view.all = false; drawRows(); });
