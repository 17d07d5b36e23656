"""The store on SQLite: what the parts of this package do together."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from anyio import to_thread

from bridge.component import Arrival, SpanStore, StoredBatch
from bridge.errors import ConfigError, StoreUnavailable
from bridge.spans import Departure, LinkedSpans
from bridge.store.cache import PayloadCache
from bridge.store.committing import CommittingStore
from bridge.store.database import Database, set_aside
from bridge.store.dropping import Drop, part_of
from bridge.store.ledger import Ledger
from bridge.store.lock import owned
from bridge.store.numbers import OWN, file_of
from bridge.store.operations import Advance, Forget, Operation, Register, Tick
from bridge.store.packing import Damaged
from bridge.store.restart import BatchReader, read_ledger
from bridge.store.shards import Shards
from bridge.store.tick_reader import TickReader
from bridge.telemetry import Instruments

logger = logging.getLogger(__name__)


class SqliteStore(CommittingStore, SpanStore):
    """A `SpanStore` in the folder `path`, which is made where it is missing.

    `queue_bytes` bounds the batches that wait for their commit; beyond it `append` raises Throttled. Payload that is
    soon to be read is kept in memory, `payload_cache_bytes` at most. With `synchronous` "normal" what was acknowledged
    last may be lost when the machine (not the process) dies.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Literal["full", "normal"] = "full",
        queue_bytes: int = 64 << 20,
        payload_cache_bytes: int = 4 << 20,
        lock_wait_s: float = 10,
        ingest_processes: int = 0,
        instruments: Instruments,
    ) -> None:
        """ingest_processes: how many append to files of their own, through `IngestStore`, while this one is open."""
        database, cache = Database(file_of(path, OWN), synchronous), PayloadCache(payload_cache_bytes)
        super().__init__(database, Ledger(), cache, queue_bytes, instruments)
        self._folder, self._lock_wait_s = path, lock_wait_s
        self._databases = {OWN: database}
        self._ticks = TickReader(self._databases, cache, lambda number: self._ledger.has_batch(number))
        self.shards = Shards(path, ingest_processes, synchronous)
        """What other processes write, or wrote."""
        self.lock_descriptor = -1
        """Of the lock on the folder, for processes that share it."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `SpanStore.running`. A damaged file is set aside and a new one begun. Leaving writes what waits."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot make {self._folder}: {exc.strerror}") from exc
        async with owned(self._folder, self._lock_wait_s) as self.lock_descriptor:
            try:
                await self._open()
                async with self._committing():
                    yield
            finally:
                await self._close()

    async def arrivals(self) -> list[Arrival]:
        """Batches that other processes committed since the start or the last call, as they arrived.

        Not to be cancelled: what was read already would be given to nobody.
        """
        return await self.shards.arrivals(self._ledger.appended)

    async def recover(self) -> AsyncIterator[StoredBatch]:
        """See `SpanStore.recover`. Raises StoreUnavailable where the file cannot be read at present."""
        async for stored in BatchReader(self._databases, self._ledger).read():
            yield stored

    async def commit_tick(self, departure: Departure, left_ns: int) -> int:
        """See `SpanStore.commit_tick`."""
        return (await self._commit(Tick(departure, left_ns))).number

    async def last_tick(self) -> int:
        """See `SpanStore.last_tick`."""
        return self._ledger.last_tick

    async def read_tick(self, number: int) -> LinkedSpans:
        """See `SpanStore.read_tick`. Raises StoreUnavailable where the file cannot be read at present."""
        if not self._ledger.has_tick(number):
            raise LookupError(f"tick {number} is not stored")
        return await self._ticks.read(number, share=len(self._ledger.cursors) > 1)

    async def next_tick(self, after: int) -> int | None:
        """See `SpanStore.next_tick`."""
        return self._ledger.next_tick(after)

    async def register(self, exporters: Sequence[str]) -> dict[str, int]:
        """See `SpanStore.register`. What exporters that are gone had not delivered is counted as failed, and logged."""
        registered = await self._commit(Register(tuple(exporters)))
        for name, spans in registered.given_up.items():
            self._instruments.failed_spans.add(spans, {"exporter": name, "reason": "exporter_removed"})
            logger.error(
                "an exporter is gone from the settings; what it had not delivered is given up",
                extra={"exporter": name, "spans": spans},
            )
        return dict(registered.cursors)

    async def advance(self, exporter: str, tick: int) -> None:
        """See `SpanStore.advance`."""
        await self._commit(Advance(exporter, tick))

    async def forget(self, before_ns: int) -> int:
        """See `SpanStore.forget`. What lies in other files goes first: decisions on it may only go after it."""
        if not self.shards:
            return len((await self._commit(Forget(before_ns))).due.batches)
        if self.shards.stopping:
            return 0
        due = self._ledger.due(before_ns)
        await self.shards.drop(due)
        await self._commit(Drop(part_of(due, OWN, due.ticks), due))
        await self.shards.remove_empty(self._databases)
        return len(due.batches)

    async def _open(self) -> None:
        try:
            await self._load()
        except Damaged as exc:
            await self._close()
            await to_thread.run_sync(set_aside, self._database.path, str(exc))
            await to_thread.run_sync(self.shards.set_aside, f"{self._database.path.name}: {exc}")
            await self._load()

    async def _load(self) -> None:
        await self._database.open()
        try:
            sizes = await self.shards.open(self._databases)
            self._ledger, last = await read_ledger(self._database, sizes)
        except StoreUnavailable as exc:
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot read {exc}") from exc
        self.shards.start_after(last)

    async def _close(self) -> None:
        await self.shards.close()
        for database in self._databases.values():
            await database.close()

    async def _perform(self, operation: Operation) -> None:
        await super()._perform(operation)
        self._ticks.passed(self._ledger.passed_tick)
