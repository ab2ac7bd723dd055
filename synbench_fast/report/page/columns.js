// The columns of the leaderboard and what its cells show.

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

function field(name) {
  return (b, i) => nan(b.members[name][i]);
}

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
