"""Traces that left a short while ago, kept to be looked at: a bounded ring, and what is searched in it."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

MAX_SPANS_SHOWN = 5_000
"""Of one trace; what is beyond is counted."""
MAX_BYTES = 64 << 20
"""Of all kept traces, as OTLP."""
_KINDS = {Span.SPAN_KIND_SERVER: "server", Span.SPAN_KIND_CLIENT: "client", Span.SPAN_KIND_INTERNAL: "internal"}
_KINDS |= {Span.SPAN_KIND_PRODUCER: "producer", Span.SPAN_KIND_CONSUMER: "consumer"}
_SIDES = {"entry": "server", "exit": "client"}


@dataclass(frozen=True, slots=True)
class SpanView:
    """What the page shows of a span."""

    span_id: str
    parent_id: str
    """"" at a root."""
    service: str
    host: str
    name: str
    kind: str
    """"server", "client" and so on, as OpenTelemetry calls them; "" where neither kind nor side is known."""
    start_ns: int
    end_ns: int
    error: bool
    method: str
    """How the edge to its parent was found; "as sent" on spans that are no eSpans, "" at a root."""
    confidence: float | None
    clock_offset_ns: int | None
    """How far its host's clock is ahead of the reference's, where that is known."""

    def to_json(self, first_ns: int) -> dict[str, Any]:
        """As the API gives it; numbers that JavaScript cannot hold are told as differences."""
        values = {name: getattr(self, name) for name in self.__slots__ if name not in ("start_ns", "end_ns")}
        return values | {"after_ns": self.start_ns - first_ns, "duration_ns": self.end_ns - self.start_ns}


@dataclass(frozen=True, slots=True)
class KeptTrace:
    """One trace as far as it left: its spans in order of start, and as an OTLP request."""

    trace_id: str
    spans: tuple[SpanView, ...]
    request: bytes
    hidden_spans: int
    """How many spans are in `request` only."""
    arrived_s: float
    """When it came into the ring, seconds since the epoch."""

    @property
    def root(self) -> SpanView:
        """The first span without a parent here, else the first."""
        ids = {span.span_id for span in self.spans}
        return next((span for span in self.spans if span.parent_id not in ids), self.spans[0])

    @property
    def duration_ns(self) -> int:
        """From the first start to the last end."""
        return max(0, max(span.end_ns for span in self.spans) - self.start_ns)

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
            "start_ns": self.start_ns,
            "duration_ns": self.duration_ns,
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

    def __init__(self, keep: int, max_bytes: int = MAX_BYTES) -> None:
        self._keep, self._max_bytes = keep, max_bytes
        self._traces: OrderedDict[str, KeptTrace] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._traces)

    def __iter__(self) -> Iterator[KeptTrace]:
        return iter(list(self._traces.values()))

    def add(self, requests: Iterable[bytes], now_s: float) -> None:
        """Keep the traces of serialized ExportTraceServiceRequests."""
        for trace_id, request in _by_trace(requests).items():
            known = self._traces.pop(trace_id, None)
            if known is not None:
                self._bytes -= len(known.request)
                # protobuf: messages one after another are one message, its repeated fields one after another
                request = ExportTraceServiceRequest.FromString(known.request + request.SerializeToString())
            trace = _kept(trace_id, request, now_s)
            self._traces[trace_id] = trace
            self._bytes += len(trace.request)
            while len(self._traces) > self._keep or (self._bytes > self._max_bytes and len(self._traces) > 1):
                self._bytes -= len(self._traces.popitem(last=False)[1].request)

    def find(self, search: Search, limit: int) -> list[KeptTrace]:
        """Traces that fit, the newest first."""
        found = []
        for trace in reversed(self._traces.values()):
            if search.fits(trace):
                found.append(trace)
                if len(found) == limit:
                    break
        return found

    def get(self, trace_id: str) -> KeptTrace | None:
        """The trace of this id."""
        return self._traces.get(trace_id.lower())


def _by_trace(requests: Iterable[bytes]) -> dict[str, ExportTraceServiceRequest]:
    """One request for each trace, its spans under copies of their resource and scope."""
    traces: dict[str, ExportTraceServiceRequest] = {}
    for data in requests:
        for group in ExportTraceServiceRequest.FromString(data).resource_spans:
            for scope_spans in group.scope_spans:
                places: dict[bytes, Any] = {}
                for span in scope_spans.spans:
                    if span.trace_id not in places:
                        own = traces.setdefault(span.trace_id.hex(), ExportTraceServiceRequest())
                        places[span.trace_id] = _place(own, group, scope_spans)
                    places[span.trace_id].spans.append(span)
    return traces


def _place(request: ExportTraceServiceRequest, group: ResourceSpans, scope_spans: Any) -> Any:
    own = request.resource_spans.add(schema_url=group.schema_url)
    if group.HasField("resource"):
        own.resource.CopyFrom(group.resource)
    place = own.scope_spans.add(schema_url=scope_spans.schema_url)
    if scope_spans.HasField("scope"):
        place.scope.CopyFrom(scope_spans.scope)
    return place


def _kept(trace_id: str, request: ExportTraceServiceRequest, now_s: float) -> KeptTrace:
    spans = sorted(_views(request), key=lambda span: span.start_ns)
    shown = tuple(spans[:MAX_SPANS_SHOWN])
    return KeptTrace(trace_id, shown, request.SerializeToString(), len(spans) - len(shown), now_s)


def _views(request: ExportTraceServiceRequest) -> Iterator[SpanView]:
    for group in request.resource_spans:
        resource = _plain(group.resource.attributes)
        service, host = str(resource.get("service.name", "")), str(resource.get("host.name", ""))
        for scope_spans in group.scope_spans:
            for span in scope_spans.spans:
                yield _view(span, service, host)


def _view(span: Span, service: str, host: str) -> SpanView:
    values = _plain(span.attributes)
    parent = span.parent_span_id.hex() if any(span.parent_span_id) else ""
    confidence, offset = values.get("espan.link.confidence"), values.get("espan.clock.offset_ns")
    return SpanView(
        span_id=span.span_id.hex(),
        parent_id=parent,
        service=str(values.get("service") or service or "unknown"),
        host=host,
        name=span.name or str(values.get("resource", "")),
        kind=_KINDS.get(span.kind) or _SIDES.get(str(values.get("ebpf_span_type")), ""),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        error=span.status.code == Status.STATUS_CODE_ERROR or values.get("status") == "error",
        method=str(values.get("espan.link.method", "as sent" if parent else "")),
        confidence=float(confidence) if isinstance(confidence, int | float) else None,
        clock_offset_ns=offset if isinstance(offset, int) else None,
    )


def _plain(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind in ("string_value", "int_value", "double_value", "bool_value") else None
