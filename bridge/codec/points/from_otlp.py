"""OTLP spans to tracing points, as the Guance UI reads them: the second table of `bridge.codec.points.mapping`.

A span that was a point becomes that point again. Of any other span every attribute goes somewhere: to a key of its
own, or into `message`. eSpans leave here without ids, which are put in when a body is written; ordinary spans have
their own.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from bridge.codec.points import mapping
from bridge.codec.points.blocks import with_converted
from bridge.codec.points.otlp_values import Attributes, by_key, there
from bridge.codec.points.restoring import restored
from bridge.codec.points.tracing import Surroundings, tracing_point
from bridge.errors import InvalidData
from bridge.spans import Context, LinkedSpans, Outcome, PayloadBlock, PayloadFormat

_MAX_CACHED_BYTES: Final = 16384
"""Longer contexts are not remembered: what a sender writes may not decide how much memory they take."""


def as_points(linked: LinkedSpans) -> LinkedSpans:
    """The same spans, OTLP spans among them as points; of the eSpans without what linking decided.

    Raises InvalidData, which names the span, where the bytes of one are none, and ValueError where a row names a place
    that is not there.
    """
    return with_converted(linked, PayloadFormat.OTLP_SPAN, partial(_converted, linked))


def _converted(linked: LinkedSpans, rows: list[int]) -> PayloadBlock:
    points = []
    for i in rows:
        block, row = linked.blocks[linked.block[i]], int(linked.row[i])
        context = block.contexts[block.context[row]]
        try:
            points.append(point(block.span(row), context, is_espan=linked.decisions.outcome[i] == Outcome.EXPORT))
        except InvalidData as exc:
            raise InvalidData(f"span {i}: {exc}") from exc
    offsets = np.cumsum([0, *map(len, points)], dtype=np.int64)
    return PayloadBlock(PayloadFormat.POINT, b"".join(points), offsets, (Context(),), np.zeros(len(points), np.uint32))


def point(data: bytes, context: Context, *, is_espan: bool) -> bytes:
    """The PBPoint of a serialized Span; an ordinary one with its own ids. Raises InvalidData where it is no span."""
    try:
        span = Span.FromString(data)
        around = _surroundings(context)
    except DecodeError as exc:
        raise InvalidData(f"its bytes are no span: {exc}") from exc
    attributes = span_attributes(data)
    if attributes is None:
        attributes = by_key(span.attributes)
    if around.measurement is not None:
        made = restored(span, attributes, around.resource, around.measurement)
    else:
        made = tracing_point(span, attributes, around, is_espan=is_espan)
    if not is_espan:
        made.add("trace_id", span.trace_id.hex())
        made.add("span_id", span.span_id.hex())
        made.add("parent_id", span.parent_span_id.hex() if any(span.parent_span_id) else "0")
    return made.data()


def _surroundings(context: Context) -> Surroundings:
    size = len(context.resource_spans) + len(context.scope_spans)
    return _read_context(context) if size <= _MAX_CACHED_BYTES else _read_context.__wrapped__(context)


@lru_cache(maxsize=1 << 10)
def _read_context(context: Context) -> Surroundings:
    resource = ResourceSpans.FromString(context.resource_spans)
    around = ScopeSpans.FromString(context.scope_spans)
    scope = {"name": around.scope.name, "version": around.scope.version}
    attributes = by_key(around.scope.attributes)
    return Surroundings(
        resource=by_key(resource.resource.attributes),
        scope=there({**scope, "attributes": attributes}),
        schema_url=around.schema_url or resource.schema_url,
        measurement=around.scope.name if mapping.POINT_SCOPE in attributes else None,
    )


def _no_kernel(data: bytes) -> None:
    """Where no C compiler was there when the bridge was installed."""


span_attributes: Callable[[bytes], Attributes | None]
try:
    from bridge.codec.points._point_convert import span_attributes
except ImportError:
    span_attributes = _no_kernel
