// The page of the eSpan bridge. Every text that comes from spans goes into the document as text, never as markup.
import { card, el, meter, sparkline, table } from "/static/parts.js";
import { bytes, clock, milliseconds, number, percent, seconds } from "/static/format.js";
import { serviceMap } from "/static/map.js";
import { waterfall } from "/static/waterfall.js";

const EVERY_MS = 2000;
const main = document.getElementById("main");
let view = { load: async () => {}, live: false };
let generation = 0;

async function ask(path) {
  const token = sessionStorage.getItem("token");
  const header = sessionStorage.getItem("header");
  const shown = token ? { [header ?? "authorization"]: header ? token : `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers: shown });
  if (answer.status === 401) {
    const own = /header="([^"]+)"/.exec(answer.headers.get("www-authenticate") ?? "");
    if (own) sessionStorage.setItem("header", own[1]);
    else sessionStorage.removeItem("header");
    await askForToken();
    return ask(path);
  }
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error ?? answer.statusText);
  return data;
}

let asking;
function askForToken() {
  asking ??= new Promise((done) => {
    const dialog = document.getElementById("token");
    dialog.addEventListener(
      "close",
      () => {
        // what no header can hold is no token, and would make every further request fail
        sessionStorage.setItem("token", dialog.querySelector("input").value.trim().replace(/[^\x21-\x7e]/g, ""));
        asking = undefined;
        done();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

// ---- What holds for every view: the light, problems in words, a line about the bridge.

let status;
async function refresh() {
  try {
    status = await ask("/api/status");
  } catch (error) {
    frame("error", [{ severity: "error", what: `The bridge does not answer: ${error.message}`, do: "Is it running? This page tries again." }]);
    return;
  }
  const worst = status.problems[0]?.severity ?? "good";
  frame(worst, status.problems);
  document.getElementById("about").textContent =
    `Version ${status.version}, up ${seconds(status.uptime_s)}, window ${seconds(status.window_s)}, ` +
    `${percent(status.sampling_rate)} sampled, ${status.workers} ${status.workers === 1 ? "process" : "processes"} taking in`;
}

function frame(worst, problems) {
  const light = document.getElementById("light");
  light.className = `light ${worst}`;
  light.setAttribute("aria-label", { good: "all is well", warning: "something needs a look", error: "something is wrong" }[worst]);
  const shown = problems.map((problem) =>
    el("section", { class: `problem ${problem.severity}` }, el("strong", {}, problem.what), el("p", {}, problem.do)),
  );
  const place = document.getElementById("problems");
  // replaced only when it changed: screen readers read it out each time
  if (place.textContent !== shown.map((part) => part.textContent).join("")) place.replaceChildren(...shown);
}

// ---- Now

function why(reasons) {
  const texts = Object.entries(reasons).map(([reason, count]) => `${reason} ${number(count)}`);
  return texts.length ? texts.join(", ") : "none";
}

async function now() {
  if (!status) return [card("Now", el("p", { class: "quiet" }, "The bridge does not answer yet."))];
  const flow = (name) => status[name].reduce((sum, part) => sum + part.spans_per_s, 0);
  const { lag_s: lag } = status.linker;
  return [
    card(
      "In and out",
      el("div", { class: "figures" },
        el("div", {}, el("div", { class: "figure" }, number(flow("receivers"))), el("div", { class: "quiet" }, "spans/s in")),
        el("div", {}, el("div", { class: "figure" }, number(flow("exporters"))), el("div", { class: "quiet" }, "spans/s out, all exporters")),
      ),
      sparkline(status.lines),
      el("p", { class: "quiet" }, "The last hour: thin line in, thick line out."),
    ),
    card(
      "What waits",
      table(["", ""], [
        ["Spans waiting for their trace", number(status.linker.waiting_spans)],
        ["Spans remembered for late ones", number(status.linker.retained_spans)],
        ["Window: a trace leaves when nothing joined it for", seconds(status.window_s)],
        ["Lag: from the end of its last span until it leaves, median", lag === null ? "not known" : seconds(lag)],
        ["Then undelivered for, at most", seconds(Math.max(0, ...status.exporters.map((e) => e.oldest_undelivered_s)))],
        ["Traces kept for this page", number(status.kept_traces)],
      ]),
    ),
    card(
      "Bounds",
      meter(`Store: ${bytes(status.store.used)} of ${bytes(status.store.limit)}`, status.store.used, status.store.limit),
      meter(`Memory: ${bytes(status.memory.rss_bytes)} of ${bytes(status.memory.limit_bytes)}`, status.memory.rss_bytes, status.memory.limit_bytes),
      el("p", { class: status.memory.pushing_back ? "bad" : "quiet" }, status.memory.pushing_back ? "Senders are pushed back." : "Senders are not pushed back."),
    ),
    card(
      "Receivers",
      table(
        ["receiver", "address", "spans/s", "data/s", "spans", "pushed back or refused/s", "requests pushed back or refused, by reason"],
        status.receivers.map((r) => [
          r.name, r.address || "off", number(r.spans_per_s), bytes(r.bytes_per_s), number(r.spans), number(r.refused_per_s), why(r.refused_by_reason),
        ]),
      ),
      "wide",
    ),
    card(
      "Exporters",
      status.exporters.length
        ? table(
            ["exporter", "spans/s", "spans", "lost", "retries", "ticks queued", "oldest undelivered", "state"],
            status.exporters.map((e) => [
              e.name, number(e.spans_per_s), number(e.spans), number(e.lost_spans), number(e.retries), number(e.queue_ticks),
              e.oldest_undelivered_s ? seconds(e.oldest_undelivered_s) : "–", e.last_error || "delivers",
            ]),
          )
        : el("p", {}, "None: traces are linked, and go nowhere. Add an [exporters.NAME] table to the settings."),
      "wide",
    ),
  ];
}

// ---- Links

async function links() {
  const said = await ask("/api/links");
  const all = Object.values(said.edges).reduce((sum, count) => sum + count, 0);
  const share = (counts, whole) =>
    Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([name, count]) => [name, number(count), ...(whole ? [percent(count / whole)] : [])]);
  const kept = el("p", { class: "quiet" }, `From the ${number(said.kept_traces)} traces kept for this page, not from all.`);
  return [
    card(
      "Edges of the last hour, by how they were found",
      all ? table(["method", "edges", "share"], share(said.edges, all)) : el("p", { class: "quiet" }, "No span has left yet."),
      el("p", { class: "quiet" },
        said.unlinked_share === null ? "" : `${percent(said.unlinked_share)} unlinked: method none, spans without a parent, which are the roots of traces. `,
        `Counted since ${clock(said.since_s * 1000)}.`),
    ),
    card(
      "How sure edges are",
      Object.keys(said.confidence).length
        ? table(["confidence", "edges"], Object.entries(said.confidence).reverse().map(([c, n]) => [c === "1.0" ? "1" : `${c} to ${(Number(c) + 0.1).toFixed(1)}`, number(n)]))
        : el("p", { class: "quiet" }, "No edge is kept."),
      kept,
    ),
    card(
      "Contradictions and oddities",
      Object.keys(said.oddities).length ? table(["kind", "times"], share(said.oddities, 0)) : el("p", { class: "good" }, "None."),
    ),
    card(
      "What became of spans",
      Object.keys(said.outcomes).length ? table(["outcome", "spans"], share(said.outcomes, 0)) : el("p", { class: "quiet" }, "None has left yet."),
    ),
    card(
      "Clocks of hosts",
      said.clocks.length
        ? table(["host", "ahead by"], said.clocks.map((c) => [c.host || "(unnamed)", milliseconds(c.offset_ms)]))
        : el("p", { class: "quiet" }, "Not known: no two hosts were compared."),
      kept.cloneNode(true),
    ),
  ];
}

// ---- Traces

const fields = [
  ["service", "Service", "text"],
  ["resource", "Resource", "text"],
  ["min_duration_ms", "At least (ms)", "number"],
  ["trace_id", "Trace id", "text"],
];

async function traces(parameters) {
  const own = view;
  const found = el("div", { "aria-live": "polite" });
  const form = el(
    "form",
    { class: "search", role: "search" },
    ...fields.map(([name, label, type]) =>
      el("label", {}, label, el("input", { name, type, value: parameters.get(name) ?? "", ...(type === "number" ? { min: "0", step: "any" } : {}) })),
    ),
    el("label", { class: "check" }, el("input", { name: "error", type: "checkbox", ...(parameters.get("error") ? { checked: "" } : {}) }), "failed only"),
    el("button", {}, "Search"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = new URLSearchParams();
    for (const [name] of fields) if (form.elements[name].value) chosen.set(name, form.elements[name].value.trim());
    if (form.elements.error.checked) chosen.set("error", "true");
    const target = `#/traces?${chosen}`;
    if (location.hash === target) route();
    else location.hash = target;
  });
  search(own, parameters, found);
  return [card("Recent traces", form, "wide"), card("Found", found, "wide")];
}

// Fills in what was found; the form is there meanwhile.
async function search(own, parameters, found) {
  try {
    const answer = await ask(`/api/traces?${parameters}`);
    const rows = answer.traces.map((t) => [
      el("a", { href: `#/traces/${t.trace_id}`, class: "row" }, `${t.service}: ${t.name || "(no name)"}`),
      milliseconds(t.duration_ms), number(t.spans), t.services.join(", "), t.error ? "failed" : "", clock(t.start_ms),
    ]);
    found.className = "found";
    own.live = !answer.kept; // the first ones show up by themselves
    found.replaceChildren(
      rows.length
        ? table(["trace", "duration", "spans", "services", "state", "began"], rows)
        : el("p", { class: "quiet" }, answer.kept ? "No kept trace fits." : "None has left yet: a trace leaves when nothing has joined it for a window."),
    );
  } catch (error) {
    found.replaceChildren(el("p", { class: "bad" }, error.message));
  }
}

async function trace(id) {
  const data = await ask(`/api/traces/${encodeURIComponent(id)}`);
  const copy = el("button", {}, "Copy as OTLP JSON");
  copy.addEventListener("click", async () => {
    let text;
    try {
      text = JSON.stringify(await ask(`/api/traces/${id}/otlp`));
    } catch (error) {
      copy.textContent = `Not copied: ${error.message}`;
      return;
    }
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      // without a secure origin or permission there is no clipboard: hand the text over as a file
      const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: `${id}.otlp.json` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      copy.textContent = "Saved";
    }
  });
  return [
    card(
      `${data.service}: ${data.name || "(no name)"}`,
      el("p", {}, `${number(data.spans)} spans, ${milliseconds(data.duration_ms)}, began ${clock(data.start_ms)}. Trace `, el("code", {}, id)),
      el("div", { class: "actions" },
        el("a", { href: "#/traces" }, "All traces"), copy,
        data.url ? el("a", { href: data.url, rel: "noreferrer", target: "_blank" }, "Open in the backend") : "",
      ),
      data.hidden_spans ? el("p", { class: "quiet" }, `${number(data.hidden_spans)} further spans were not kept for this page; the exporters have them.`) : "",
      waterfall(data.details),
      "wide",
    ),
  ];
}

// ---- Services

async function services() {
  const data = await ask("/api/services");
  const figures = (part) => [number(part.per_s), percent(part.errors), part.p50_ms === null ? "–" : milliseconds(part.p50_ms), part.p95_ms === null ? "–" : milliseconds(part.p95_ms)];
  return [
    card("Map of services", data.services.length ? serviceMap(data) : el("p", { class: "quiet" }, "No trace has left yet."),
      el("p", { class: "quiet" }, `From ${number(data.traces)} kept traces, ${percent(data.share)} of what left; rates are scaled up accordingly.`,
        data.hidden_services || data.hidden_calls ? ` ${number(data.hidden_services)} further services and ${number(data.hidden_calls)} further calls, less busy, are left out.` : "",
        data.services.length > 60 ? " The map has the 60 busiest." : ""), "wide"),
    card("Services", table(["service", "requests/s", "failed", "p50", "p95"], data.services.map((s) => [el("a", { href: `#/traces?service=${encodeURIComponent(s.name)}` }, s.name), ...figures(s)])), "wide"),
    card("Calls", table(["from", "to", "calls/s", "failed", "p50", "p95"], data.calls.map((c) => [c.from, c.to, ...figures(c)])), "wide"),
  ];
}

// ---- Routes, keys, time

const views = {
  now: () => ({ load: now, live: true }),
  links: () => ({ load: links, live: true }),
  services: () => ({ load: services, live: true }),
  traces: (id, parameters) => ({ load: id ? () => trace(id) : () => traces(parameters), live: false }),
};

async function draw() {
  const own = ++generation;
  let parts;
  try {
    parts = await view.load();
  } catch (error) {
    parts = [card("This cannot be shown", el("p", { class: "bad" }, error.message))];
  }
  // somebody may have gone on to another view meanwhile
  if (own === generation) main.replaceChildren(...parts);
}

async function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const known = Object.hasOwn(views, name) ? name : "now";
  view = views[known](id, new URLSearchParams(query));
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${known}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${known[0].toUpperCase()}${known.slice(1)} – eSpan bridge`;
  await draw();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog")) return;
  const links = [...document.querySelectorAll("nav a")];
  const rows = [...main.querySelectorAll("a.row, button.span")];
  const at = rows.indexOf(document.activeElement);
  if (links[event.key - 1]) location.hash = links[event.key - 1].hash;
  else if (event.key === "/") {
    event.preventDefault();
    if (main.querySelector("form.search input")) main.querySelector("form.search input").focus();
    else location.hash = "#/traces";
  } else if (event.key === "j") rows[Math.min(at + 1, rows.length - 1)]?.focus();
  else if (event.key === "k") rows[Math.max(at - 1, 0)]?.focus();
}

async function live() {
  if (document.visibilityState === "visible") {
    await refresh();
    // what somebody reads, or has put the focus into, is not taken from under them
    if (view.live && !main.contains(document.activeElement)) await draw();
  }
  setTimeout(live, EVERY_MS);
}

// the place behind # is the view's: a link into the page would end it
document.querySelector("a.skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", route);
addEventListener("keydown", onKey);
await refresh();
await route();
setTimeout(live, EVERY_MS);
