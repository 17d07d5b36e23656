"""What became of spans: decisions, and the spans that leave together with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from bridge.spans.batch import PayloadBlock
from bridge.spans.columns import F32, I64, U8, U32, U64, Table


class Method(IntEnum):
    """How the parent edge of a span was found; `espan.link.method` is the lower-case name, absent at NONE."""

    NONE = 0
    SEQ = 1
    THREAD = 2
    HEADER = 3
    REQUEST_ID = 4
    TIMING = 5


class Outcome(IntEnum):
    """What happens to a row that leaves."""

    EXPORT = 1
    """An eSpan of a kept trace: exported with its ids."""
    SAMPLED_OUT = 2
    FOLDED = 3
    """A copy of a span that is exported (or was sampled out) once."""
    PASS = 4
    """An ordinary span: exported exactly as it came."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decisions(Table):
    """The final word on n spans. 0 means none in every column. Decisions, once committed, never change."""

    outcome: U8
    """An `Outcome`."""
    span_id: U64
    trace_hi: U64
    """Exported trace id, upper and lower half."""
    trace_lo: U64
    parent_span_id: U64
    """Exported parent span id, 0 at a root."""
    ebpf_trace_hi: U64
    ebpf_trace_lo: U64
    ebpf_parent_id: U64
    """Span id of the parent found by eBPF evidence alone, 0 at a root."""
    method: U8
    """A `Method`: how parent_span_id was found."""
    confidence: F32
    """0..1; 0 at a root."""
    encode: U8
    """`Encoding` of the exported trace id where it came from headers; ABSENT where it is an eBPF trace id."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpanLinks(Table):
    """Span links to be carried by exported spans, sparse: several rows may name the same span, most spans have none."""

    row: I64
    """Position, in the table of decisions beside this one, of the span that carries the link."""
    trace_hi: U64
    trace_lo: U64
    span_id: U64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClockOffsets(Table):
    """Clocks of hosts that were compared with another's, which is how times of several hosts can be compared."""

    reference: U64
    """Sender whose clock this one was compared with. Offsets from one reference can be compared."""
    offset_ns: I64
    """How far this clock is ahead of that of `reference`."""
    uncertainty_ns: I64
    """Give or take."""


@dataclass(frozen=True, slots=True, eq=False)
class RowClocks:
    """The clock of the host that each of n rows came from, as far as it is known.

    Raises ValueError where a row names a clock that is not there.
    """

    offsets: ClockOffsets
    of_row: U32
    """Shape (n,): position in `offsets`, plus 1; 0 where it is not known. Shape (0,): it is known of no row."""

    def __post_init__(self) -> None:
        if self.of_row.dtype != np.uint32 or self.of_row.ndim != 1:
            raise ValueError(f"RowClocks.of_row: want 1-D uint32, got {self.of_row.ndim}-D {self.of_row.dtype}")
        if self.of_row.size and int(self.of_row.max()) > len(self.offsets):
            raise ValueError(f"RowClocks.of_row: names clock {self.of_row.max()} of {len(self.offsets)}")
        self.of_row.flags.writeable = False

    def take(self, rows: NDArray[Any]) -> Self:
        """The clocks of the rows at these positions."""
        return type(self)(self.offsets, self.of_row[rows]) if self.of_row.size else self

    @classmethod
    def concatenate(cls, parts: Sequence[tuple[Self, int]]) -> Self:
        """The clocks of the rows of several parts, each with how many rows it has, in order."""
        of_row, before = [], 0
        for clocks, rows in parts:
            own = clocks.of_row if clocks.of_row.size else np.zeros(rows, np.uint32)
            of_row.append(np.where(own > 0, own + np.uint32(before), np.uint32(0)))
            before += len(clocks.offsets)
        if not before:
            return cls(ClockOffsets.zeros(0), np.zeros(0, np.uint32))
        return cls(ClockOffsets.concatenate([clocks.offsets for clocks, _ in parts]), np.concatenate(of_row))


NO_CLOCKS: Final = RowClocks(ClockOffsets.zeros(0), np.zeros(0, np.uint32))
"""Of rows whose hosts were not compared."""


@dataclass(frozen=True, slots=True, eq=False)
class LinkedSpans:
    """Spans that leave in one tick and are to be exported (outcomes EXPORT and PASS), with their payload.

    Rows of one trace stand together, in the order they were received.
    """

    tick: int
    blocks: tuple[PayloadBlock, ...]
    block: NDArray[np.uint32]
    """Shape (n,): position in `blocks` of each span's payload."""
    row: NDArray[np.uint32]
    """Shape (n,): the span's row in that block."""
    decisions: Decisions
    links: SpanLinks
    clocks: RowClocks = NO_CLOCKS
    """Of the hosts that the rows came from."""

    def __len__(self) -> int:
        return len(self.decisions)


@dataclass(frozen=True, slots=True, eq=False)
class Departure:
    """Rows that leave in one tick, whatever their outcome, named by where the store holds them.

    Rows of one trace stand together, in the order they were received; `links.row` counts in these rows.
    """

    batch: NDArray[np.int64]
    """Shape (n,): number of the stored batch."""
    row: NDArray[np.uint32]
    """Shape (n,): position in that batch."""
    decisions: Decisions
    links: SpanLinks
    clocks: RowClocks = NO_CLOCKS
    """Of the hosts that the rows came from."""

    def __len__(self) -> int:
        return len(self.decisions)
