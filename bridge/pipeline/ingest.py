"""Takes batches over from receivers: commits them, then hands their columns to the linker's next tick."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from bridge.component import Arrival, BatchStore
from bridge.errors import BridgeError, StoreUnavailable, Throttled
from bridge.pipeline.clock import Clock
from bridge.spans import Kind, SpanBatch

RETRY_AFTER_S = 1.0
SMALL_SPANS, SMALL_BYTES = 1024, 1 << 20
"""What a row of its own costs in the store and after it is more than what putting such a request beside others does."""
GATHERED_SPANS, GATHERED_BYTES = 4096, 4 << 20
ORDINARY_ROOM = 1.25
"""Ordinary spans leave at the next tick, and so may go beyond the bound by a quarter: eSpans that wait for their window
do not hold them up."""
MAX_WRITING = 8192
"""Batches that may wait for their commit. One of a single span takes 11 KB with what waits for it, some 20 times its
bytes, and it stays when its sender gives up: where the store hangs, more would come as often as senders try again."""
FADING = 0.999
SPAN_BYTES = 600.0
"""What a span's payload is taken for before any came."""


class Room(Protocol):
    """How many spans may wait."""

    @property
    def max_waiting_spans(self) -> int: ...
    def refusal(self, why: str) -> Throttled:
        """What a sender is told whose spans are too many."""
        ...


@dataclass(frozen=True, slots=True)
class FixedRoom:
    """As many as `linker.max_waiting_spans` says."""

    max_waiting_spans: int

    def refusal(self, why: str) -> Throttled:
        """See `Room.refusal`."""
        return Throttled(f"{why} (linker.max_waiting_spans = {self.max_waiting_spans})", retry_after_s=RETRY_AFTER_S)


class Arrivals(Protocol):
    """Where the linker gets committed batches from."""

    waiting_in_linker: int
    """Spans the linker holds; the drain keeps it current."""

    @property
    def span_bytes(self) -> float:
        """Payload of a span, the most that it was on average in any batch of late."""
        ...

    @property
    def waiting(self) -> int:
        """Spans that were taken and have not left, as far as this process knows."""
        ...

    async def collect(self) -> None:
        """Fetch what is to be fetched before `take`. Cancelling it loses nothing."""
        ...

    def take(self) -> list[Arrival]:
        """All batches committed since the last call, in the order they are to be linked in."""
        ...


@dataclass(slots=True)
class _Write:
    batches: list[SpanBatch] = field(default_factory=list)
    spans: int = 0
    data_bytes: int = 0
    done: anyio.Event = field(default_factory=anyio.Event)
    # failed until the commit returned: a cancelled write must not look like a success
    error: BridgeError | None = field(
        default_factory=lambda: StoreUnavailable("the write was abandoned", retry_after_s=RETRY_AFTER_S)
    )

    def fits(self, batch: SpanBatch) -> bool:
        """Whether this batch may be stored in one row with those that are here."""
        return (
            self.batches[0].payload.format == batch.payload.format
            and self.spans + len(batch) <= GATHERED_SPANS
            and self.data_bytes + batch.payload.data_bytes <= GATHERED_BYTES
        )

    def add(self, batch: SpanBatch) -> None:
        self.batches.append(batch)
        self.spans += len(batch)
        self.data_bytes += batch.payload.data_bytes


class Ingest:
    """The `SpanConsumer` of every receiver.

    The write belongs to a task of the ingest, not to the caller: a handler that is cancelled in the middle (grpc does
    so natively when a client's deadline passes) leaves a batch that is committed *and* handed to the linker.

    Small requests that come while others are being committed are put together into one batch. Nobody is made to wait
    for company, and what is large goes its own way.
    """

    def __init__(self, store: BatchStore, clock: Clock, *, room: Room) -> None:
        self._store, self._clock, self._room = store, clock, room
        self._group: TaskGroup | None = None
        self._arrivals: list[Arrival] = []
        self._pending = self._writing = 0
        self._gathered: _Write | None = None
        """What waits for small requests that are being committed, and may still be added to."""
        self._small = anyio.Lock()
        self.waiting_in_linker = 0
        """Spans the linker holds; the drain keeps it current."""
        self.span_bytes = SPAN_BYTES
        """See `Arrivals`."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take batches while the context is open; leaving it waits for the writes under way."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None

    async def consume(self, batch: SpanBatch) -> None:
        """See `SpanConsumer.consume`."""
        if not len(batch):
            return
        if self._group is None:
            raise StoreUnavailable("the bridge is stopping", retry_after_s=RETRY_AFTER_S)
        self._check_room(batch)
        self._pending += len(batch)
        self._writing += 1
        write = self._write_for(batch, self._group)
        write.add(batch)
        await write.done.wait()
        if write.error is not None:
            # several senders may wait for one write: each gets an error of its own
            raise copy(write.error) from write.error

    def _check_room(self, batch: SpanBatch) -> None:
        """Raise Throttled where too many spans, or batches, wait already."""
        if self._writing >= MAX_WRITING:
            text = f"{self._writing} requests are waiting for their commit already"
            raise Throttled(text, retry_after_s=RETRY_AFTER_S)
        waiting, most = self.waiting, self._room.max_waiting_spans
        # what is alone is taken whatever its size: it would never fit, however often it were tried
        if not waiting or waiting + len(batch) <= most:
            return
        if waiting + len(batch) <= ORDINARY_ROOM * most and not (batch.columns.kind != Kind.ORDINARY).any():
            return
        raise self._room.refusal(f"{waiting} spans are waiting already")

    def _write_for(self, batch: SpanBatch, group: TaskGroup) -> _Write:
        """The write this batch is to be part of."""
        small = len(batch) <= SMALL_SPANS and batch.payload.data_bytes <= SMALL_BYTES
        if small and self._gathered is not None and self._gathered.fits(batch):
            return self._gathered
        write = _Write()
        if small and self._gathered is None:
            self._gathered = write
            group.start_soon(self._commit_gathered, write)
        else:  # the store bounds what waits
            group.start_soon(self._commit, write)
        return write

    @property
    def waiting(self) -> int:
        """Spans that were taken and have not left, those being committed included."""
        return self._pending + self.waiting_in_linker

    async def collect(self) -> None:
        """Nothing: batches are here once they are committed."""

    def take(self) -> list[Arrival]:
        """All batches committed since the last call, in order of number."""
        taken, self._arrivals = self._arrivals, []
        self._pending -= sum(len(a.columns) for a in taken)
        self.waiting_in_linker += sum(len(a.columns) for a in taken)
        return sorted(taken, key=lambda a: a.number)

    async def _commit_gathered(self, write: _Write) -> None:
        try:
            async with self._small:
                self._gathered = None
                await self._commit(write)
        finally:  # also where it was not begun
            write.done.set()

    async def _commit(self, write: _Write) -> None:
        try:
            batch = SpanBatch.concatenate(write.batches)
            arrival_ns = self._clock.now_ns()
            number = await self._store.append(batch, arrival_ns)
            self._arrivals.append(Arrival(number, arrival_ns, batch.columns))
            self.span_bytes = max(FADING * self.span_bytes, write.data_bytes / write.spans)
            write.error = None
        except BridgeError as exc:
            write.error = exc
        finally:
            if write.error is not None:
                self._pending -= write.spans
            self._writing -= len(write.batches)
            write.done.set()
