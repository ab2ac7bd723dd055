// A table of encoders: sorting, filtering, and rows that exist only where they can be seen.
// Another file has `board()` (size, labels, words, members.spec, members.configuration), `state` (sort, down, filter),
// `columns()`, `scoreOf(b, i)` = [score, standard error, low, high], `chosen()`, `choose(i, on)`, `note(b)` and
// `showDetail(i)`. A column has a `meaning`, its hint and its entry in the list of meanings, and `width`s in pixels:
// `plain` without the bar of an interval, `narrow` in a narrow window.

const SPARE = 8;
const NAME = 186; // least width of a name, in pixels

const NARROW = matchMedia("(max-width: 600px)");
const ROW = () => (NARROW.matches ? 58 : 42); // style sheet: --row

const view = { order: [], low: 0, high: 1, rows: new Map(), all: false, layout: null, family: getComputedStyle(document.body).fontFamily };
const scroller = document.getElementById("rows");
const body = document.querySelector("#leaderboard tbody");
const top_ = el("tr", { class: "spacer", "aria-hidden": "true" }, el("td"));
const bottom = el("tr", { class: "spacer", "aria-hidden": "true" }, el("td"));

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
  const column = columns().find((one) => one.key === state.sort);
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
  document.getElementById("note").textContent = note(b);
  document.getElementById("count").textContent = view.order.length === b.size ? `${grouped(b.size)} encoders` : `${grouped(view.order.length)} of ${grouped(b.size)} encoders`;
}

// The list of meanings begins with those of the columns.
function explain(all) {
  document.querySelector("dl.meaning").prepend(...all.flatMap((one) => [el("dt", {}, one.label || one.title), el("dd", {}, one.meaning)]));
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
