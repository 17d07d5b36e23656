"""Takes batches over from receivers: commits them, then hands their columns to the linker's next tick."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from bridge.component import SpanStore
from bridge.errors import BridgeError, StoreUnavailable, Throttled
from bridge.pipeline.clock import Clock
from bridge.spans import SpanBatch, SpanColumns

RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A committed batch on its way to the linker."""

    number: int
    arrival_ns: int
    columns: SpanColumns


@dataclass(slots=True)
class _Write:
    batch: SpanBatch
    done: anyio.Event = field(default_factory=anyio.Event)
    error: BridgeError | None = None


class Ingest:
    """The `SpanConsumer` of every receiver.

    The write belongs to a task of the ingest, not to the caller: a handler that is cancelled in the middle (grpc does
    so natively when a client's deadline passes) leaves a batch that is committed *and* handed to the linker.
    """

    def __init__(self, store: SpanStore, clock: Clock, *, max_waiting_spans: int) -> None:
        self._store, self._clock, self._max_waiting = store, clock, max_waiting_spans
        self._group: TaskGroup | None = None
        self._arrivals: list[Arrival] = []
        self._pending = 0
        self.waiting_in_linker = 0
        """Spans the linker holds; the drain keeps it current."""

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
        # what is alone is taken whatever its size: it would never fit, however often it were tried
        if self.waiting and self.waiting + len(batch) > self._max_waiting:
            raise Throttled(
                f"{self.waiting} spans are waiting already (linker.max_waiting_spans = {self._max_waiting})",
                retry_after_s=RETRY_AFTER_S,
            )
        write = _Write(batch)
        self._pending += len(batch)
        self._group.start_soon(self._commit, write)
        await write.done.wait()
        if write.error is not None:
            raise write.error

    @property
    def waiting(self) -> int:
        """Spans that were taken and have not left, those being committed included."""
        return self._pending + self.waiting_in_linker

    def take(self) -> list[Arrival]:
        """All batches committed since the last call, in order of number."""
        taken, self._arrivals = self._arrivals, []
        self._pending -= sum(len(a.columns) for a in taken)
        self.waiting_in_linker += sum(len(a.columns) for a in taken)
        return sorted(taken, key=lambda a: a.number)

    async def _commit(self, write: _Write) -> None:
        # failed until the commit returned: a cancelled write must not look like a success
        write.error = StoreUnavailable("the write was abandoned", retry_after_s=RETRY_AFTER_S)
        try:
            arrival_ns = self._clock.now_ns()
            number = await self._store.append(write.batch, arrival_ns)
            self._arrivals.append(Arrival(number, arrival_ns, write.batch.columns))
            write.error = None
        except BridgeError as exc:
            write.error = exc
        finally:
            if write.error is not None:
                self._pending -= len(write.batch)
            write.done.set()
