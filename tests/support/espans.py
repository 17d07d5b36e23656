"""Requests with eSpans, for tests of what is made of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

Value = str | int | float | bool | bytes | AnyValue | None
Attributes = Mapping[str, Value] | Iterable[tuple[str, Value]]

REQUIRED: Mapping[str, Value] = {
    "ebpf_span_type": "entry",
    "direction": "incoming",
    "req_seq": 11,
    "resp_seq": 12,
}
"""What an eSpan needs to be without fault."""
ORDINARY_IDS: Mapping[str, Any] = {"trace_id": bytes(range(1, 17)), "span_id": bytes(range(1, 9))}


def any_value(value: Value) -> AnyValue:
    """A value as attributes carry it; None has no value at all."""
    if value is None or isinstance(value, AnyValue):
        return value or AnyValue()
    for form, name in (
        (bool, "bool_value"),
        (str, "string_value"),
        (int, "int_value"),
        (float, "double_value"),
        (bytes, "bytes_value"),
    ):
        if isinstance(value, form):
            return AnyValue(**{name: value})
    raise TypeError(f"no attribute value: {value!r}")


def pairs(attributes: Attributes) -> list[KeyValue]:
    """Attributes as their messages; a list may hold a key twice."""
    items = attributes.items() if isinstance(attributes, Mapping) else attributes
    return [KeyValue(key=key, value=any_value(value)) for key, value in items]


def span_of(attributes: Attributes = (), **fields: Any) -> Span:
    """A span with these attributes and fields."""
    return Span(attributes=pairs(attributes), **fields)


def espan_of(**attributes: Value) -> Span:
    """An eSpan that has what it needs, and these attributes."""
    return span_of({**REQUIRED, **attributes})


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    digits = [number >> 7 * i & 0x7F for i in range(max(1, -(-number.bit_length() // 7)))]
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


def field(number: int, content: bytes) -> bytes:
    """A delimited field, for messages that opentelemetry-proto would not write."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def request_of(*spans: Span, resource: Attributes = ()) -> bytes:
    """A serialized request with these spans under one resource and one scope."""
    around = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    around.resource.attributes.extend(pairs(resource))
    return ExportTraceServiceRequest(resource_spans=[around]).SerializeToString()
