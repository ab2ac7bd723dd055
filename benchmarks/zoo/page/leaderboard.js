// The zoo's encoders: columns, details and controls. The table itself is that of the report.

const DATA = JSON.parse(document.getElementById("data").textContent);
const Z95 = 1.959964;
const MEMBERS = DATA.members;
const BOARD = {
  size: MEMBERS.length,
  labels: MEMBERS.map((one) => one.name),
  words: MEMBERS.map((one) => [one.name, `kind:${one.kind}`, one.trained_for].join(" ").toLowerCase()),
  members: { spec: MEMBERS.map((one) => one.name), configuration: MEMBERS.map(() => "") },
};
const state = { sort: "rank", down: false, filter: "" };
const board = () => BOARD;
const chosen = () => [];

function measured([value, error], digits) {
  return [fixed(nan(value), digits), value !== null && Number.isFinite(nan(error)) ? `±\u202f${fixed(error, digits)}` : ""];
}

function scoreOf(b, i) {
  const [value, error] = MEMBERS[i].structure;
  return [value, error, value - Z95 * error, value + Z95 * error];
}

function rankText(one) {
  const [best, worst] = one.ranks;
  return best === worst ? `${best}` : `${best}–${worst}`;
}

const COLUMNS = [
  { key: "rank", label: "Rank", width: 86, up: true, meaning: "Place by the structure score: 1 is best. 2–4 means that the standard errors do not tell which of these places it is. All ranks hold together with at least 95 %.",
    value: (b, i) => MEMBERS[i].place, text: (b, i) => rankText(MEMBERS[i]) },
  { key: "encoder", label: "Encoder", left: true, up: true, meaning: "A click shows the details, and the command that measures the encoder again.", value: (b, i) => MEMBERS[i].name, cell: nameCell },
  { key: "kind", label: "Kind", width: 96, left: true, up: true, meaning: "Pretrained: a network with the weights of its package. Twin: the same network with random weights. Trivial: colours, means of blocks or random projections of the pixels.", value: (b, i) => MEMBERS[i].kind, text: (b, i) => MEMBERS[i].kind },
  { key: "score", label: "Structure", unit: "± std. error", width: 206, plain: 152, narrow: 84, left: true, meaning: "How far the encoder makes classes of synthetic images linearly separable that no linear map of the pixels separates: 0 is guessing, 1 is no error. ± is one standard error, and the bar the 95 % interval.",
    value: (b, i) => MEMBERS[i].structure[0], cell: scoreCell },
  ...DATA.families.map((name, k) => ({ key: name, label: name[0].toUpperCase() + name.slice(1), width: 84,
    meaning: `Structure score of the family ${name}.`, value: (b, i) => MEMBERS[i].families[k][0], text: (b, i) => fixed(MEMBERS[i].families[k][0], 3) })),
  { key: "published", label: "Published", unit: "± std. error", width: 110, meaning: "The score of the SynBench paper at eps 0 above accuracy 0.6, from an earlier version of the estimator. It does not predict the accuracy. A dash: not measured, or no finite value.",
    value: (b, i) => nan(MEMBERS[i].published[0]), text: (b, i) => measured(MEMBERS[i].published, 2).join(" ") },
  { key: "accuracy", label: "Accuracy", width: 145, meaning: "Accuracy of linear probes: the mean over eight labelled data sets, and in brackets the lowest and the highest of them. The details have all eight with their standard errors.",
    value: (b, i) => MEMBERS[i].accuracy[0],
    text: (b, i) => { const [mean, low, high] = MEMBERS[i].accuracy; return `${fixed(mean, 3)} (${fixed(low, 2)}–${fixed(high, 2)})`; } },
  { key: "parameters", label: "Params", width: 84, up: true, meaning: "Number of parameters of the encoder.", value: (b, i) => MEMBERS[i].parameters, text: (b, i) => short(MEMBERS[i].parameters) },
];

// Where the window is narrow, the name and the score come first.
function columns() {
  if (!NARROW.matches) return COLUMNS;
  const first = ["encoder", "score"];
  return [...COLUMNS.filter((one) => first.includes(one.key)), ...COLUMNS.filter((one) => !first.includes(one.key))];
}

function note(b) {
  return `The bar is the 95 % interval of each structure score alone, from ${fixed(view.low, 2)} to ${fixed(view.high, 2)}. A name opens the details, with the command that measures it again.`;
}

function showDetail(i) {
  const one = MEMBERS[i];
  openDetail(one.name, [
    facts([
      ["Kind", one.kind], ["Trained for", one.trained_for], ["Half", one.half], ["Rank", rankText(one)],
      ["Structure score", `${measured(one.structure, 4).join(" ")} (one standard error)`],
      ["By family", DATA.families.map((name, k) => `${name} ${measured(one.families[k], 3).join(" ")}`).join(", ")],
      ["Published score", one.published[0] === null ? null : `${measured(one.published, 4).join(" ")} at eps 0, above accuracy 0.6`],
      ["Parameters", grouped(one.parameters)], ["Feature dimension F", grouped(one.features)],
    ]),
    el("h3", {}, "Run it again"), commandBox(one.command),
    el("h3", {}, "Accuracy of linear probes ± one standard error"),
    facts(Object.entries(one.data).map(([name, values]) => [name, measured(values, 3).join(" ")])),
  ]);
}

function filtered() {
  state.filter = `${control("kind").value} ${control("filter").value}`;
  scroller.scrollTop = 0;
  refreshTable();
}

options(control("kind"), [["", "all"], ...["pretrained", "twin", "trivial"].map((one) => [`kind:${one}`, one])], "");
control("kind").addEventListener("change", filtered);
control("filter").addEventListener("input", filtered);
control("controls").addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", () => refreshTable());
explain(COLUMNS);
refreshTable();
