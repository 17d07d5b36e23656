"""What is wrong with bytes that are no ExportTraceServiceRequest, and where. Slow; asked about bad requests only."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from bridge.codec import otlp_view_pb2 as view

_PARTS: Any = (
    (ExportTraceServiceRequest, view.Request, "resource_spans"),
    (ResourceSpans, view.ResourceSpans, "scope_spans"),
    (ScopeSpans, view.ScopeSpans, "spans"),
    (Span, None, ""),
)
"""Each message as opentelemetry-proto has it, its view, and the field of the view that holds the next."""


def locate(data: bytes) -> str:
    """The innermost message that cannot be read and protobuf's reason, such as
    `resource_spans[0].scope_spans[1].spans[3]: Wire format was corrupt`."""
    path, reason = "request", "cannot be read"
    for where, why in _descend(data, 0):
        path, reason = where or path, why
    return f"{path}: {reason}"


def _descend(data: bytes, level: int, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, reason) of each message that cannot be read, from the outermost to the first innermost one."""
    stock, narrow, field = _PARTS[level]
    if not (why := _reason(stock, data)):
        return
    yield path, why
    if narrow is None or _reason(narrow, data):
        return
    for i, part in enumerate(getattr(narrow.FromString(data), field)):
        inner = f"{path}.{field}[{i}]".lstrip(".")
        if _reason(_PARTS[level + 1][0], part):
            yield from _descend(part, level + 1, inner)
            return


def _reason(message: Any, data: bytes) -> str:
    try:
        message.FromString(data)
    except DecodeError as exc:
        return str(exc).rpartition("': ")[2]
    return ""
