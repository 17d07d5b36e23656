"""Linked spans from a departure and the payload of the batches it mentions. Pure."""

import numpy as np
from numpy.typing import NDArray

from bridge.spans import Decisions, Departure, LinkedSpans, Outcome, PayloadBlock, SpanLinks

try:
    from bridge.store import _packing
except ImportError:  # not built
    _packing = None  # type: ignore[assignment]

CUT_BELOW = 0.5
"""When less than this share of a batch leaves, its spans are copied out, and a tick does not hold on to the rest."""


class LinkedSpansBuilder:
    """Takes the payload block of each batch in turn, keeps what of it leaves, and puts the linked spans together.

    Of the departure only rows with outcome EXPORT or PASS are wanted; batches that are never added are left out.
    """

    def __init__(self, tick: int, departure: Departure, most: int | None = None) -> None:
        """most: of the first traces only, whole ones as far as they fit."""
        outcome = departure.decisions.outcome
        self.tick, self._departure = tick, departure
        self._wanted = np.flatnonzero((outcome == Outcome.EXPORT) | (outcome == Outcome.PASS))
        if most is not None and self._wanted.size > most:
            self._wanted = self._wanted[: _whole(departure.decisions.take(self._wanted[: most + 1]), most)]
        self._row = departure.row[self._wanted]
        self._block = np.zeros(self._wanted.size, np.uint32)
        self._here = np.zeros(self._wanted.size, np.bool_)
        self._blocks: list[PayloadBlock] = []
        batch = departure.batch[self._wanted]
        order = np.argsort(_narrowed(batch), kind="stable")
        ordered = batch[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        parts = np.split(order, starts[1:]) if order.size else []
        self._positions = dict(zip(ordered[starts].tolist(), parts, strict=True))

    @property
    def batches(self) -> list[int]:
        """Numbers of the batches whose payload is wanted, ascending."""
        return list(self._positions)

    def wanted(self, number: int) -> int:
        """How many spans of this batch are wanted."""
        return int(self._positions[number].size)

    def add(self, number: int, block: PayloadBlock) -> None:
        """Take what is wanted of this batch."""
        positions = self._positions[number]
        if positions.size < CUT_BELOW * len(block):
            block = cut(block, self._row[positions])
            self._row[positions] = np.arange(positions.size, dtype=np.uint32)
        self._block[positions] = len(self._blocks)
        self._here[positions] = True
        self._blocks.append(block)

    def finish(self) -> LinkedSpans:
        """The linked spans, in the departure's order."""
        all_here = bool(self._here.all())
        rows = self._wanted if all_here else self._wanted[self._here]
        block, row = (self._block, self._row) if all_here else (self._block[self._here], self._row[self._here])
        decisions = self._departure.decisions
        links = _moved(self._departure.links, rows, len(decisions))
        if rows.size < len(decisions):
            decisions = decisions.take(rows)
        clocks = self._departure.clocks.take(rows)
        return LinkedSpans(self.tick, tuple(self._blocks), block, row, decisions, links, clocks)


def tally(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct numbers, ascending, and how often each is there."""
    narrow = _narrowed(numbers)
    if narrow.dtype != np.uint16 or not numbers.size:
        return np.unique(numbers, return_counts=True)
    counts = np.bincount(narrow)
    found = np.flatnonzero(counts)
    return found + numbers.min(), counts[found]


def _narrowed(numbers: NDArray[np.int64]) -> NDArray[np.integer]:
    """How far each lies above the least, in 16 bits; themselves where that is too far. Numpy counts 16 bits instead
    of comparing them, which takes a fifth of the time."""
    if not numbers.size:
        return numbers
    low, high = int(numbers.min()), int(numbers.max())
    return (numbers - low).astype(np.uint16) if high - low < 1 << 16 else numbers


def _whole(decisions: Decisions, most: int) -> int:
    """How many of these most + 1 rows are whole traces; `most` where the first trace is larger."""
    other = (decisions.trace_hi[1:] != decisions.trace_hi[:-1]) | (decisions.trace_lo[1:] != decisions.trace_lo[:-1])
    begins = np.flatnonzero(other)
    return int(begins[-1]) + 1 if begins.size else most


def cut(block: PayloadBlock, rows: NDArray[np.uint32]) -> PayloadBlock:
    """These rows of a block, in this order, as a block of their own."""
    starts, ends = block.offsets[rows], block.offsets[rows.astype(np.int64) + 1]
    offsets = np.zeros(rows.size + 1, np.int64)
    np.cumsum(ends - starts, out=offsets[1:])
    data = gathered(block.data, starts, ends)
    return PayloadBlock(block.format, data, offsets, block.contexts, block.context[rows])


def gathered_plain(data: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
    """Every data[starts[i]:ends[i]], one after another. Raises ValueError for ranges that are not in the data."""
    if starts.size != ends.size or (starts < 0).any() or (ends < starts).any() or (ends > len(data)).any():
        raise ValueError("gathered: ranges that are not in the data")
    return b"".join([data[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])


gathered = gathered_plain if _packing is None else _packing.gathered


def _moved(links: SpanLinks, rows: NDArray[np.int64], n: int) -> SpanLinks:
    """The links of these rows of n, counted in their new positions."""
    position = np.full(n, -1, np.int64)
    position[rows] = np.arange(rows.size)
    row = position[links.row]
    kept = links.take(row >= 0)
    return SpanLinks(row=row[row >= 0], trace_hi=kept.trace_hi, trace_lo=kept.trace_lo, span_id=kept.span_id)
