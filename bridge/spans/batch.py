"""A batch of spans: columns beside the spans' own bytes."""

from collections.abc import Sequence
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

    @classmethod
    def concatenate(cls, blocks: "Sequence[PayloadBlock]") -> "PayloadBlock":
        """The spans of at least one block, in order; equal contexts become one.

        Raises ValueError where the formats of the blocks differ.
        """
        n, end = sum(map(len, blocks)), 0
        offsets, context = np.zeros(n + 1, np.int64), np.empty(n, np.uint32)
        contexts: dict[Context, int] = {}
        parts, at = [], 0
        for block in blocks:
            if block.format != blocks[0].format:
                raise ValueError(f"PayloadBlock: {block.format.name} beside {blocks[0].format.name}")
            first, last, after = int(block.offsets[0]), int(block.offsets[-1]), at + len(block)
            np.add(block.offsets[1:], end - first, out=offsets[at + 1 : after + 1])
            positions = [contexts.setdefault(around, len(contexts)) for around in block.contexts]
            context[at:after] = positions[0] if len(positions) == 1 else np.array(positions, np.uint32)[block.context]
            parts.append(memoryview(block.data)[first:last])
            at, end = after, end + last - first
        return cls(blocks[0].format, b"".join(parts), offsets, tuple(contexts), context)

    def part(self, first: int, end: int) -> "PayloadBlock":
        """The spans from first up to end, with bytes of their own and those contexts that they have."""
        at, after = int(self.offsets[first]), int(self.offsets[end])
        used, context = np.unique(self.context[first:end], return_inverse=True)
        return PayloadBlock(
            self.format,
            self.data[at:after],
            self.offsets[first : end + 1] - at,
            tuple(self.contexts[number] for number in used.tolist()),
            context.astype(np.uint32),
        )

    @property
    def data_bytes(self) -> int:
        """Bytes of its spans."""
        return int(self.offsets[-1] - self.offsets[0])

    def span(self, row: int) -> bytes:
        """The bytes of one span."""
        return self.data[int(self.offsets[row]) : int(self.offsets[row + 1])]


@dataclass(frozen=True, slots=True, eq=False)
class SpanBatch:
    """n spans in the order their sender gave them: what linking needs, and their own bytes, untouched but for attribute
    rules."""

    columns: SpanColumns
    payload: PayloadBlock

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.payload):
            raise ValueError(f"SpanBatch: {len(self.columns)} rows but {len(self.payload)} payloads")

    def __len__(self) -> int:
        return len(self.columns)

    @classmethod
    def concatenate(cls, batches: "Sequence[SpanBatch]") -> "SpanBatch":
        """The spans of at least one batch, in order. Raises ValueError where the formats of their payload differ."""
        if len(batches) == 1:
            return batches[0]
        columns = SpanColumns.concatenate([batch.columns for batch in batches])
        return cls(columns, PayloadBlock.concatenate([batch.payload for batch in batches]))

    def part(self, first: int, end: int) -> "SpanBatch":
        """The spans from first up to end."""
        return SpanBatch(self.columns.take(np.arange(first, end)), self.payload.part(first, end))

    def with_columns(self, columns: SpanColumns) -> "SpanBatch":
        """The same spans under other columns."""
        return replace(self, columns=columns)

    def with_payload(self, payload: PayloadBlock) -> "SpanBatch":
        """The same spans with other bytes of their own; itself where they are the same."""
        return self if payload is self.payload else replace(self, payload=payload)
