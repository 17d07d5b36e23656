// Services as boxes in columns, callers to the left of those they call.
import { svg } from "/static/parts.js";
import { milliseconds, number, percent } from "/static/format.js";

const [WIDE, HIGH, GAP_X, GAP_Y] = [190, 44, 80, 18];

// Column of each service: one behind its callers, as far as calls do not go round in a circle.
function columns(services, calls) {
  const column = new Map(services.map((service) => [service.name, 0]));
  for (let round = 0; round < services.length; round++) {
    let moved = false;
    for (const call of calls) {
      const behind = column.get(call.from) + 1;
      if (column.get(call.to) < behind && behind < services.length && !reaches(calls, call.to, call.from)) {
        column.set(call.to, behind);
        moved = true;
      }
    }
    if (!moved) break;
  }
  return column;
}

function reaches(calls, from, to) {
  const seen = new Set([from]);
  const open = [from];
  while (open.length) {
    const at = open.pop();
    if (at === to) return true;
    for (const call of calls) if (call.from === at && !seen.has(call.to)) { seen.add(call.to); open.push(call.to); }
  }
  return false;
}

export function serviceMap({ services, calls }) {
  const column = columns(services, calls);
  const filled = [];
  const place = new Map();
  for (const service of services) {
    const at = column.get(service.name);
    filled[at] = (filled[at] ?? 0) + 1;
    place.set(service.name, [at * (WIDE + GAP_X), (filled[at] - 1) * (HIGH + GAP_Y)]);
  }
  const most = Math.max(...[...filled].map((count) => count ?? 0));
  const drawing = svg("svg", {
    class: "map", role: "img", "aria-label": "map of services; the tables below say the same",
    viewBox: `-4 -4 ${filled.length * (WIDE + GAP_X) - GAP_X + 8} ${most * (HIGH + GAP_Y) - GAP_Y + 8}`,
  });
  const tip = svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: "8", refY: "4", markerWidth: "7", markerHeight: "7", orient: "auto" }, svg("path", { class: "tip", d: "M0 0L8 4L0 8z" }));
  drawing.append(svg("defs", {}, tip));
  for (const call of calls) {
    const [x1, y1] = place.get(call.from);
    const [x2, y2] = place.get(call.to);
    const [a, b] = [[x1 + WIDE, y1 + HIGH / 2], [x2, y2 + HIGH / 2]];
    const path = svg("path", { d: `M${a}C${a[0] + GAP_X / 2} ${a[1]} ${b[0] - GAP_X / 2} ${b[1]} ${b}`, "marker-end": "url(#tip)", ...(call.errors > 0.05 ? { class: "failing" } : {}) });
    path.append(svg("title", {}, `${call.from} to ${call.to}: ${number(call.per_s)} calls/s, ${percent(call.errors)} failed, p95 ${call.p95_ms === null ? "unknown" : milliseconds(call.p95_ms)}`));
    drawing.append(path);
  }
  for (const service of services) {
    const [x, y] = place.get(service.name);
    const name = service.name.length > 26 ? `${service.name.slice(0, 25)}…` : service.name;
    drawing.append(
      svg("g", {},
        svg("rect", { x, y, width: WIDE, height: HIGH, rx: 6, ...(service.errors > 0.05 ? { class: "failing" } : {}) }),
        svg("text", { x: x + 8, y: y + 18 }, name),
        svg("text", { x: x + 8, y: y + 34, class: "small" }, `${number(service.per_s)}/s  ${percent(service.errors)} failed  p95 ${service.p95_ms === null ? "–" : milliseconds(service.p95_ms)}`),
        svg("title", {}, service.name),
      ),
    );
  }
  return drawing;
}
