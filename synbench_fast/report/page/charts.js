// The drawings: score against cost, curves over scales, the tasks of a suite.

const DASHES = ["", "8 3", "3 3", "10 3 2 3", "", "8 3", "3 3", "10 3 2 3"];
const tip = document.getElementById("tip");

const colour = (i) => `var(--c${slots().get(i)})`;

// One of eight marks, so that colour is never all that tells two encoders apart.
function mark(slot, x, y, r = 4) {
  const paths = [
    `M${x - r},${y}a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0`,
    `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    `M${x},${y - 1.3 * r}L${x + 1.2 * r},${y + r}H${x - 1.2 * r}z`,
    `M${x},${y - 1.4 * r}L${x + 1.4 * r},${y}L${x},${y + 1.4 * r}L${x - 1.4 * r},${y}z`,
    `M${x},${y + 1.3 * r}L${x + 1.2 * r},${y - r}H${x - 1.2 * r}z`,
    `M${x - r},${y - r / 3}h${r - r / 3}v${r / 3 - r}h${2 * r / 3}v${r - r / 3}h${r - r / 3}v${2 * r / 3}h${r / 3 - r}v${r - r / 3}h${-2 * r / 3}v${r / 3 - r}h${r / 3 - r}z`,
    `M${x - 1.3 * r},${y}L${x},${y - 0.8 * r}L${x + 1.3 * r},${y}L${x},${y + 0.8 * r}z`,
    `M${x - r},${y - r}L${x + r},${y + r}M${x + r},${y - r}L${x - r},${y + r}`,
  ];
  const colourOf = `var(--c${slot})`;
  return svg("path", { d: paths[slot], fill: slot === 7 ? "none" : colourOf, stroke: slot === 7 ? colourOf : "var(--card)", "stroke-width": slot === 7 ? 2 : 0.8 });
}

function linearTicks(low, high, count) {
  const raw = (high - low) / count || 1;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * size).find((one) => one >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push([k * step, String(Number((k * step).toPrecision(6)))]);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const wide = Math.log10(high / low) > 3;
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const digit of wide ? [1] : [1, 2, 5]) {
      const value = digit * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) ticks.push([value, short(value).replace("\u202f", "")]);
    }
  return ticks;
}

// Axes with a grid; returns the drawing and the two scales.
function frame({ width, height, x, y, xTitle, yTitle, log = false, label }) {
  const box = { left: 50, right: 22, top: 10, bottom: 36 };
  const inner = { w: width - box.left - box.right, h: height - box.top - box.bottom };
  const along = log ? (v) => Math.log(v / x[0]) / Math.log(x[1] / x[0]) : (v) => (v - x[0]) / (x[1] - x[0]);
  const sx = (v) => box.left + inner.w * along(v);
  const sy = (v) => box.top + inner.h * (1 - (v - y[0]) / (y[1] - y[0]));
  const id = `clip${(frame.count = (frame.count || 0) + 1)}`;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  drawing.append(svg("clipPath", { id }, svg("rect", { x: box.left, y: box.top - 4, width: inner.w + 6, height: inner.h + 8 })));
  let end = -Infinity; // of the last label: the next one must leave it room
  for (const [value, text] of log ? logTicks(...x) : linearTicks(...x, Math.max(3, inner.w / 70))) {
    drawing.append(svg("path", { class: "grid", d: `M${sx(value)},${box.top}v${inner.h}` }));
    const half = textWidth(text, "11px") / 2;
    if (sx(value) - half < end + 6) continue;
    end = sx(value) + half;
    drawing.append(svg("text", { x: sx(value), y: height - 21, "text-anchor": "middle" }, text));
  }
  for (const [value, text] of linearTicks(...y, Math.max(3, inner.h / 45))) {
    drawing.append(svg("path", { class: "grid", d: `M${box.left},${sy(value)}h${inner.w}` }));
    drawing.append(svg("text", { x: box.left - 7, y: sy(value) + 4, "text-anchor": "end" }, text));
  }
  drawing.append(svg("text", { class: "title", x: box.left + inner.w / 2, y: height - 5, "text-anchor": "middle" }, xTitle));
  if (yTitle) drawing.append(svg("text", { class: "title", transform: `translate(12 ${box.top + inner.h / 2}) rotate(-90)`, "text-anchor": "middle" }, yTitle));
  return { drawing, sx, sy, clip: `url(#${id})`, box, inner };
}

// A hint at the point nearest to the pointer; `points` are {x, y, text, i}.
function hints(drawing, points, onpick) {
  const ring = svg("circle", { class: "focus", r: 6, visibility: "hidden" });
  drawing.append(ring);
  const nearest = (event) => {
    const area = drawing.getBoundingClientRect();
    const [px, py] = [event.clientX - area.left, event.clientY - area.top];
    let found = null, least = 18 ** 2;
    for (const one of points) {
      const distance = (one.x - px) ** 2 + (one.y - py) ** 2;
      if (distance < least) [found, least] = [one, distance];
    }
    return found;
  };
  drawing.addEventListener("mousemove", (event) => {
    const one = nearest(event);
    tip.hidden = !one;
    ring.setAttribute("visibility", one ? "visible" : "hidden");
    drawing.style.cursor = one && onpick ? "pointer" : "";
    if (!one) return;
    ring.setAttribute("cx", one.x);
    ring.setAttribute("cy", one.y);
    tip.textContent = one.text();
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  });
  drawing.addEventListener("mouseleave", () => {
    tip.hidden = true;
    ring.setAttribute("visibility", "hidden");
  });
  if (onpick) drawing.addEventListener("click", (event) => {
    const one = nearest(event);
    if (one) onpick(one.i);
  });
}

// Names beside their marks, on the side with more room, pushed apart and shortened so that all can be read.
function placeLabels(drawing, labels, width, height) {
  labels.sort((p, q) => p.y - q.y);
  let free = 12;
  for (const one of labels) free = (one.label = Math.max(one.y + 4, free)) + 14;
  free = height - 42; // above the axis
  for (const one of [...labels].reverse()) free = (one.label = Math.min(one.label, free)) - 14;
  for (const one of labels) {
    const [before, behind] = [one.x - 50, width - one.x]; // 50: the numbers of the axis
    const left = before > behind, room = Math.max(before, behind) - 14;
    drawing.append(svg("text", { class: "label", x: one.x + (left ? -9 : 9), y: one.label, "text-anchor": left ? "end" : "start" },
      fitted(board().labels[one.i], room, "11.5px")));
  }
}

function drawScatter() {
  const b = board(), place = document.getElementById("scatter");
  const cost = b.members[state.cost];
  const all = [];
  for (let i = 0; i < b.size; i++) {
    const value = scoreOf(b, i)[0];
    if (cost[i] > 0 && Number.isFinite(value)) all.push({ i, cost: cost[i], value });
  }
  if (!all.length) {
    place.replaceChildren(el("p", { class: "small" }, "No encoder here has both numbers."));
    return;
  }
  let [low, high] = [Infinity, 0];
  for (const one of all) {
    low = Math.min(low, one.cost);
    high = Math.max(high, one.cost);
  }
  const width = Math.max(280, place.clientWidth), height = 452;
  const { drawing, sx, sy, clip } = frame({
    width, height, x: [low / 1.25, high * 1.25], y: [view.low, view.high], log: true,
    xTitle: `${COSTS[state.cost]} (logarithmic)`, yTitle: "Score",
    label: `Score against ${COSTS[state.cost].toLowerCase()} of ${all.length} encoders; the table has the numbers`,
  });
  const visible = new Set(view.order);
  for (const one of all) [one.x, one.y] = [sx(one.cost), sy(one.value)];
  const dots = (list) => list.map((one) => `M${one.x.toFixed(1)},${one.y.toFixed(1)}h0`).join("");
  drawing.append(svg("path", { class: "dots off", d: dots(all.filter((one) => !visible.has(one.i))) }));
  drawing.append(svg("path", { class: "dots", d: dots(all.filter((one) => visible.has(one.i))) }));
  const cheapUp = state.cost === "images_per_second"; // more of it is better; of the other costs less
  const sorted = [...all].sort((p, q) => (cheapUp ? q.cost - p.cost : p.cost - q.cost) || q.value - p.value);
  let best = -Infinity, front = "";
  for (const one of sorted) if (one.value > best) {
    front += front ? `H${one.x}V${one.y}` : `M${one.x},${one.y}`;
    best = one.value;
  }
  drawing.append(svg("path", { class: "front", d: front, "clip-path": clip }));
  const labels = [];
  for (const one of all.filter((p) => slots().has(p.i))) {
    const [, , below, above] = scoreOf(b, one.i);
    if (Number.isFinite(below) && Number.isFinite(above))
      drawing.append(svg("path", { d: `M${one.x},${sy(below)}V${sy(above)}`, stroke: colour(one.i), "stroke-width": 1.6, "clip-path": clip }));
    drawing.append(mark(slots().get(one.i), one.x, one.y, 5));
    labels.push(one);
  }
  placeLabels(drawing, labels, width, height);
  hints(drawing, all.map((one) => ({ ...one, text: () => `${b.labels[one.i]}\nscore ${fixed(one.value, 4)}, ${COSTS[state.cost].toLowerCase()} ${short(one.cost)}` })),
    (i) => choose(i, !chosen().includes(i)));
  place.replaceChildren(drawing, el("p", { class: "small" }, "Dotted: no other encoder is both better and cheaper. Click a point to choose it."));
}

// [accuracy, robust accuracy, bound] of a member at each scale, and the raw data's [accuracy, bound].
function curveOf(b, i, task) {
  const one = b.tasks[task];
  const row = b.curveRow.get(i);
  return one.scales.map((_, s) => {
    const at = ((row * one.scales.length + s) * b.eps.length + state.e) * 3;
    return [one.curves[at], one.curves[at + 1], one.curves[at + 2]];
  });
}

function drawCurves() {
  const b = board(), place = document.getElementById("curves");
  const task = b.suite ? (typeof state.of === "number" ? state.of : state.task) : 0;
  const { scales, raw } = b.tasks[task];
  const threshold = b.thresholds[state.a];
  const rawAt = (s) => [raw[(s * b.eps.length + state.e) * 2], raw[(s * b.eps.length + state.e) * 2 + 1]];
  const curves = chosen().filter((i) => b.curveRow.has(i)).map((i) => ({ i, points: curveOf(b, i, task) }));
  let highest = 1.2;
  for (let s = 0; s < scales.length; s++) {
    const [accuracy, bound] = rawAt(s);
    for (const [a, d] of [[accuracy, bound], ...curves.map((one) => [one.points[s][0], one.points[s][2]])])
      if (a > threshold && Number.isFinite(d)) highest = Math.max(highest, d);
  }
  const span = scales.length > 1 ? [Math.min(0, scales[0]), scales[scales.length - 1]] : [0, 2 * scales[0]];
  const limit = Math.min(highest * 1.08, 6);
  const panels = [
    { title: "Accuracy over scale", x: span, y: [0.45, 1.005], xTitle: "scale", of: (p, s) => [scales[s], p[0]], raw: (s) => [scales[s], rawAt(s)[0]], level: "y" },
    { title: "Accuracy under attack over scale", x: span, y: [0.45, 1.005], xTitle: "scale", of: (p, s) => [scales[s], p[1]], raw: null },
    { title: "Scaled bound over scale", x: span, y: [0, limit], xTitle: "scale", of: (p, s) => [scales[s], p[2]], raw: (s) => [scales[s], rawAt(s)[1]] },
    { title: "Scaled bound over accuracy", x: [0.48, 1.005], y: [0, limit], xTitle: "accuracy; what is right of the line counts", of: (p) => [p[0], p[2]], raw: (s) => rawAt(s), level: "x" },
  ];
  const width = Math.max(240, (place.clientWidth - 18) / (innerWidth > 600 ? 2 : 1)), height = 222;
  place.replaceChildren(...panels.map((panel) => {
    const names = chosen().map((i) => b.labels[i]).join(", ");
    let lowest = panel.y[0];
    if (panel.y[0] === 0.45)
      for (const one of curves) for (let s = 0; s < scales.length; s++) {
        const value = panel.of(one.points[s], s)[1];
        if (value < lowest) lowest = Math.max(0, Math.floor(value * 10) / 10);
      }
    const { drawing, sx, sy, clip, box, inner } = frame({
      width, height, x: panel.x, y: [lowest, panel.y[1]], xTitle: panel.xTitle, yTitle: "",
      label: `${panel.title} of ${names || "no encoder"}${panel.raw ? ", and of the raw data" : ""}`,
    });
    if (panel.level === "y") drawing.append(svg("path", { class: "level", d: `M${box.left},${sy(threshold)}h${inner.w}` }));
    if (panel.level === "x") drawing.append(svg("path", { class: "level", d: `M${sx(threshold)},${box.top}v${inner.h}` }));
    const path = (points) => {
      let text = "", on = false;
      for (const [x, y] of points) {
        if (Number.isFinite(x) && Number.isFinite(y)) text += `${on ? "L" : "M"}${sx(x).toFixed(1)},${Math.max(-1e4, sy(y)).toFixed(1)}`;
        on = Number.isFinite(x) && Number.isFinite(y);
      }
      return text;
    };
    const found = [];
    const hint = (name, x, y, s) => {
      if (Number.isFinite(x) && Number.isFinite(y) && y <= panel.y[1])
        found.push({ x: sx(x), y: sy(y), text: () => `${name}\nscale ${short(scales[s])}: ${panel.title.split(" over")[0].toLowerCase()} ${fixed(y, 4)}` });
    };
    if (panel.raw) {
      const points = scales.map((_, s) => panel.raw(s));
      drawing.append(svg("path", { class: "raw", d: path(points), "clip-path": clip }));
      points.forEach(([x, y], s) => hint("raw data, the optimum", x, y, s));
    }
    for (const one of curves) {
      const points = one.points.map((p, s) => panel.of(p, s));
      const slot = slots().get(one.i);
      const ordered = panel.level === "x" ? points.filter(([x]) => x > 0.5) : points;
      drawing.append(svg("path", { class: "line", d: path(ordered), stroke: colour(one.i), "stroke-dasharray": DASHES[slot], "clip-path": clip, "data-encoder": b.labels[one.i] }));
      points.forEach(([x, y], s) => hint(b.labels[one.i], x, y, s));
      const every = Math.max(1, Math.ceil(points.length / 6));
      points.forEach(([x, y], s) => {
        if (s % every === slot % every && y <= panel.y[1] && y >= lowest && x >= panel.x[0]) drawing.append(mark(slot, sx(x), sy(y), 3.4));
      });
    }
    hints(drawing, found, null);
    return el("figure", {}, el("h3", {}, panel.title), drawing);
  }));
  const without = chosen().length - curves.length;
  if (without) place.append(el("p", { class: "small" }, `Curves of ${without} chosen are not in this page, which has those of the ${grouped(b.curveRow.size)} best.`));
}

function drawMatrix() {
  const b = board(), section = document.getElementById("tasks");
  section.hidden = !b.suite;
  if (!b.suite) return;
  const table = document.getElementById("matrix");
  const head = el("tr", {}, el("th", { scope: "col" }, "Encoder"), ...["Mean", "Worst", ...b.tasks.map((one) => one.name), ...b.families.map((one) => one.name)].map((one) => el("th", { scope: "col" }, one)));
  const rows = chosen().map((i) => {
    const numbers = suiteNumbers(b, i), worst = worstTask(b, i);
    const interval = (k) => [fixed(numbers[k], 3), el("span", { class: "dim" }, ` ${fixed(numbers[k + 2], 3)} to ${fixed(numbers[k + 3], 3)}`)];
    const cells = b.tasks.map((one, t) => {
      const [value, stderr] = taskScore(b, i, t);
      const strength = Math.round(55 * Math.min(1, Math.max(0, value || 0)));
      const cell = el("td", { title: `${one.name}: ${fixed(value, 4)} ± ${fixed(stderr, 4)} (one standard error)` },
        t === worst ? el("strong", {}, fixed(value, 3)) : fixed(value, 3), t === worst ? el("span", { class: "hidden" }, " worst") : "");
      cell.style.background = `color-mix(in srgb, var(--accent) ${strength}%, var(--card))`;
      return cell;
    });
    return el("tr", {}, el("th", { scope: "row", title: b.labels[i] }, b.labels[i]), el("td", {}, ...interval(0)), el("td", {}, ...interval(4)), ...cells, ...b.families.map((one) => familyCell(one, i)));
  });
  table.replaceChildren(el("thead", {}, head), el("tbody", {}, ...rows));
}

// A task of a family: its score, and in the hint how well pairs of classes are told apart.
function familyCell(family, i) {
  const [value, stderr, pairs, optimum] = family.numbers[i].map(nan);
  const best = Number.isFinite(optimum) ? `, the optimum's ${fixed(optimum, 4)}` : "";
  return el("td", { title: `${family.name}: ${fixed(value, 4)} ± ${fixed(stderr, 4)} (one standard error); accuracy of pairs of classes ${fixed(pairs, 4)}${best}` }, fixed(value, 3));
}

function drawLegend() {
  const b = board();
  const sample = (slot) => {
    const drawing = svg("svg", { width: 30, height: 12, "aria-hidden": "true" });
    drawing.append(svg("path", { class: "line", d: "M1,6h28", stroke: `var(--c${slot})`, "stroke-dasharray": DASHES[slot] }), mark(slot, 15, 6, 4));
    return drawing;
  };
  const items = chosen().map((i) => el("li", {}, sample(slots().get(i)), el("span", { title: b.labels[i] }, b.labels[i]),
    el("button", { type: "button", "aria-label": `Do not draw ${b.labels[i]}`, onclick: () => choose(i, false) }, "✕")));
  const raw = svg("svg", { width: 30, height: 12, "aria-hidden": "true" }, svg("path", { class: "raw", d: "M1,6h28" }));
  document.getElementById("legend").replaceChildren(...items, el("li", { class: "plain" }, raw, el("span", {}, "raw data, the optimum")));
}

function drawCharts() {
  tip.hidden = true;
  drawLegend();
  drawScatter();
  drawCurves();
  drawMatrix();
}
