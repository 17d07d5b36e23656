"""Some of the spans of a request."""

from collections.abc import MutableSequence
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def cut_request(request: bytes, begin: int, end: int) -> bytes:
    """A request with the spans from begin up to end alone.

    Resources and scopes are in each part that has spans of theirs.
    """
    message, at = ExportTraceServiceRequest.FromString(request), 0
    for group in message.resource_spans:
        for scope in group.scope_spans:
            count = len(scope.spans)
            del scope.spans[max(0, min(end - at, count)) :]
            del scope.spans[: max(0, min(begin - at, count))]
            at += count
    for group in message.resource_spans:
        _drop(group.scope_spans, [not scope.spans for scope in group.scope_spans])
    _drop(message.resource_spans, [not group.scope_spans for group in message.resource_spans])
    return message.SerializeToString()


def _drop(parts: MutableSequence[Any], empty: list[bool]) -> None:
    for index in reversed(range(len(empty))):
        if empty[index]:
            del parts[index]
