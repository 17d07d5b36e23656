"""The page and its data: static files under /, JSON under /api, described in openapi.json.

Static files hold nothing of anybody's and need no token; everything under /api does, where the listener has tokens.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from anyio import to_thread

from bridge.codec.otlp_json import encode_json
from bridge.web.overview import HOUR_S, Overview
from bridge.web.services import service_map
from bridge.web.traces import KeptTrace, RecentTraces, Search

STATIC = Path(__file__).parent / "static"
OPENAPI = Path(__file__).parent / "openapi.json"
DEFAULT_LIMIT, MAX_LIMIT = 50, 500
MAX_TEXT = 200
# no script or style but ours, nothing from elsewhere, and no framing
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
DATA_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Handler = Callable[[web.Request], Awaitable[web.Response]]
Guard = Callable[[web.Request], web.Response | None]
"""Returns what to answer a request that may not see data, None for one that may."""


class BadRequest(Exception):
    """A parameter that cannot be used; the text names it and says what is allowed."""


class Api:
    """Handlers of the page and its data."""

    def __init__(
        self,
        overview: Overview,
        traces: RecentTraces,
        *,
        share_since: Callable[[float], float],
        looked: Callable[[], None] = lambda: None,
        guard: Guard = lambda _: None,
    ) -> None:
        """share_since: of all spans that left since a time, how many were read for the kept traces. looked: told when
        somebody asks for what is made of those."""
        self._overview, self._traces, self._share_since, self._guard = overview, traces, share_since, guard
        self._looked = looked
        self._static = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in _TYPES}
        self._openapi = OPENAPI.read_bytes()

    def add_to(self, app: web.Application) -> None:
        """Route requests."""
        app.router.add_get("/", self._page)
        app.router.add_get("/static/{name}", self._file)
        app.router.add_get("/api/openapi.json", self._description)
        for path, handler in (
            ("/api/status", self._status),
            ("/api/links", self._links),
            ("/api/traces", self._search),
            ("/api/traces/{trace_id}", self._trace),
            ("/api/traces/{trace_id}/otlp", self._otlp),
            ("/api/services", self._services),
        ):
            app.router.add_get(path, self._guarded(handler))
        app.router.add_route("*", "/api/{rest:.*}", self._nothing)

    def _guarded(self, handler: Handler) -> Handler:
        counts = handler != self._status  # which the page asks for all the time, whatever it shows

        async def guarded(request: web.Request) -> web.Response:
            if (refusal := self._guard(request)) is not None:
                return refusal
            if counts:
                self._looked()
            try:
                return await handler(request)
            except BadRequest as exc:
                return _json({"error": str(exc)}, status=400)

        return guarded

    async def _page(self, _: web.Request) -> web.Response:
        return self._answer_file("index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return self._answer_file(request.match_info["name"])

    def _answer_file(self, name: str) -> web.Response:
        if name not in self._static:
            return web.Response(status=404, text="no such file\n")
        return web.Response(
            body=self._static[name], content_type=_TYPES[Path(name).suffix], charset="utf-8", headers=PAGE_HEADERS
        )

    async def _description(self, _: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/json", headers=DATA_HEADERS)

    async def _status(self, request: web.Request) -> web.Response:
        _parameters(request)
        return _json(await to_thread.run_sync(self._overview.status, self._traces))

    async def _links(self, request: web.Request) -> web.Response:
        _parameters(request)
        return _json(await to_thread.run_sync(self._overview.links, self._traces))

    async def _search(self, request: web.Request) -> web.Response:
        search, limit = _search_of(_parameters(request, "service", "resource", "trace_id", *_OTHERS))
        found = await to_thread.run_sync(self._traces.find, search, limit)
        return _json({"kept": len(self._traces), "traces": await to_thread.run_sync(_summaries, found)})

    async def _trace(self, request: web.Request) -> web.Response:
        _parameters(request)
        trace = self._kept(request)
        if trace is None:
            return _json({"error": _GONE}, status=404)
        url = self._overview.about.trace_url.replace("{trace_id}", trace.trace_id)
        return await to_thread.run_sync(lambda: _json(_details(trace) | {"url": url}))

    async def _otlp(self, request: web.Request) -> web.Response:
        _parameters(request)
        trace = self._kept(request)
        if trace is None:
            return _json({"error": _GONE}, status=404)
        body = await to_thread.run_sync(encode_json, trace.request)
        return web.Response(body=body, content_type="application/json", headers=DATA_HEADERS)

    def _kept(self, request: web.Request) -> KeptTrace | None:
        trace_id = request.match_info["trace_id"]
        if not re.fullmatch("[0-9A-Fa-f]{32}", trace_id):
            raise BadRequest("trace_id: want 32 hex digits")
        return self._traces.get(trace_id)

    async def _services(self, request: web.Request) -> web.Response:
        _parameters(request)

        def make() -> dict[str, Any]:
            now_s = time.time()
            return service_map(self._traces, since_s=now_s - HOUR_S, now_s=now_s, share_since=self._share_since)

        return _json(await to_thread.run_sync(make))

    async def _nothing(self, request: web.Request) -> web.Response:
        if request.method not in ("GET", "HEAD") and _KNOWN.fullmatch(request.path):
            return _json({"error": "only GET and HEAD are understood"}, status=405, headers={"Allow": "GET, HEAD"})
        return _json({"error": "nothing here; /api/openapi.json lists what there is"}, status=404)


_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_KNOWN = re.compile(r"/api/(status|links|traces(/[^/]+(/otlp)?)?|services|openapi\.json)")
_GONE = "this trace is not among those kept; web.keep_traces says how many are"
_OTHERS = ("min_duration_ms", "error", "limit")


def _summaries(traces: Sequence[KeptTrace]) -> list[dict[str, Any]]:
    return [trace.to_json() for trace in traces]


def _details(trace: KeptTrace) -> dict[str, Any]:
    spans = [span.to_json(trace.start_ns) for span in trace.spans]
    return trace.to_json() | {"hidden_spans": trace.hidden_spans, "details": spans}


def _parameters(request: web.Request, *known: str) -> Mapping[str, str]:
    """The query's parameters. Raises BadRequest for one that is unknown, given twice, or too long."""
    for name, value in request.query.items():
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise BadRequest(f"{name[:MAX_TEXT]}: no such parameter; there are: {allowed}")
        if len(value) > MAX_TEXT or len(request.query.getall(name)) > 1:
            raise BadRequest(f"{name}: want one value of {MAX_TEXT} characters at most")
    return request.query


def _search_of(query: Mapping[str, str]) -> tuple[Search, int]:
    trace_id = query.get("trace_id", "")
    if not re.fullmatch("[0-9A-Fa-f]{0,32}", trace_id):
        raise BadRequest("trace_id: want up to 32 hex digits, the begin of a trace id")
    error = query.get("error", "false")
    if error not in ("true", "false"):
        raise BadRequest("error: want true or false")
    duration = query.get("min_duration_ms", "0")
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", duration, re.ASCII):
        raise BadRequest("min_duration_ms: want a number of milliseconds, such as 2.5")
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"\d{1,3}", limit, re.ASCII) or not 1 <= int(limit) <= MAX_LIMIT:
        raise BadRequest(f"limit: want 1 to {MAX_LIMIT}")
    search = Search(query.get("service", ""), query.get("resource", ""), trace_id, float(duration), error == "true")
    return search, int(limit)


def _json(answer: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        text=json.dumps(answer, separators=(",", ":"), allow_nan=False),
        status=status,
        content_type="application/json",
        headers={**DATA_HEADERS, **(headers or {})},
    )
