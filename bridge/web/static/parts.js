// Pieces of the page.

export function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// A card with a title; a last part "wide" makes it as wide as the page.
export function card(title, ...parts) {
  const wide = parts.at(-1) === "wide";
  return el("section", { class: wide ? "card wide" : "card" }, el("h2", {}, title), ...(wide ? parts.slice(0, -1) : parts));
}

const isNumber = (cell) => typeof cell === "string" && /^-?[\d.,–]+( ?[%a-zµ]+)?$/i.test(cell);

export function table(heads, rows) {
  const cell = (value) => el("td", isNumber(value) ? { class: "number" } : {}, value);
  const body = rows.map((row) => el("tr", {}, ...row.map(cell)));
  const numeric = heads.map((_, at) => rows.length > 0 && rows.every((row) => isNumber(row[at])));
  const head = heads.some(Boolean)
    ? [el("thead", {}, el("tr", {}, ...heads.map((text, at) => (text ? el("th", { scope: "col", ...(numeric[at] ? { class: "number" } : {}) }, text) : el("td", {})))))]
    : [];
  return el("table", {}, ...head, el("tbody", {}, ...body));
}

export function meter(label, value, limit) {
  const share = limit ? Math.min(1, value / limit) : 0;
  const bar = el("i", {});
  bar.style.width = `${100 * share}%`;
  return el("div", {}, el("div", {}, label), el("div", { class: share > 0.9 ? "meter full" : "meter" }, bar));
}

// Lines of [time, rate] points on one scale.
export function sparkline(lines) {
  const all = Object.values(lines).flat();
  const drawing = svg("svg", { class: "line", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": "spans per second in and out over the last hour" });
  if (all.length < 2) return drawing;
  const times = all.map((point) => point[0]);
  const [first, last] = [Math.min(...times), Math.max(...times)];
  const most = Math.max(1, ...all.map((point) => point[1]));
  for (const [name, points] of Object.entries(lines)) {
    const places = points.map(([time, rate]) => `${((100 * (time - first)) / (last - first || 1)).toFixed(2)} ${(39 - (38 * rate) / most).toFixed(2)}`);
    if (places.length) drawing.append(svg("path", { class: name, d: `M${places.join("L")}` }));
  }
  return drawing;
}
