"""A store whose batches are taken in by ingest stores with files of their own, all in this process."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from bridge.component import Arrival
from bridge.errors import StoreUnavailable
from bridge.spans import SpanBatch
from bridge.store import IngestStore, SqliteStore
from bridge.store.ledger import Due
from bridge.telemetry import Instruments


def ingest_store(folder: Path, writer: int, after: int = 0) -> IngestStore:
    """The store of an ingest process."""
    return IngestStore(folder, writer, after=after, synchronous="full", queue_bytes=64 << 20, instruments=Instruments())


class ShardedStore(SqliteStore):
    """Appends to its ingest stores in turn, and hears of each batch before `append` returns."""

    def __init__(self, folder: Path, writers: int) -> None:
        super().__init__(folder, ingest_processes=writers, lock_wait_s=0, instruments=Instruments())
        self._path, self._writers = folder, writers
        self._turns = itertools.cycle(range(1, writers + 1))
        self._hearing = anyio.Lock()
        self.ingest: dict[int, IngestStore] = {}
        self.heard: list[Arrival] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with super().running(), AsyncExitStack() as stack:
            for writer in range(1, self._writers + 1):
                store = self.ingest[writer] = ingest_store(self._path, writer, self.shards.seen(writer))
                await stack.enter_async_context(store.running())
            self.shards.drop_in_worker = self.drop
            yield

    async def drop(self, writer: int, due: Due) -> None:
        await self.ingest[writer].drop(due.payloads, due.batches)

    async def append(self, batch: SpanBatch, arrival_ns: int) -> int:
        if not self.ingest:
            raise StoreUnavailable("the store is not open")
        number = await self.ingest[next(self._turns)].append(batch, arrival_ns)
        with anyio.CancelScope(shield=True):
            async with self._hearing:
                self.heard += await self.arrivals()
        return number
