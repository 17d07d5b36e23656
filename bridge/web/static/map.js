// Services as boxes in columns, callers to the left of those they call.
import { svg } from "/static/parts.js";
import { milliseconds, number, percent } from "/static/format.js";

const [WIDE, HIGH, GAP_X, GAP_Y] = [190, 44, 80, 18];

// Column of each service: one behind its callers, but for calls that close a circle. Depth first, so that a service is
// left after all it calls: in the order of leaving, turned round, callers come before those they call.
function columns(services, calls) {
  const called = new Map(services.map((service) => [service.name, []]));
  for (const call of calls) called.get(call.from).push(call.to);
  const isCalled = new Set(calls.map((call) => call.to));
  const names = [...called.keys()].sort((a, b) => isCalled.has(a) - isCalled.has(b));
  const left = new Map(); // name: whether it was left already
  const order = [];
  const ahead = new Map(services.map((service) => [service.name, []]));
  for (const name of names) {
    const stack = left.has(name) ? [] : [[name, 0]];
    while (stack.length) {
      const top = stack.at(-1);
      const [at, next] = top;
      if (next === 0) left.set(at, false);
      if (next === called.get(at).length) {
        left.set(at, true);
        order.push(at);
        stack.pop();
        continue;
      }
      const to = called.get(at)[top[1]++];
      if (left.get(to) === false) continue; // it would close a circle
      ahead.get(at).push(to);
      if (!left.has(to)) stack.push([to, 0]);
    }
  }
  const column = new Map(names.map((name) => [name, 0]));
  for (const at of order.toReversed()) {
    for (const to of ahead.get(at)) column.set(to, Math.max(column.get(to), column.get(at) + 1));
  }
  return column;
}

const MOST = 60; // boxes that somebody can still read

export function serviceMap(all) {
  const services = [...all.services].sort((a, b) => b.per_s - a.per_s).slice(0, MOST);
  const shown = new Set(services.map((service) => service.name));
  const calls = all.calls.filter((call) => shown.has(call.from) && shown.has(call.to));
  const column = columns(services, calls);
  const filled = [];
  const place = new Map();
  for (const service of services) {
    const at = column.get(service.name);
    filled[at] = (filled[at] ?? 0) + 1;
    place.set(service.name, [at * (WIDE + GAP_X), (filled[at] - 1) * (HIGH + GAP_Y)]);
  }
  const most = Math.max(...Array.from(filled, (count) => count ?? 0));
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
