// The columns of the leaderboard and what its cells show.

const MOST = 8; // encoders drawn at once: as many as the palette has colours

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

function field(name) {
  return (b, i) => nan(b.members[name][i]);
}

// The columns of the board; where the window is narrow, the name and the scores come first.
function columns() {
  const b = board();
  const shown = COLUMNS.filter((one) => (!one.suite || b.suite) && (!one.structured || b.structured));
  if (!NARROW.matches) return shown;
  const first = ["pick", "encoder", "structure", "score"];
  return [...shown.filter((one) => first.includes(one.key)), ...shown.filter((one) => !first.includes(one.key))];
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

function note(b) {
  const found = ranking(b);
  const methods = {
    pairs: "Ranks hold together with 95 %, simulated over all pairs.",
    bound: "Ranks hold together with at least 95 %: all pairs, Sidak's bound.",
    separate: "Ranks hold together with at least 95 %: intervals that do not overlap (Bonferroni).",
    none: "Not ranked.",
  };
  const rank = found ? methods[found.method] + (found.note ? ` ${found.note}.` : "")
    : b.suite ? "Ranks are those of the mean over the tasks." : `Ranks were made at ${b.ranks.map((one) => `eps ${one.eps}, accuracy ${one.threshold}`).join("; ")}.`;
  return `The bar is the 95 % interval of each score alone, from ${fixed(view.low, 2)} to ${fixed(view.high, 2)}. ${rank}`;
}
