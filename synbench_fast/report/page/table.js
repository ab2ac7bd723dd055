// A table of encoders: sorting, filtering, and rows that exist only where they can be seen.
// Another file has `board()` (size, labels, words, members.spec, members.configuration), `state` (sort, down, filter),
// `columns()`, `scoreOf(b, i)` = [score, standard error, low, high], `chosen()`, `choose(i, on)`, `note(b)` and
// `showDetail(i)`.

const ROW = 35;
const SPARE = 8;
const view = { order: [], low: 0, high: 1, rows: new Map(), all: false };
const scroller = document.getElementById("rows");
const body = document.querySelector("#leaderboard tbody");
const top_ = el("tr", { class: "spacer", "aria-hidden": "true" }, el("td"));
const bottom = el("tr", { class: "spacer", "aria-hidden": "true" }, el("td"));

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
  document.getElementById("note").textContent = note(b);
  document.getElementById("count").textContent = view.order.length === b.size ? `${grouped(b.size)} encoders` : `${grouped(view.order.length)} of ${grouped(b.size)} encoders`;
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
