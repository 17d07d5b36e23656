"""A `SpanStore` that keeps everything in plain dictionaries: what the real ones are compared with."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from bridge.component import SpanStore, StoredBatch, TickSummary
from bridge.errors import StoreUnavailable
from bridge.spans import Decisions, Departure, LinkedSpans, PayloadBlock, SpanBatch, SpanLinks
from tests.support.stored import exported, first_traces


@dataclass
class Disk:
    """What outlives a store."""

    batches: dict[int, tuple[int, SpanBatch]] = field(default_factory=dict)
    payloads: set[int] = field(default_factory=set)
    """Numbers of the batches that still have their payload."""
    ticks: dict[int, tuple[int, Departure]] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)
    last_batch: int = 0
    last_tick: int = 0


class ModelStore(SpanStore):
    """Follows the contract word by word, without regard to cost."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._open = True
        try:
            yield
        finally:
            self._open = False

    async def append(self, batch: SpanBatch, arrival_ns: int) -> int:
        self._check_open()
        self._disk.last_batch += 1
        self._disk.batches[self._disk.last_batch] = arrival_ns, batch
        self._disk.payloads.add(self._disk.last_batch)
        return self._disk.last_batch

    async def recover(self) -> AsyncIterator[StoredBatch]:
        for number, (arrival_ns, batch) in sorted(self._disk.batches.items()):
            rows, left, decisions = [], [], [Decisions.zeros(0)]
            for _, (left_ns, departure) in sorted(self._disk.ticks.items()):
                positions = np.flatnonzero(departure.batch == number)
                rows += departure.row[positions].tolist()
                left += [left_ns] * positions.size
                decisions.append(departure.decisions.take(positions))
            yield StoredBatch(
                number,
                arrival_ns,
                batch.columns,
                np.array(rows, np.uint32),
                np.array(left, np.int64),
                Decisions.concatenate(decisions),
            )

    async def commit_tick(self, departure: Departure, left_ns: int) -> int:
        self._check_open()
        for number in set(departure.batch.tolist()):
            left = self._left(number).size + int((departure.batch == number).sum())
            if number not in self._disk.batches or left > len(self._disk.batches[number][1]):
                raise ValueError(f"too many rows of batch {number}")
        self._disk.last_tick += 1
        self._disk.ticks[self._disk.last_tick] = left_ns, departure
        return self._disk.last_tick

    async def last_tick(self) -> int:
        return self._disk.last_tick

    async def read_tick(self, number: int) -> LinkedSpans:
        if number not in self._disk.ticks:
            raise LookupError(number)
        return self._linked(number, exported(self._disk.ticks[number][1]))

    async def preview_tick(self, number: int, most: int) -> LinkedSpans:
        if number not in self._disk.ticks:
            raise LookupError(number)
        departure = self._disk.ticks[number][1]
        return self._linked(number, first_traces(departure, most))

    def _linked(self, number: int, positions: Sequence[int]) -> LinkedSpans:
        _, departure = self._disk.ticks[number]
        rows = np.array(positions, np.int64)
        blocks: list[PayloadBlock] = []
        for batch in departure.batch[rows].tolist():
            if batch not in self._disk.payloads:
                raise LookupError(number)
            blocks.append(self._disk.batches[batch][1].payload)
        position = {int(row): i for i, row in enumerate(rows)}
        kept = departure.links.take(np.isin(departure.links.row, rows))
        moved = np.array([position[row] for row in kept.row.tolist()], np.int64)
        links = SpanLinks(row=moved, trace_hi=kept.trace_hi, trace_lo=kept.trace_lo, span_id=kept.span_id)
        block = np.arange(rows.size, dtype=np.uint32)
        decisions = departure.decisions.take(rows)
        clocks = departure.clocks.take(rows)
        return LinkedSpans(number, tuple(blocks), block, departure.row[rows], decisions, links, clocks)

    async def next_tick(self, after: int) -> int | None:
        return min((number for number in self._disk.ticks if number > after), default=None)

    async def summary(self, after: int, up_to: int) -> TickSummary:
        found = [tick for number, tick in self._disk.ticks.items() if after < number <= up_to]
        spans = sum(len(exported(departure)) for _, departure in found)
        return TickSummary(len(found), spans, min((left_ns for left_ns, _ in found), default=None))

    async def tick_before(self, left_ns: int, *, after: int) -> int:
        younger = [number for number, (left, _) in self._disk.ticks.items() if number > after and left >= left_ns]
        limit = min(younger, default=self._disk.last_tick + 1)
        return max((number for number in self._disk.ticks if after < number < limit), default=after)

    async def cursors(self) -> dict[str, int]:
        return dict(self._disk.cursors)

    async def register(self, exporters: Sequence[str]) -> dict[str, int]:
        self._check_open()
        self._disk.cursors = {name: self._disk.cursors.get(name, self._disk.last_tick) for name in exporters}
        return dict(self._disk.cursors)

    async def advance(self, exporter: str, tick: int) -> None:
        self._check_open()
        if exporter not in self._disk.cursors or tick > self._disk.last_tick:
            raise ValueError(exporter)
        self._disk.cursors[exporter] = max(tick, self._disk.cursors[exporter])

    async def forget(self, before_ns: int) -> int:
        self._check_open()
        disk = self._disk
        passed = min(disk.cursors.values(), default=disk.last_tick)
        gone = []
        for number, (_, batch) in disk.batches.items():
            ticks = [tick for tick, (_, departure) in disk.ticks.items() if number in departure.batch]
            if self._left(number).size < len(batch) or max(ticks, default=0) > passed:
                continue
            disk.payloads.discard(number)
            if all(disk.ticks[tick][0] < before_ns for tick in ticks):
                gone.append(number)
        for number in gone:
            del disk.batches[number]
        for tick, (left_ns, departure) in list(disk.ticks.items()):
            mentioned = set(departure.batch.tolist())
            if not mentioned.intersection(disk.batches) and (mentioned or (tick <= passed and left_ns < before_ns)):
                del disk.ticks[tick]
        return len(gone)

    def _left(self, number: int) -> np.ndarray:
        rows = [departure.row[departure.batch == number] for _, departure in self._disk.ticks.values()]
        return np.concatenate([np.zeros(0, np.uint32), *rows])

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("closed")
