// A trace as bars under each other, each with how the edge to its parent was found.
import { el } from "/static/parts.js";
import { milliseconds } from "/static/format.js";

const DEEPEST = 30;
const SURE = 0.75;
const METHODS = {
  seq: "TCP sequence numbers", thread: "same thread", header: "ids in the request's headers",
  request_id: "request id", timing: "timing inside the process", "as sent": "as its sender said",
};

// Spans in order of the tree, [span, depth]; a loop or an absent parent begins a tree of its own.
function ordered(spans) {
  const known = new Map(spans.map((span) => [span.span_id, span]));
  const below = new Map();
  const tops = [];
  for (const span of spans) {
    const parent = known.get(span.parent_id);
    if (!parent || parent === span) tops.push(span);
    else if (below.has(parent.span_id)) below.get(parent.span_id).push(span);
    else below.set(parent.span_id, [span]);
  }
  const seen = new Set();
  const rows = [];
  for (const top of [...tops, ...spans]) {
    const stack = [[top, 0]];
    while (stack.length) {
      const [span, depth] = stack.pop();
      if (seen.has(span)) continue;
      seen.add(span);
      rows.push([span, depth]);
      for (const child of (below.get(span.span_id) ?? []).toReversed()) stack.push([child, depth + 1]);
    }
  }
  return rows;
}

function edge(span) {
  if (!span.method) return "";
  const sure = span.confidence === null ? "" : ` ${span.confidence.toFixed(2).replace(/^0|\.00$/g, "")}`;
  const unsure = span.confidence !== null && span.confidence < SURE;
  return el("span", { class: unsure ? "edge unsure" : "edge" }, span.method + sure);
}

function detail(span) {
  const facts = {
    "found by": span.method ? `${METHODS[span.method] ?? span.method}${span.confidence === null ? "" : `, ${(100 * span.confidence).toFixed(0)} % sure`}` : "it is a root",
    kind: span.kind || "unknown", host: span.host || "unknown", "span id": span.span_id, "parent id": span.parent_id || "none",
    duration: milliseconds(span.duration_ms),
    ...(span.clock_offset_ms === null ? {} : { "clock of the host": `ahead by ${milliseconds(span.clock_offset_ms)}` }),
  };
  return el("div", { class: "detail" }, el("dl", {}, ...Object.entries(facts).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])));
}

export function waterfall(spans) {
  // a span whose start is not known would lie far to the left of all others
  const length = Math.max(...spans.map((span) => span.after_ms + span.duration_ms), 1e-6);
  const rows = ordered(spans).map(([span, depth]) => {
    const name = el("span", { class: "name" }, el("b", {}, span.service), ` ${span.name || "(no name)"}`);
    name.style.paddingLeft = `${0.8 * Math.min(depth, DEEPEST)}rem`;
    const bar = el("i", span.error ? { class: "failed" } : {});
    const left = Math.max(0, (100 * span.after_ms) / length);
    const wide = Math.max(0, Math.min(100 - left, (100 * span.duration_ms) / length));
    bar.style.left = `${left}%`;
    bar.style.width = `${wide}%`;
    const behind = left + wide <= 85;
    const text = el("em", behind || left >= 15 ? {} : { class: "on" }, milliseconds(span.duration_ms));
    if (!behind && left >= 15) text.style.right = `${100 - left}%`;
    else text.style.left = `${behind ? left + wide : left}%`;
    const row = el("button", { class: "span", type: "button", "aria-expanded": "false" }, name, el("span", {}, edge(span)), el("span", { class: "track" }, bar, text));
    row.addEventListener("click", () => {
      const open = row.getAttribute("aria-expanded") === "true";
      row.setAttribute("aria-expanded", String(!open));
      if (open) row.nextElementSibling.remove();
      else row.after(detail(span));
    });
    return row;
  });
  return el("div", { class: "waterfall" }, ...rows);
}
