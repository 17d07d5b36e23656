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
from bridge.store.space import NO_LIMITS, Limits
from bridge.telemetry import Instruments


def ingest_store(
    folder: Path, writer: int, after: int = 0, *, limits: Limits = NO_LIMITS, files: int = 1
) -> IngestStore:
    """The store of an ingest process."""
    return IngestStore(
        folder,
        writer,
        after=after,
        synchronous="full",
        queue_bytes=64 << 20,
        limits=limits,
        files=files,
        instruments=Instruments(),
    )


class ShardedStore(SqliteStore):
    """Appends to its ingest stores in turn, and hears of each batch before `append` returns."""

    def __init__(self, folder: Path, writers: int, *, limits: Limits = NO_LIMITS) -> None:
        super().__init__(folder, ingest_processes=writers, lock_wait_s=0, limits=limits, instruments=Instruments())
        self._path, self._writers = folder, writers
        self._turns = itertools.cycle(range(1, writers + 1))
        self._hearing = anyio.Lock()
        self.ingest: dict[int, IngestStore] = {}
        self.heard: list[Arrival] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with super().running(), AsyncExitStack() as stack:
            for writer in range(1, self._writers + 1):
                store = self.ingest[writer] = ingest_store(
                    self._path, writer, self.shards.seen(writer), limits=self.space.limits, files=1 + self._writers
                )
                await stack.enter_async_context(store.running())
            self.shards.drop_in_worker = self.drop
            yield

    def tell_others(self) -> None:
        """Tell each ingest store what all files but its own use, as the bridge's process does now and then."""
        for writer, store in self.ingest.items():
            store.space.measured_elsewhere(self.space.used_bytes - self.shards.space_of(writer).used_bytes)

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
