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
  const half = Z95 * nan(error);
  return fixed(nan(value), digits) + (Number.isFinite(half) && value !== null ? ` ±\u202f${fixed(half, digits)}` : "");
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
  { key: "rank", label: "Rank", width: 86, up: true, title: "Places the standard errors leave open",
    value: (b, i) => MEMBERS[i].place, text: (b, i) => rankText(MEMBERS[i]) },
  { key: "encoder", label: "Encoder", left: true, up: true, value: (b, i) => MEMBERS[i].name, cell: nameCell },
  { key: "kind", label: "Kind", width: 96, left: true, up: true, value: (b, i) => MEMBERS[i].kind, text: (b, i) => MEMBERS[i].kind },
  { key: "score", label: "Structure", width: 210, left: true, title: "Structure score, half its 95 % interval, and the interval drawn",
    value: (b, i) => MEMBERS[i].structure[0], cell: scoreCell },
  ...DATA.families.map((name, k) => ({ key: name, label: name[0].toUpperCase() + name.slice(1), width: 88,
    title: `Structure score of the family ${name}`, value: (b, i) => MEMBERS[i].families[k][0], text: (b, i) => fixed(MEMBERS[i].families[k][0], 3) })),
  { key: "published", label: "Published", width: 106, title: "Published score at eps 0, half its 95 % interval",
    value: (b, i) => nan(MEMBERS[i].published[0]), text: (b, i) => measured(MEMBERS[i].published, 2) },
  { key: "accuracy", label: "Accuracy", width: 145, title: "Of linear probes: mean over the data sets, lowest and highest",
    value: (b, i) => MEMBERS[i].accuracy[0],
    text: (b, i) => { const [mean, low, high] = MEMBERS[i].accuracy; return `${fixed(mean, 3)} (${fixed(low, 2)}–${fixed(high, 2)})`; } },
  { key: "parameters", label: "Parameters", width: 116, up: true, value: (b, i) => MEMBERS[i].parameters, text: (b, i) => short(MEMBERS[i].parameters) },
];
const columns = () => COLUMNS;

function note(b) {
  return `The bar is the 95 % interval of each structure score alone, from ${fixed(view.low, 2)} to ${fixed(view.high, 2)}. A name opens the details, with the command that measures it again.`;
}

function showDetail(i) {
  const one = MEMBERS[i];
  openDetail(one.name, [
    facts([
      ["Kind", one.kind], ["Trained for", one.trained_for], ["Half", one.half], ["Rank", rankText(one)],
      ["Structure score", `${measured(one.structure, 4)} (half the 95 % interval)`],
      ["By family", DATA.families.map((name, k) => `${name} ${measured(one.families[k], 3)}`).join(", ")],
      ["Published score", one.published[0] === null ? null : `${measured(one.published, 4)} at eps 0, above accuracy 0.6`],
      ["Parameters", grouped(one.parameters)], ["Feature dimension F", grouped(one.features)],
    ]),
    el("h3", {}, "Run it again"), commandBox(one.command),
    el("h3", {}, "Accuracy of linear probes, half the 95 % interval"),
    facts(Object.entries(one.data).map(([name, values]) => [name, measured(values, 3)])),
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
addEventListener("resize", () => drawRows());
refreshTable();
