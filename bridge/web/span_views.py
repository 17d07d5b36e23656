"""What the page shows of a span, read from OTLP."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

MAX_TEXT = 500
"""Characters of a name that are shown; a span as OTLP has all of them."""
_KINDS = {Span.SPAN_KIND_SERVER: "server", Span.SPAN_KIND_CLIENT: "client", Span.SPAN_KIND_INTERNAL: "internal"}
_KINDS |= {Span.SPAN_KIND_PRODUCER: "producer", Span.SPAN_KIND_CONSUMER: "consumer"}
_SIDES = {"entry": "server", "exit": "client"}
_SHOWN = frozenset(
    (
        *("service.name", "host.name", "service", "resource", "ebpf_span_type", "status"),
        *("espan.link.method", "espan.link.confidence", "espan.clock.offset_ns"),
    )
)
"""Attributes that are looked at: an eSpan has many more."""


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
    """0 where it is not known, and so for the end."""
    end_ns: int
    error: bool
    method: str
    """How the edge to its parent was found; "as sent" on spans that are no eSpans, "" at a root."""
    confidence: float | None
    """From 0 to 1."""
    clock_offset_ns: int | None
    """How far its host's clock is ahead of the reference's, where that is known."""

    @property
    def duration_ns(self) -> int:
        """0 where it is not known."""
        return max(0, self.end_ns - self.start_ns) if self.start_ns and self.end_ns else 0

    def to_json(self, first_ns: int) -> dict[str, Any]:
        """As the API gives it: times in milliseconds, since nanoseconds are too large for JavaScript's numbers."""
        return {
            "span_id": self.span_id,
            "parent_id": self.parent_id,
            "service": self.service,
            "host": self.host,
            "name": self.name,
            "kind": self.kind,
            "error": self.error,
            "method": self.method,
            "confidence": self.confidence,
            "clock_offset_ms": None if self.clock_offset_ns is None else self.clock_offset_ns / 1e6,
            "after_ms": (self.start_ns - first_ns) / 1e6 if self.start_ns else 0.0,
            "duration_ms": self.duration_ns / 1e6,
        }


def span_views(request: ExportTraceServiceRequest) -> Iterator[SpanView]:
    """The spans of a request, in its order. Equal texts of one request are one object: they are most of the memory."""
    texts: dict[str, str] = {}

    def one(text: str) -> str:
        return texts.setdefault(text, text)

    for group in request.resource_spans:
        resource = _plain(group.resource.attributes)
        service, host = _text(resource.get("service.name")), one(_text(resource.get("host.name")))
        for scope_spans in group.scope_spans:
            for span in scope_spans.spans:
                values = _plain(span.attributes)
                parent = one(span.parent_span_id.hex()) if any(span.parent_span_id) else ""
                yield SpanView(
                    span_id=one(span.span_id.hex()),
                    parent_id=parent,
                    service=one(_text(values.get("service")) or service or "unknown"),
                    host=host,
                    name=one(span.name[:MAX_TEXT] or _text(values.get("resource"))),
                    kind=_KINDS.get(span.kind) or _SIDES.get(str(values.get("ebpf_span_type")), ""),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    error=span.status.code == Status.STATUS_CODE_ERROR or values.get("status") == "error",
                    method=one(_text(values.get("espan.link.method", "as sent" if parent else ""))),
                    confidence=_confidence(values.get("espan.link.confidence")),
                    clock_offset_ns=_integer(values.get("espan.clock.offset_ns")),
                )


def _plain(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {key: _value(attribute.value) for attribute in attributes if (key := attribute.key) in _SHOWN}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind in ("string_value", "int_value", "double_value", "bool_value") else None


def _text(value: object) -> str:
    return "" if value is None else str(value)[:MAX_TEXT]


def _confidence(value: object) -> float | None:
    """Anybody may send such an attribute, with anything in it, on a span that is no eSpan."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value) if 0 <= value <= 1 else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
