"""What is stored, by number: which batches wait, which are whole, what may be dropped. No I/O.

Kept beside the database so that a tick need not touch a row of every batch it mentions: rows are written once, read,
and deleted, never updated. It is rebuilt at a start from the numbers and counts of batches and ticks. Every method
is called after the transaction it speaks of has been committed, so that a failed one leaves nothing here.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bridge.component import TickSummary
from bridge.store.numbers import writer_of

_NEVER = -(1 << 63)
_ALL_PASSED = 1 << 62


@dataclass(slots=True)
class _Batch:
    spans: int
    waiting: int
    """Rows that have not left."""
    last_left_ns: int = _NEVER
    ticks: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Tick:
    left_ns: int
    batches: int
    """Batches it mentions that are still kept."""
    exported: int
    """Spans it holds for exporters."""


@dataclass(frozen=True, slots=True)
class Due:
    """Numbers of what nobody needs any more."""

    payloads: list[int]
    batches: list[int]
    ticks: list[int]


class Ledger:
    """Batches, ticks and cursors as the database has them."""

    def __init__(self, last_batch: int = 0, last_tick: int = 0, cursors: Mapping[str, int] | None = None) -> None:
        """last_batch: the newest of the writer this ledger numbers batches for; others' may be noted, too."""
        self.last_batch, self.last_tick = last_batch, last_tick
        self.cursors = dict(cursors or {})
        self._batches: dict[int, _Batch] = {}
        self._ticks: dict[int, _Tick] = {}
        self._whole: list[tuple[int, int]] = []
        """Heap of (last tick, number): batches of which every row has left but some cursor has not passed them."""
        self._passed: list[int] = []
        """Batches that every cursor has passed and whose payload is still there."""
        self._aging: list[tuple[int, int]] = []
        """Heap of (last left_ns, number): batches without payload."""
        self._empty: list[int] = []
        """Ticks in which nothing left."""
        self.spans_with_payload = 0
        """Spans of batches whose payload is there."""

    @property
    def passed_tick(self) -> int:
        """Every cursor has passed the ticks up to this one."""
        return min(self.cursors.values(), default=_ALL_PASSED)

    def appended(self, number: int, spans: int) -> list[int]:
        """A batch is stored; returns it at once if its payload is needed by nobody, as that of an empty one."""
        if writer_of(number) == writer_of(self.last_batch):
            self.last_batch = max(self.last_batch, number)
        self._batches[number] = _Batch(spans, spans)
        self.spans_with_payload += spans
        if not spans:
            heapq.heappush(self._whole, (0, number))
        return self._pass()

    def check(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Raise ValueError where more rows of a batch would leave than wait in it."""
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            batch = self._batches.get(number)
            if batch is None or batch.waiting < count:
                waiting = "is not stored" if batch is None else f"has {batch.waiting} waiting rows"
                raise ValueError(f"{count} rows of batch {number} would leave, which {waiting}")

    def left(
        self, tick: int, left_ns: int, numbers: NDArray[np.int64], counts: NDArray[np.int64], exported: int = 0
    ) -> list[int]:
        """A tick is stored; returns the batches whose payload is needed by nobody from now on.

        exported: how many of the rows are for exporters.
        """
        self.last_tick = max(self.last_tick, tick)
        self._ticks[tick] = _Tick(left_ns, int(numbers.size), exported)
        if not numbers.size:
            self._empty.append(tick)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            batch = self._batches[number]
            batch.waiting -= count
            batch.last_left_ns = max(batch.last_left_ns, left_ns)
            batch.ticks.append(tick)
            if not batch.waiting:
                heapq.heappush(self._whole, (tick, number))
        return self._pass()

    def given_up(self, number: int) -> tuple[int, list[int]]:
        """What waits in this batch will never leave: how many rows that are, and what `left` returns."""
        batch = self._batches[number]
        waited, batch.waiting = batch.waiting, 0
        if waited:
            heapq.heappush(self._whole, (max(batch.ticks, default=0), number))
        return waited, self._pass()

    def moved(self, cursors: Mapping[str, int]) -> list[int]:
        """These are the cursors from now on; returns the batches whose payload is needed by nobody from now on."""
        self.cursors = dict(cursors)
        return self._pass()

    @property
    def batches(self) -> list[int]:
        """Numbers of the stored batches, ascending."""
        return sorted(self._batches)

    def ticks_of(self, number: int) -> list[int]:
        """Numbers of the ticks in which rows of this batch left, ascending."""
        return self._batches[number].ticks

    def is_asked_for_after(self, number: int, tick: int) -> bool:
        """Whether rows of this batch leave later than in this tick; may be asked in any thread."""
        batch = self._batches.get(number)
        return batch is not None and (batch.waiting > 0 or max(batch.ticks, default=0) > tick)

    def has_batch(self, number: int) -> bool:
        """Whether this batch is stored."""
        return number in self._batches

    def batches_of(self, tick: int) -> int:
        """How many stored batches this tick mentions."""
        return self._ticks[tick].batches

    def has_tick(self, number: int) -> bool:
        """Whether this tick is stored."""
        return number in self._ticks

    def next_tick(self, after: int) -> int | None:
        """Number of the oldest stored tick after this one."""
        if after + 1 in self._ticks:
            return after + 1
        return min((number for number in self._ticks if number > after), default=None)

    def summary(self, after: int, up_to: int) -> TickSummary:
        """What the stored ticks after one and up to and including another hold."""
        numbers: Iterable[int] = range(after + 1, up_to + 1)
        if up_to - after > len(self._ticks):
            numbers = (number for number in self._ticks if after < number <= up_to)
        found = [self._ticks[number] for number in numbers if number in self._ticks]
        oldest_ns = min((tick.left_ns for tick in found), default=None)
        return TickSummary(len(found), sum(tick.exported for tick in found), oldest_ns)

    def oldest_undelivered_ns(self) -> dict[str, int]:
        """When the tick behind each cursor left; exporters without one are left out."""
        behind = {name: self.next_tick(cursor) for name, cursor in self.cursors.items() if cursor < self.last_tick}
        return {name: self._ticks[tick].left_ns for name, tick in behind.items() if tick is not None}

    def tick_before(self, left_ns: int, after: int) -> int:
        """The newest tick such that it and all between it and `after` left before this time; `after` without any."""
        newest = after
        for number in sorted(number for number in self._ticks if number > after):
            if self._ticks[number].left_ns >= left_ns:
                break
            newest = number
        return newest

    def tick_to_pass(self, spans: int) -> int:
        """The tick all cursors have to pass for payload of so many spans to go, or as much as would; 0 for none."""
        last = 0
        for tick, number in sorted(self._whole):
            last, spans = tick, spans - self._batches[number].spans
            if spans <= 0:
                break
        return last

    def due(self, before_ns: int) -> Due:
        """What may be dropped: payloads, and batches and ticks that left before this time. Changes nothing."""
        aged = []
        while self._aging and self._aging[0][0] < before_ns:
            aged.append(heapq.heappop(self._aging))
        for item in aged:
            heapq.heappush(self._aging, item)
        batches = [number for _, number in aged]
        batches += [number for number in self._passed if self._batches[number].last_left_ns < before_ns]
        fewer = Counter(tick for number in batches for tick in self._batches[number].ticks)
        ticks = [tick for tick, count in fewer.items() if self._ticks[tick].batches == count]
        passed = self.passed_tick
        ticks += [t for t in self._empty if t <= passed and self._ticks[t].left_ns < before_ns]
        return Due(list(self._passed), batches, ticks)

    def dropped(self, due: Due) -> None:
        """What was due is no longer stored."""
        self._passed = self._passed[len(due.payloads) :]
        for number in due.payloads:
            heapq.heappush(self._aging, (self._batches[number].last_left_ns, number))
            self.spans_with_payload -= self._batches[number].spans
        for _ in due.batches:
            _, number = heapq.heappop(self._aging)
            for tick in self._batches.pop(number).ticks:
                self._ticks[tick].batches -= 1
        for tick in due.ticks:
            del self._ticks[tick]
        if due.ticks and self._empty:
            self._empty = [tick for tick in self._empty if tick in self._ticks]

    def _pass(self) -> list[int]:
        passed, up_to = [], self.passed_tick
        while self._whole and self._whole[0][0] <= up_to:
            passed.append(heapq.heappop(self._whole)[1])
        self._passed += passed
        return passed
