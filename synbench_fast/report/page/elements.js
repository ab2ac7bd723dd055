// Numbers as text, and elements: what every page with a table begins with.

const control = (id) => document.getElementById(id);

function nan(value) {
  return value === null || value === undefined ? NaN : value;
}

function fixed(value, digits) {
  return Number.isFinite(value) ? value.toFixed(digits) : "–";
}

function grouped(value) {
  return value === null || !Number.isFinite(value) ? "–" : Math.round(value).toLocaleString("en").replace(/,/g, "\u202f");
}

function short(value, unit = "") {
  if (value === null || !Number.isFinite(value)) return "–";
  for (const [size, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}\u202f${name}${unit}`;
  return `${Number(value.toPrecision(3))}${unit ? "\u202f" + unit : ""}`;
}

// Elements from text and nothing else: no string of a result is ever read as markup.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((one) => one !== null && one !== ""));
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function options(select, entries, value) {
  select.replaceChildren(...entries.map(([key, text]) => el("option", { value: String(key) }, text)));
  select.value = String(value);
}
