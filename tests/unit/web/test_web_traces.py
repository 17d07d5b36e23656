"""The ring of recent traces, and searching in it."""

import gc
import tracemalloc
from random import Random

import pytest
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bridge.web.traces import MAX_SPANS, SPAN_COST, TRACE_COST, RecentTraces, Search
from tests.support.kept_traces import keep

MS = 10**6
MIB = 1 << 20


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def span(number: int, trace: int, parent: int = 0, *, start_ms: int = 0, end_ms: int = 1, failed: bool = False) -> Span:
    return Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=f"GET /{number}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=10**18 + start_ms * MS,
        end_time_unix_nano=10**18 + end_ms * MS,
        status=Status(code=Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET),
    )


def request(*groups: tuple[str, list[Span]]) -> bytes:
    made = ExportTraceServiceRequest()
    for service, spans in groups:
        group = made.resource_spans.add()
        group.resource.attributes.append(text("service.name", service))
        group.scope_spans.add(schema_url="about:scope").spans.extend(spans)
    return made.SerializeToString()


def ring(*requests: bytes, most: int = 10) -> RecentTraces:
    traces = RecentTraces(most, MIB)
    keep(traces, requests, 1.0)
    return traces


def ids(traces: RecentTraces, search: Search, limit: int = 10) -> list[int]:
    return [int(trace.trace_id, 16) for trace in traces.find(search, limit)]


def test_spans_of_one_trace_are_brought_together() -> None:
    """Whatever resources they come under; the trace begins with its first span and ends with its last."""
    a, b = span(1, 7, end_ms=9), span(2, 7, 1, start_ms=2, end_ms=12)
    trace = ring(request(("shop", [a, span(3, 8)]), ("bank", [b]))).get(f"{7:032x}")
    assert trace is not None
    assert [(s.service, s.span_id, s.parent_id) for s in trace.spans] == [
        ("shop", f"{1:016x}", ""),
        ("bank", f"{2:016x}", f"{1:016x}"),
    ]
    assert (trace.duration_ns, trace.services, trace.root.service) == (12 * MS, ["bank", "shop"], "shop")


def test_a_kept_trace_is_an_otlp_request_with_its_resources_and_scopes() -> None:
    """Nothing of others is in it, and nothing of its own is missing."""
    trace = ring(request(("shop", [span(1, 7), span(3, 8)]), ("bank", [span(2, 7, 1)]))).get(f"{7:032x}")
    assert trace is not None
    made = ExportTraceServiceRequest.FromString(request(("shop", [span(1, 7)]), ("bank", [span(2, 7, 1)])))
    assert ExportTraceServiceRequest.FromString(trace.request) == made


def test_late_spans_join_a_trace_that_is_there() -> None:
    """And make it the newest again."""
    traces = ring(request(("shop", [span(1, 7)])), request(("shop", [span(3, 8)])))
    keep(traces, [request(("bank", [span(2, 7, 1)]))], 2.0)
    assert ids(traces, Search()) == [7, 8]
    trace = traces.get(f"{7:032x}")
    assert trace is not None
    assert len(trace.spans) == 2


def test_the_ring_is_bounded_by_number_and_by_memory() -> None:
    """The oldest go first; one that is larger than the bound by itself is not kept."""
    by_number = ring(*(request(("shop", [span(n, n)])) for n in range(1, 6)), most=3)
    assert ids(by_number, Search()) == [5, 4, 3]
    by_memory = RecentTraces(100, max_bytes=2 * (SPAN_COST + TRACE_COST))
    keep(by_memory, [request(("shop", [span(1, 1)])), request(("shop", [span(2, 2)]))], 1.0)
    assert ids(by_memory, Search()) == [2]
    large = span(3, 3)
    large.name = "x" * 3 * (SPAN_COST + TRACE_COST)
    keep(by_memory, [request(("shop", [large]))], 1.0)
    assert (len(by_memory), by_memory.bytes) == (0, 0)


def test_one_trace_does_not_grow_without_end() -> None:
    """A sender that never ends a trace: what is beyond the bounds of one is counted."""
    traces = RecentTraces(10, 64 * MIB)
    for first in range(0, MAX_SPANS + 2000, 1000):
        keep(traces, [request(("shop", [span(n, 7) for n in range(first + 1, first + 1001)]))], 1.0)
    trace = traces.get(f"{7:032x}")
    assert trace is not None
    assert (len(trace.spans), trace.hidden_spans) == (MAX_SPANS, 2000)
    assert len(trace.parts) == MAX_SPANS / 1000
    assert len(ExportTraceServiceRequest.FromString(trace.request).resource_spans) == MAX_SPANS / 1000
    small = RecentTraces(10, 64 * 1024)
    keep(small, [request(("shop", [span(n, 7) for n in range(1, 1001)]))], 1.0)
    assert len(small) == 1
    assert small.bytes <= 64 * 1024


def test_what_was_let_go_costs_nothing() -> None:
    """And later spans of it are a trace of their own."""
    traces = ring(request(("shop", [span(1, 7), span(2, 8)])))
    assert traces.bytes > 0
    traces.clear()
    assert (len(traces), traces.bytes) == (0, 0)
    keep(traces, [request(("shop", [span(3, 7)]))], 1.0)
    assert ids(traces, Search()) == [7]


def test_bytes_that_cannot_be_compressed_are_kept_as_they_are() -> None:
    """What is counted bounds them too."""
    texts = Random(1)
    spans = [span(n, 7) for n in range(1, 9)]
    for each in spans:
        each.attributes.append(KeyValue(key="x", value=AnyValue(bytes_value=texts.randbytes(5000))))
    traces = ring(request(("shop", spans)))
    trace = traces.get(f"{7:032x}")
    assert trace is not None
    assert sum(len(part.kept) for part in trace.parts) <= trace.request_bytes == len(trace.request)


def test_memory_is_what_is_counted() -> None:
    """Texts that are all different: the most that spans take, besides their OTLP, once all of them were looked at."""
    parts = [request(("shop", [span(5 * t + n, t, 5 * t + n - 1) for n in range(5)])) for t in range(1, 401)]
    gc.collect()
    tracemalloc.start()
    try:
        traces = RecentTraces(1000, 64 * MIB)
        for part in parts:
            keep(traces, [part], 1.0)
        counted = traces.bytes
        assert sum(len(trace.spans) + trace.error for trace in traces) == 2000
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(traces) == 400
    assert taken <= traces.bytes <= 2 * taken
    assert traces.bytes == counted


def test_spans_are_unpacked_once_and_only_when_they_are_looked_at() -> None:
    """What nobody looks at costs no time: an empty search and the lag need none of them."""
    traces = ring(request(("shop", [span(1, 7, end_ms=9)])))
    trace = traces.get(f"{7:032x}")
    assert trace is not None
    assert traces.find(Search(), 10) == [trace]
    assert trace.end_ns == 10**18 + 9 * MS
    assert "spans" not in vars(trace)
    traces.unpacking.taken()
    spans = trace.spans
    assert traces.unpacking.taken() > 0
    assert trace.spans is spans
    assert traces.unpacking.taken() == 0


def test_texts_that_cannot_be_read_change_nothing() -> None:
    """No UTF-8: whoever adds is told."""
    traces = ring(request(("shop", [span(1, 7)])))
    broken = request(("shop", [span(2, 8)])).replace(b"GET /2", b"GET \xff2")
    with pytest.raises(DecodeError):
        keep(traces, [broken], 1.0)
    assert ids(traces, Search()) == [7]


def test_search_by_every_field() -> None:
    """Service and resource have to be in one span; texts are parts in any case."""
    traces = ring(
        request(("Shop", [span(1, 0xA1, end_ms=5)]), ("bank", [span(2, 0xA1, 1, failed=True)])),
        request(("shop", [span(3, 0xB2, end_ms=50)])),
    )
    assert ids(traces, Search(service="SHOP")) == [0xB2, 0xA1]
    assert ids(traces, Search(service="bank", resource="/2")) == [0xA1]
    assert ids(traces, Search(service="bank", resource="/1")) == []
    assert ids(traces, Search(min_duration_ms=6)) == [0xB2]
    assert ids(traces, Search(error=True)) == [0xA1]
    assert ids(traces, Search(trace_id="b")) == []
    assert ids(traces, Search(trace_id="0" * 30 + "B")) == [0xB2]
    assert ids(traces, Search(), limit=1) == [0xB2]


def test_evidence_of_edges_is_shown() -> None:
    """Method and confidence of eSpans; a span that is none has its parent as it was sent."""
    linked = span(2, 7, 1)
    linked.attributes.extend([text("espan.link.method", "seq"), text("service", "own"), text("status", "error")])
    linked.attributes.append(KeyValue(key="espan.link.confidence", value=AnyValue(double_value=0.95)))
    linked.attributes.append(KeyValue(key="espan.clock.offset_ns", value=AnyValue(int_value=-5)))
    trace = ring(request(("shop", [span(1, 7), linked, span(3, 7, 1, start_ms=1)]))).get(f"{7:032x}")
    assert trace is not None
    first, second, third = trace.spans
    assert (first.method, third.method) == ("", "as sent")
    assert (second.service, second.method, second.confidence, second.clock_offset_ns, second.error) == (
        "own",
        "seq",
        0.95,
        -5,
        True,
    )


def test_spans_without_times_do_not_make_a_trace_years_long() -> None:
    """A start of 0 is not known."""
    odd = span(2, 7, 1)
    odd.start_time_unix_nano = odd.end_time_unix_nano = 0
    trace = ring(request(("shop", [span(1, 7, end_ms=9), odd]))).get(f"{7:032x}")
    assert trace is not None
    assert trace.duration_ns == 9 * MS
    assert [span.duration_ns for span in trace.spans] == [0, 9 * MS]
    assert [span.to_json(trace.start_ns)["after_ms"] for span in trace.spans] == [0.0, 0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.5, 1.5])
def test_confidence_that_is_none_is_not_shown(value: float) -> None:
    """Anybody may send an attribute of that name on a span that is no eSpan, and no JSON holds NaN."""
    odd = span(1, 7)
    odd.attributes.append(KeyValue(key="espan.link.confidence", value=AnyValue(double_value=value)))
    trace = ring(request(("shop", [odd]))).get(f"{7:032x}")
    assert trace is not None
    assert trace.spans[0].confidence is None
