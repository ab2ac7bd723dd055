// The page's data, decoded: boards with their numbers, and how the numbers are found and written.

const DATA = JSON.parse(document.getElementById("data").textContent);

function floats(text) {
  const bytes = atob(text);
  const buffer = new Uint8Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) buffer[i] = bytes.charCodeAt(i);
  return new Float32Array(buffer.buffer);
}

const BOARDS = DATA.boards.map((raw) => {
  const members = raw.members;
  return {
    ...raw,
    size: members.spec.length,
    structured: members.structure.some((one) => one !== null),
    numbers: floats(raw.numbers),
    means: raw.suite ? floats(raw.means) : null,
    ranks: raw.ranks.map((one) => ({ ...one, values: floats(one.values) })),
    tasks: raw.tasks.map((one) => ({ ...one, curves: floats(one.curves), raw: floats(one.raw) })),
    curveRow: new Map(raw.drawn.map((i, row) => [i, row])),
    words: members.spec.map((spec, i) =>
      [spec, members.configuration[i], members.device[i], members.dtype[i]].join(" ").toLowerCase()),
    labels: members.spec.map((spec, i) =>
      members.configuration[i] ? `${spec} (${members.configuration[i]})` : spec),
  };
});

const state = {
  board: 0, e: 0, a: 0, of: "mean", task: 0, filter: "", sort: "score", down: true,
  cost: "images_per_second", chosen: BOARDS.map(() => []), slots: BOARDS.map(() => new Map()),
};

const board = () => BOARDS[state.board];
const chosen = () => state.chosen[state.board];
const slots = () => state.slots[state.board];

// [score, standard error, low, high] of a member: of a suite the mean, the worst task or one task.
function scoreOf(b, i) {
  const point = (i * b.eps.length + state.e) * b.thresholds.length + state.a;
  if (b.suite && state.of === "mean") return b.means.subarray(point * 8, point * 8 + 4);
  if (b.suite && state.of === "worst") return b.means.subarray(point * 8 + 4, point * 8 + 8);
  return taskScore(b, i, b.suite ? state.of : 0);
}

function taskScore(b, i, task) {
  const place = ((i * b.tasks.length + task) * b.eps.length + state.e) * b.thresholds.length + state.a;
  return b.numbers.subarray(place * 4, place * 4 + 4);
}

function suiteNumbers(b, i) {
  const point = (i * b.eps.length + state.e) * b.thresholds.length + state.a;
  return b.means.subarray(point * 8, point * 8 + 8);
}

function worstTask(b, i) {
  return b.worst[i][state.e * b.thresholds.length + state.a];
}

function ranking(b) {
  if (b.suite && state.of !== "mean") return null;
  return b.ranks.find((one) => one.eps === b.eps[state.e] && one.threshold === b.thresholds[state.a]) || null;
}

function widthOf(b, i) { // F, and how many directions of the features vary
  const { feature_dim: features, dropped } = b.members;
  return grouped(features[i]) + (dropped[i] ? ` (${grouped(features[i] - dropped[i])} vary)` : "");
}

function memory(bytes) {
  return bytes ? (bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)}\u202fGiB` : `${Math.round(bytes / 2 ** 20)}\u202fMiB`) : "–";
}

const COSTS = {
  images_per_second: "Images per second",
  parameters: "Parameters",
  seconds: "Seconds of the run",
  feature_dim: "Feature dimension F",
  peak_memory_bytes: "Peak memory, bytes",
};
