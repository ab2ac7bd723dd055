// The dialog about one encoder, and the command that repeats its row.

function facts(pairs) {
  return el("dl", {}, ...pairs.flatMap(([name, value]) => value === null || value === "" || value === undefined ? [] : [el("dt", {}, name), el("dd", {}, String(value))]));
}

function commandBox(command) {
  const text = el("pre", {}, command);
  const button = el("button", { type: "button", id: "copy", onclick: () => copy(command, text, button) }, "Copy");
  return el("div", { class: "command" }, text, button);
}

function openDetail(title, parts) {
  control("detail-heading").textContent = title;
  control("detail-body").replaceChildren(...parts);
  control("detail").showModal();
}

async function copy(text, node, button) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch { // not allowed here: select it, so that the usual key copies it
    const range = document.createRange();
    range.selectNodeContents(node);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

control("close").addEventListener("click", () => control("detail").close());
