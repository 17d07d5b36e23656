"""Traces that left a short while ago, kept to be looked at: a bounded ring, and what is searched in it.

One thread adds at a time, others read meanwhile: they work on a list of what was there when they began.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from bridge.web.span_views import SpanView, span_views

MAX_SPANS = 5_000
"""Of one trace; what is beyond is counted."""
TRACE_SHARE = 0.25
"""Of all the memory, which one trace may take."""
SPAN_COST, TRACE_COST = 512, 1024
"""Bytes of memory that a span and a trace take besides their OTLP, as measured; a test measures again."""


@dataclass(frozen=True, slots=True)
class KeptTrace:
    """One trace as far as it left: its spans in order of start, and as an OTLP request."""

    trace_id: str
    spans: tuple[SpanView, ...]
    request: bytes
    hidden_spans: int
    """How many further ones there were, that were not kept."""
    left_s: float
    """When the last of it left, seconds since the epoch."""

    @property
    def cost(self) -> int:
        """Bytes of memory it takes."""
        return len(self.request) + SPAN_COST * len(self.spans) + TRACE_COST

    @property
    def root(self) -> SpanView:
        """The first span without a parent here, else the first."""
        ids = {span.span_id for span in self.spans}
        return next((span for span in self.spans if span.parent_id not in ids), self.spans[0])

    @property
    def end_ns(self) -> int:
        """The last end, 0 where none is known."""
        return max(span.end_ns for span in self.spans)

    @property
    def duration_ns(self) -> int:
        """From the first start to the last end, 0 where one of them is not known."""
        return max(0, self.end_ns - self.start_ns) if self.start_ns else 0

    @property
    def start_ns(self) -> int:
        """The first start, 0 where none is known."""
        return next((span.start_ns for span in self.spans if span.start_ns), 0)

    @property
    def error(self) -> bool:
        """Whether any span failed."""
        return any(span.error for span in self.spans)

    @property
    def services(self) -> list[str]:
        """Names of the services in it."""
        return sorted({span.service for span in self.spans})

    def to_json(self) -> dict[str, Any]:
        """As lists of the API give it."""
        root = self.root
        return {
            "trace_id": self.trace_id,
            "service": root.service,
            "name": root.name,
            "start_ms": self.start_ns / 1e6,
            "duration_ms": self.duration_ns / 1e6,
            "spans": len(self.spans) + self.hidden_spans,
            "services": self.services,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; a field that is left out lets everything pass. Texts match parts, whatever their case."""

    service: str = ""
    resource: str = ""
    """In names of spans."""
    trace_id: str = ""
    """How the trace's id begins."""
    min_duration_ms: float = 0.0
    error: bool = False

    def fits(self, trace: KeptTrace) -> bool:
        """Whether the trace is one of those."""
        if self.error and not trace.error:
            return False
        if trace.duration_ns < self.min_duration_ms * 1e6 or not trace.trace_id.startswith(self.trace_id.lower()):
            return False
        service, resource = self.service.casefold(), self.resource.casefold()
        return any(service in s.service.casefold() and resource in s.name.casefold() for s in trace.spans)


class RecentTraces:
    """The last `keep` traces, fewer where they are large. What comes later of one that is there joins it."""

    def __init__(self, keep: int, max_bytes: int) -> None:
        """max_bytes: memory of all of them."""
        self._keep, self._max_bytes, self._trace_bytes = keep, max_bytes, int(TRACE_SHARE * max_bytes)
        self._traces: OrderedDict[str, KeptTrace] = OrderedDict()
        self._changing = Lock()
        """Held for moments, once a trace."""
        self.bytes = 0
        """Memory they take."""

    def __len__(self) -> int:
        return len(self._traces)

    def __iter__(self) -> Iterator[KeptTrace]:
        return iter(list(self._traces.values()))

    def add(self, requests: Iterable[bytes], left_s: float) -> None:
        """Keep the traces of serialized ExportTraceServiceRequests, which left at this time.

        Raises DecodeError, and keeps nothing, where one of them is not read: a text in it may be no UTF-8.
        """
        for trace_id, part in self._parts(requests).items():
            spans, request = list(span_views(part.request)), part.request.SerializeToString()
            with self._changing:
                self._join(trace_id, spans, request, part.hidden, left_s)

    def _join(self, trace_id: str, spans: list[SpanView], request: bytes, hidden: int, left_s: float) -> None:
        known = self._traces.get(trace_id)
        if known is not None:
            # protobuf: messages one after another are one message, its repeated fields one after another
            spans, request, hidden = [*known.spans, *spans], known.request + request, known.hidden_spans + hidden
            self.bytes -= known.cost
        if not spans:  # what was known of it was let go meanwhile
            return
        spans.sort(key=lambda span: span.start_ns)
        trace = self._traces[trace_id] = KeptTrace(trace_id, tuple(spans), request, hidden, left_s)
        self._traces.move_to_end(trace_id)
        self.bytes += trace.cost
        while len(self._traces) > self._keep or (self.bytes > self._max_bytes and self._traces):
            self.bytes -= self._traces.popitem(last=False)[1].cost

    def clear(self) -> None:
        """Let all of them go; from any thread."""
        with self._changing:
            self._traces.clear()
            self.bytes = 0

    def find(self, search: Search, limit: int) -> list[KeptTrace]:
        """Traces that fit, the newest first."""
        found = []
        for trace in reversed(list(self._traces.values())):
            if search.fits(trace):
                found.append(trace)
                if len(found) == limit:
                    break
        return found

    def get(self, trace_id: str) -> KeptTrace | None:
        """The trace of this id."""
        return self._traces.get(trace_id.lower())

    def _parts(self, requests: Iterable[bytes]) -> dict[str, "_Part"]:
        """What is new of each trace, its spans under copies of their resource and scope."""
        parts: dict[str, _Part] = {}
        for data in requests:
            for group in ExportTraceServiceRequest.FromString(data).resource_spans:
                for scope_spans in group.scope_spans:
                    places: dict[bytes, Any] = {}
                    for span in scope_spans.spans:
                        if (part := parts.get(trace_id := span.trace_id.hex())) is None:
                            known = self._traces.get(trace_id)
                            part = parts[trace_id] = _Part.after(known)
                        if not part.has_room(span, self._trace_bytes):
                            part.hidden += 1
                            continue
                        if span.trace_id not in places:
                            places[span.trace_id] = _place(part.request, group, scope_spans)
                        places[span.trace_id].spans.append(span)
        return parts


@dataclass(slots=True)
class _Part:
    """What is new of a trace of which so much is known."""

    spans: int
    bytes: int
    request: ExportTraceServiceRequest = field(default_factory=ExportTraceServiceRequest)
    hidden: int = 0

    @classmethod
    def after(cls, known: KeptTrace | None) -> "_Part":
        return cls(len(known.spans), known.cost) if known else cls(0, TRACE_COST)

    def has_room(self, span: Span, most_bytes: int) -> bool:
        """Whether one more may be kept; it is counted then. One of any size may be the first."""
        size = span.ByteSize() + SPAN_COST
        if self.spans and (self.spans >= MAX_SPANS or self.bytes + size > most_bytes):
            return False
        self.spans, self.bytes = self.spans + 1, self.bytes + size
        return True


def _place(request: ExportTraceServiceRequest, group: ResourceSpans, scope_spans: Any) -> Any:
    own = request.resource_spans.add(schema_url=group.schema_url)
    if group.HasField("resource"):
        own.resource.CopyFrom(group.resource)
    place = own.scope_spans.add(schema_url=scope_spans.schema_url)
    if scope_spans.HasField("scope"):
        place.scope.CopyFrom(scope_spans.scope)
    return place
