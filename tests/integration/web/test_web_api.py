"""The page and its data over real HTTP: what each path answers, whatever is asked and whatever spans came."""

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import yarl
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.security import ListenerSecurity
from bridge.telemetry import Instruments
from bridge.telemetry.metrics import running_metrics
from bridge.web import WebServer
from bridge.web.api import Api, Guard
from bridge.web.history import History
from bridge.web.overview import About, Overview
from bridge.web.traces import MAX_SPANS, RecentTraces
from tests.support.kept_traces import keep

NOW_S = float(int(time.time()))
NOW_NS = int(NOW_S) * 10**9
MS = 10**6
MIB = 1 << 20
SAFE = 2**53
"""Beyond it JavaScript has no whole numbers."""
SHOWN = "a-token-of-the-test"
ONE = f"/api/traces/{1:032x}"
DATA = ("/api/status", "/api/links", "/api/traces", "/api/services", ONE, f"{ONE}/otlp")
OPEN = ("/", "/static/page.js", "/static/style.css", "/static/icon.svg", "/api/openapi.json", "/healthz", "/readyz")


def span(number: int, trace: int, parent: int = 0, *, start_ms: int = 0, end_ms: int = 5, **fields: Any) -> Span:
    given = {
        "trace_id": trace.to_bytes(16, "big"),
        "span_id": number.to_bytes(8, "big"),
        "parent_span_id": parent.to_bytes(8, "big") if parent else b"",
        "name": f"GET /{number}",
        "kind": Span.SPAN_KIND_SERVER,
        "start_time_unix_nano": NOW_NS + start_ms * MS,
        "end_time_unix_nano": NOW_NS + end_ms * MS,
    }
    return Span(**{**given, **fields})


def request(service: str, *spans: Span) -> bytes:
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    group.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value=service)))
    group.scope_spans.add().spans.extend(spans)
    return made.SerializeToString()


FAILED = Span(status={"code": 2})
TRACES = (
    request("shop", span(1, 1, end_ms=50)),
    request("bank", span(2, 1, 1, start_ms=10, end_ms=40, status=FAILED.status)),
    request("mail", span(3, 0xABC, end_ms=3)),
)


@asynccontextmanager
async def serving(
    requests: Sequence[bytes] = TRACES, *, security: ListenerSecurity | None = None, trace_url: str = ""
) -> AsyncIterator[str]:
    """http://HOST:PORT of a server whose counters and kept traces are real."""
    with running_metrics("1") as metrics:
        Instruments(metrics.meter).accepted_spans.add(5, {"receiver": "otlp_grpc"})
        about = About("1", NOW_S - 60, 20.0, 0.5, 1, lambda: {"otlp_grpc": "127.0.0.1:4317"}, trace_url)
        history = History(metrics.samples, lambda: NOW_S)
        overview = Overview(about, history, metrics.samples, not_ready=lambda: "", last_errors=lambda: {"one": ""})
        traces = RecentTraces(1000, 64 * MIB)
        keep(traces, requests, NOW_S)

        def page(guard: Guard) -> Api:
            return Api(overview, traces, share_since=lambda _: 1.0, guard=guard)

        server = WebServer(
            hosts=("127.0.0.1",),
            port=0,
            not_ready=lambda: "",
            metrics=metrics.prometheus_text,
            security=security,
            page=page,
        )
        async with server.running():
            yield f"http://{server.address}"


Ask = Callable[..., Any]


@asynccontextmanager
async def asking(*requests: bytes, **options: Any) -> AsyncIterator[Ask]:
    """Asks a server that keeps these traces; gives (status, JSON)."""
    async with serving(requests or TRACES, **options) as url, aiohttp.ClientSession() as session:

        async def ask(path: str, method: str = "GET", **parameters: str) -> tuple[int, Any]:
            async with session.request(method, url + path, params=parameters) as answer:
                assert answer.content_type == "application/json"
                return answer.status, json.loads(await answer.read(), parse_constant=pytest.fail)

        yield ask


async def found(ask: Ask, **search: str) -> list[int]:
    status, answer = await ask("/api/traces", **search)
    assert status == 200, answer
    return [int(trace["trace_id"], 16) for trace in answer["traces"]]


@pytest.mark.parametrize("path", [*OPEN, *DATA])
async def test_every_path_answers_with_headers_that_protect(path: str) -> None:
    """HEAD as GET, without a body; what is data is stored nowhere, what is page runs nobody else's scripts."""
    async with serving() as url, aiohttp.ClientSession() as session:
        async with session.get(url + path) as got:
            body = await got.read()
        async with session.head(url + path) as head:
            assert (head.status, await head.read()) == (200, b"")
    assert got.status == 200
    assert body
    if path in ("/healthz", "/readyz"):
        return
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Cache-Control"] == ("no-store" if path.startswith("/api") else "no-cache")
    if not path.startswith("/api"):
        policy = got.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


async def test_data_asks_for_a_token_and_the_page_does_not() -> None:
    """The page has to be there to ask for one; it holds nothing of anybody's. An answer that refuses says how."""
    security = ListenerSecurity("web", tokens=[SHOWN])
    async with serving(security=security) as url, aiohttp.ClientSession() as session:
        for path in DATA:
            for headers, status in (({}, 401), ({"authorization": "Bearer x"}, 401), (bearer(), 200)):
                async with session.get(url + path, headers=headers) as answer:
                    assert answer.status == status, path
                    assert status == 200 or answer.headers["WWW-Authenticate"] == "Bearer"
                    assert status == 200 or answer.headers["Cache-Control"] == "no-store"
        for path in OPEN:
            async with session.get(url + path) as answer:
                assert answer.status == 200, path


def bearer() -> dict[str, str]:
    return {"authorization": f"Bearer {SHOWN}"}


async def test_another_header_for_tokens_is_told() -> None:
    """The page reads there where its token goes."""
    security = ListenerSecurity("web", tokens=[SHOWN], header="X-Api-Key")
    async with serving(security=security) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/api/status") as answer:
            assert answer.headers["WWW-Authenticate"] == 'Token header="x-api-key"'
        async with session.get(f"{url}/api/status", headers={"X-Api-Key": SHOWN}) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods_are_refused(method: str) -> None:
    """With what is allowed, on each path there is; on others nothing is there for any method."""
    async with serving() as url, aiohttp.ClientSession() as session:
        for path in (*DATA, *OPEN):
            async with session.request(method, url + path) as answer:
                assert answer.status == 405, path
                allowed = {part.strip() for part in answer.headers["Allow"].split(",")}
                assert allowed == {"GET", "HEAD"}, path
        async with session.request(method, f"{url}/api/nothing") as answer:
            assert answer.status == 404


@pytest.mark.parametrize("path", ["/api/", "/api/x", "/api/traces/", "/api/status/", f"/api/traces/{1:032x}/x"])
async def test_there_is_nothing_else(path: str) -> None:
    """The answer says where what there is is listed."""
    async with asking() as ask:
        status, answer = await ask(path)
    assert status == 404
    assert "/api/openapi.json" in answer["error"]


@pytest.mark.parametrize("name", ["x.js", "..%2fapi.py", "%2e%2e%2fapi.py", "openapi.json", ""])
async def test_only_files_of_the_page_are_served(name: str) -> None:
    """No path leads out of their folder."""
    async with serving() as url, aiohttp.ClientSession() as session:
        path = yarl.URL(f"{url}/static/{name}", encoded=True)
        assert (await session.get(path)).status == 404


@pytest.mark.parametrize(
    ("path", "parameters", "words"),
    [
        ("/api/status", {"x": "1"}, ("x", "none")),
        ("/api/links", {"limit": "1"}, ("limit", "none")),
        ("/api/services", {"service": "a"}, ("service", "none")),
        (f"/api/traces/{1:032x}", {"limit": "1"}, ("limit", "none")),
        (f"/api/traces/{1:032x}/otlp", {"x": ""}, ("x", "none")),
        ("/api/traces", {"servise": "a"}, ("servise", "min_duration_ms")),
        ("/api/traces", {"limit": "0"}, ("limit", "500")),
        ("/api/traces", {"limit": "501"}, ("limit", "500")),
        ("/api/traces", {"limit": "-1"}, ("limit", "500")),
        ("/api/traces", {"limit": "\u0663"}, ("limit", "500")),
        ("/api/traces", {"limit": ""}, ("limit", "500")),
        ("/api/traces", {"min_duration_ms": "1e3"}, ("min_duration_ms", "milliseconds")),
        ("/api/traces", {"min_duration_ms": "nan"}, ("min_duration_ms", "milliseconds")),
        ("/api/traces", {"error": "1"}, ("error", "true or false")),
        ("/api/traces", {"trace_id": "xyz"}, ("trace_id", "32 hex digits")),
        ("/api/traces", {"trace_id": "0" * 33}, ("trace_id", "32 hex digits")),
        ("/api/traces", {"service": "a" * 201}, ("service", "200 characters")),
        ("/api/traces/0", {}, ("trace_id", "32 hex digits")),
        ("/api/traces/%00/otlp", {}, ("trace_id", "32 hex digits")),
        (f"/api/traces/{1:032x}%0a", {}, ("trace_id", "32 hex digits")),
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named(
    path: str, parameters: dict[str, str], words: Sequence[str]
) -> None:
    """With what is allowed."""
    async with asking() as ask:
        status, answer = await ask(path, **parameters)
    assert status == 400
    assert all(word in answer["error"] for word in words), answer


async def test_a_parameter_that_is_given_twice_is_refused() -> None:
    """Which of them was meant nobody knows."""
    async with asking() as ask:
        status, answer = await ask("/api/traces?limit=1&limit=2")
    assert (status, answer["error"].partition(":")[0]) == (400, "limit")


async def test_a_trace_that_is_gone_is_not_found() -> None:
    """The answer names the setting that says how many are kept."""
    async with asking() as ask:
        for path in (f"/api/traces/{9:032x}", f"/api/traces/{9:032x}/otlp"):
            status, answer = await ask(path)
            assert status == 404
            assert "web.keep_traces" in answer["error"]


async def test_traces_are_found_by_each_field() -> None:
    """The newest first."""
    async with asking() as ask:
        assert await found(ask) == [0xABC, 1]
        assert await found(ask, limit="1") == [0xABC]
        assert await found(ask, service="BAN") == [1]
        assert await found(ask, resource="/3") == [0xABC]
        assert await found(ask, service="shop", resource="/2") == []
        assert await found(ask, min_duration_ms="3.5") == [1]
        assert await found(ask, error="true") == [1]
        assert await found(ask, error="false") == [0xABC, 1]
        assert await found(ask, trace_id="0" * 29 + "AbC") == [0xABC]
        assert await found(ask, service="\u0000'\"<&\U0001f600%") == []


async def test_a_trace_is_told_with_its_edges_and_its_place_in_the_backend() -> None:
    """Spans in order of start, whatever request they came in; the id in any case."""
    async with asking(trace_url="http://jaeger/trace/{trace_id}") as ask:
        status, trace = await ask(f"/api/traces/{0xABC:032X}")
        assert (status, trace["url"]) == (200, f"http://jaeger/trace/{0xABC:032x}")
        _, trace = await ask(f"/api/traces/{1:032x}")
        _, otlp = await ask(f"/api/traces/{1:032x}/otlp")
    assert (trace["start_ms"], trace["duration_ms"], trace["error"]) == (NOW_NS / 1e6, 50.0, True)
    assert [(s["service"], s["after_ms"], s["duration_ms"], s["method"]) for s in trace["details"]] == [
        ("shop", 0.0, 50.0, ""),
        ("bank", 10.0, 30.0, "as sent"),
    ]
    spans = [s for g in otlp["resourceSpans"] for scope in g["scopeSpans"] for s in scope["spans"]]
    assert [(s["traceId"], s["startTimeUnixNano"]) for s in spans] == [
        (f"{1:032x}", str(NOW_NS)),
        (f"{1:032x}", str(NOW_NS + 10 * MS)),
    ]


ODD = (
    ("nothing in it", [Span(trace_id=bytes(15) + b"\1")]),
    ("its own parent", [span(1, 1, 1)]),
    ("in a circle", [span(1, 1, 2), span(2, 1, 1)]),
    ("an absent parent", [span(1, 1, 9)]),
    ("equal ids", [span(1, 1), span(1, 1), span(1, 1, 1)]),
    ("ends before it starts", [span(1, 1, start_ms=9, end_ms=1)]),
    ("times of 0", [span(1, 1), span(2, 1, start_time_unix_nano=0), span(3, 1, end_time_unix_nano=0)]),
    ("the last time there is", [span(1, 1, end_time_unix_nano=2**64 - 1), span(2, 1, start_time_unix_nano=2**64 - 1)]),
    ("the first time and the last", [span(1, 1, start_time_unix_nano=1, end_time_unix_nano=2**64 - 1)]),
    ("odd texts", [span(1, 1, name="\u2028</script>\"'\0\x7f\ufffe\U0001f600" * 9999)]),
    (
        "odd values under the bridge's names",
        [
            span(1, 1, attributes=[KeyValue(key=key, value=value)])
            for key in ("espan.link.confidence", "espan.clock.offset_ns", "espan.link.method", "service", "status")
            for value in (
                AnyValue(double_value=float("nan")),
                AnyValue(double_value=float("-inf")),
                AnyValue(int_value=-(2**63)),
                AnyValue(int_value=2**63 - 1),
                AnyValue(bool_value=True),
                AnyValue(bytes_value=b"\xff"),
                AnyValue(),
            )
        ],
    ),
)


def unsafe(value: Any) -> list[Any]:
    """Numbers that JavaScript would change."""
    if isinstance(value, dict):
        return [n for part in value.values() for n in unsafe(part)]
    if isinstance(value, list):
        return [n for part in value for n in unsafe(part)]
    return [value] if isinstance(value, int) and abs(value) > SAFE else []


@pytest.mark.parametrize("spans", [spans for _, spans in ODD], ids=[name.replace(" ", "_") for name, _ in ODD])
async def test_odd_spans_are_told_in_json_that_a_browser_reads(spans: list[Span]) -> None:
    """On every path: no NaN, no whole number beyond JavaScript's, nothing negative where it makes no sense."""
    async with asking(request("", *spans)) as ask:
        for path in DATA:
            status, answer = await ask(path)
            assert status == 200, path
            assert path.endswith("/otlp") or not unsafe(answer), path
        _, trace = await ask(f"/api/traces/{1:032x}")
    assert trace["spans"] == len(trace["details"]) == len(spans)
    assert trace["duration_ms"] >= 0
    assert all(s["duration_ms"] >= 0 and s["name"] is not None and s["service"] for s in trace["details"])
    assert all(s["confidence"] is None or 0 <= s["confidence"] <= 1 for s in trace["details"])


async def test_a_huge_trace_is_told_as_far_as_it_is_kept() -> None:
    """Further spans are counted, and the lists count them too."""
    more = 123
    async with asking(request("shop", *(span(n, 1, n // 2) for n in range(1, MAX_SPANS + more + 1)))) as ask:
        _, trace = await ask(f"/api/traces/{1:032x}")
        _, listed = await ask("/api/traces")
    assert (len(trace["details"]), trace["hidden_spans"], trace["spans"]) == (MAX_SPANS, more, MAX_SPANS + more)
    assert [t["spans"] for t in listed["traces"]] == [MAX_SPANS + more]


async def test_more_services_than_can_be_drawn_are_counted() -> None:
    """An answer is bounded, whatever names senders make up; the busiest are in it."""
    requests = [request(f"s{n}", span(n, n)) for n in range(1, 701)] + [request("busy", span(1, 999), span(2, 999))]
    async with asking(*requests) as ask:
        _, answer = await ask("/api/services")
    names = [service["name"] for service in answer["services"]]
    assert (len(names), answer["hidden_services"]) == (500, 201)
    assert "busy" in names


async def test_the_lag_is_that_of_kept_traces() -> None:
    """From the end of the last span until the trace left; not known without any."""
    async with asking(request("shop", span(1, 1, end_ms=-2000)), request("shop", span(2, 2, end_ms=-4000))) as ask:
        _, status = await ask("/api/status")
    assert status["linker"]["lag_s"] == pytest.approx(3.0)
    async with asking(request("shop")) as ask:
        _, status = await ask("/api/status")
    assert status["linker"]["lag_s"] is None
