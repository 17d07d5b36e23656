"""Linked spans and requests for tests of what comes after the linker."""

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from bridge.component import Body
from bridge.spans import Context, Decisions, LinkedSpans, Method, Outcome, PayloadBlock, PayloadFormat, SpanLinks

TEXTS = {
    "ebpf_span_type": "entry",
    "direction": "incoming",
    "pid": "4711",
    "service": "shop",
    "process_name": "shop-server",
    "thread_name": "worker-7",
    "src_ip": "10.0.0.17",
    "src_port": "41234",
    "dst_ip": "10.0.0.18",
    "dst_port": "8080",
    "span_type": "entry",
    "source_type": "ebpf",
    "status": "ok",
    "operation": "HTTP",
    "resource": "GET /cart/items",
    "http_method": "GET",
    "http_route": "/cart/items",
    "http_version": "HTTP/1.1",
    "http_status_code": "200",
}
NUMBERS = ("req_seq", "resp_seq", "thread_trace_id", "tid", "tid_usr", "ktime", "bytes_read")


def espan(number: int) -> bytes:
    """A serialized eSpan of 26 attributes; equal numbers, equal bytes."""
    start_ns = 10**18 + number
    span = Span(name="GET /cart/items", start_time_unix_nano=start_ns, end_time_unix_nano=start_ns + 10**6)
    for key, text in TEXTS.items():
        span.attributes.add(key=key).value.string_value = text
    for position, key in enumerate(NUMBERS):
        span.attributes.add(key=key).value.int_value = number * 100 + position + 1
    return span.SerializeToString()


def linked_spans(n: int, *, tick: int = 1, per_trace: int = 8) -> LinkedSpans:
    """n eSpans of tick `tick` in traces of `per_trace`, each trace a chain; ids are unique over ticks."""
    spans = [espan(number) for number in range(n)]
    offsets = np.concatenate(([0], np.cumsum([len(span) for span in spans], dtype=np.int64))).astype(np.int64)
    resource = ResourceSpans()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = ScopeSpans()
    scope.scope.name = "ebpf"
    context = Context(resource.SerializeToString(), scope.SerializeToString())
    block = PayloadBlock(PayloadFormat.OTLP_SPAN, b"".join(spans), offsets, (context,), np.zeros(n, np.uint32))
    position = np.arange(n, dtype=np.uint64)
    ids = position + np.uint64((tick << 32) + 1)
    first = position % np.uint64(per_trace) == 0
    traces = position // np.uint64(per_trace) + np.uint64(1)
    decisions = Decisions.from_columns(
        n,
        outcome=np.full(n, Outcome.EXPORT),
        span_id=ids,
        trace_hi=np.full(n, tick),
        trace_lo=traces,
        parent_span_id=np.where(first, np.uint64(0), ids - np.uint64(1)),
        ebpf_trace_hi=np.full(n, tick),
        ebpf_trace_lo=traces,
        ebpf_parent_id=np.where(first, np.uint64(0), ids - np.uint64(1)),
        method=np.where(first, Method.NONE, Method.SEQ),
        confidence=np.where(first, 0.0, 1.0),
    )
    rows = np.arange(n, dtype=np.uint32)
    return LinkedSpans(tick, (block,), np.zeros(n, np.uint32), rows, decisions, SpanLinks.zeros(0))


def body_of(*span_ids: int) -> Body:
    """A request with plain spans of these ids, as an exporter would make it."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for span_id in span_ids:
        scope.spans.add(trace_id=bytes(15) + b"\x01", span_id=span_id.to_bytes(8, "big"), name="GET /")
    return Body(request.SerializeToString(), len(span_ids))
