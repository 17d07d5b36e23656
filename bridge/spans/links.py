"""What became of spans: decisions, and the spans that leave together with them."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from bridge.spans.batch import PayloadBlock
from bridge.spans.columns import F32, I64, U8, U64, Table


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

    def __len__(self) -> int:
        return len(self.decisions)
