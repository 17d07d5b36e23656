"""A batch of spans: columns beside the spans' own bytes."""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from bridge.spans.columns import SpanColumns


class PayloadFormat(IntEnum):
    """What the bytes of one span are."""

    OTLP_SPAN = 1
    """A serialized opentelemetry.proto.trace.v1.Span."""
    POINT = 2
    """A serialized point of DataKit's `point` package."""


@dataclass(frozen=True, slots=True)
class Context:
    """What surrounds OTLP spans, as bytes that can be put back around them.

    `resource_spans` is the sender's ResourceSpans without its scope_spans (resource, schema_url and whatever fields
    we do not know), `scope_spans` its ScopeSpans without the spans. Both are empty for points.
    """

    resource_spans: bytes = b""
    scope_spans: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class PayloadBlock:
    """The bytes of n spans, one after another, and what surrounds each."""

    format: PayloadFormat
    data: bytes
    offsets: NDArray[np.int64]
    """Shape (n + 1,): span i is data[offsets[i]:offsets[i + 1]]."""
    contexts: tuple[Context, ...]
    context: NDArray[np.uint32]
    """Shape (n,): position of each span's context in `contexts`."""

    def __post_init__(self) -> None:
        if self.offsets.dtype != np.int64 or self.context.dtype != np.uint32:
            raise ValueError("PayloadBlock: want int64 offsets and uint32 context")
        if self.offsets.size != self.context.size + 1:
            raise ValueError(f"PayloadBlock: {self.offsets.size} offsets for {self.context.size} spans")
        self.offsets.flags.writeable = False
        self.context.flags.writeable = False

    def __len__(self) -> int:
        return int(self.context.size)

    def span(self, row: int) -> bytes:
        """The bytes of one span."""
        return self.data[int(self.offsets[row]) : int(self.offsets[row + 1])]


@dataclass(frozen=True, slots=True, eq=False)
class SpanBatch:
    """n spans in the order their sender gave them: what linking needs, and their own bytes, untouched."""

    columns: SpanColumns
    payload: PayloadBlock

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.payload):
            raise ValueError(f"SpanBatch: {len(self.columns)} rows but {len(self.payload)} payloads")

    def __len__(self) -> int:
        return len(self.columns)

    def with_columns(self, columns: SpanColumns) -> "SpanBatch":
        """The same spans under other columns."""
        return replace(self, columns=columns)
