"""Requests as traces that left, kept for the page."""

from collections.abc import Iterable

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from bridge.codec.otlp_encode import encode_traces
from bridge.spans import Context, Decisions, LinkedSpans, Outcome, PayloadBlock, PayloadFormat, SpanLinks
from bridge.web.traces import RecentTraces


def keep(traces: RecentTraces, requests: Iterable[bytes], left_s: float) -> None:
    """Keep the spans of requests, each of which left in a tick of its own at this time, exactly as they are."""
    for request in requests:
        for spans in encode_traces(passed(request)):
            traces.add(spans, left_s)


def passed(request: bytes) -> LinkedSpans:
    """What leaves as it came, whatever a receiver would say to it: ids of spans may be missing."""
    contexts, context, spans = [], [], []
    for group in ExportTraceServiceRequest.FromString(request).resource_spans:
        bare = ResourceSpans(resource=group.resource, schema_url=group.schema_url).SerializeToString()
        for scope in group.scope_spans:
            context += [len(contexts)] * len(scope.spans)
            spans += list(scope.spans)
            around = ScopeSpans(scope=scope.scope if scope.HasField("scope") else None, schema_url=scope.schema_url)
            contexts.append(Context(bare, around.SerializeToString()))
    n, raws = len(spans), [span.SerializeToString() for span in spans]
    ids = np.frombuffer(b"".join(span.trace_id.rjust(16, b"\0") for span in spans), ">u8").astype(np.uint64)
    decisions = Decisions.from_columns(n, outcome=np.full(n, Outcome.PASS), trace_hi=ids[::2], trace_lo=ids[1::2])
    offsets = np.cumsum([0, *map(len, raws)], dtype=np.int64)
    block = PayloadBlock(
        PayloadFormat.OTLP_SPAN, b"".join(raws), offsets, tuple(contexts), np.array(context, np.uint32)
    )
    rows = np.arange(n, dtype=np.uint32)
    return LinkedSpans(1, (block,), np.zeros(n, np.uint32), rows, decisions, SpanLinks.zeros(0))
