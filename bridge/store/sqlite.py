"""The store on SQLite: what the parts of this package do together."""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, TypeVar

import anyio
from anyio import to_thread

from bridge.component import SpanStore, StoredBatch
from bridge.errors import ConfigError, StoreUnavailable
from bridge.spans import Departure, LinkedSpans, SpanBatch
from bridge.store.cache import PayloadCache, block_bytes
from bridge.store.database import Database, set_aside
from bridge.store.ledger import Ledger
from bridge.store.lock import owned
from bridge.store.operations import Advance, Append, Forget, Operation, Register, Tick
from bridge.store.packing import Damaged
from bridge.store.restart import BatchReader, read_ledger
from bridge.store.tick_reader import TickReader
from bridge.store.writer import Writer
from bridge.telemetry import Instruments

logger = logging.getLogger(__name__)

Op = TypeVar("Op", bound=Operation)

DATABASE_FILE = "espan.db"


class SqliteStore(SpanStore):
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
        payload_cache_bytes: int = 16 << 20,
        lock_wait_s: float = 10,
        instruments: Instruments,
    ) -> None:
        self._folder, self._lock_wait_s, self._instruments = path, lock_wait_s, instruments
        self._ledger = Ledger()
        self._cache = PayloadCache(payload_cache_bytes)
        self._database = Database(path / DATABASE_FILE, synchronous)
        self._ticks = TickReader(self._database, self._cache)
        self._writing = anyio.CapacityLimiter(1)  # of its own: a commit never waits for other work in threads
        self._writer: Writer[Operation] = Writer(self._perform, queue_bytes)
        self.unavailable = ""
        """Why the last commit failed, "" when it did not."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `SpanStore.running`. A damaged file is set aside and a new one begun. Leaving writes what waits."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot make {self._folder}: {exc.strerror}") from exc
        async with owned(self._folder, self._lock_wait_s):
            try:
                await self._open()
                async with anyio.create_task_group() as tasks:
                    self._writer.open = True
                    tasks.start_soon(self._writer.run)
                    try:
                        yield
                    finally:
                        self._writer.close()
            finally:
                await self._database.close()

    async def append(self, batch: SpanBatch, arrival_ns: int) -> int:
        """See `SpanStore.append`. What arrives while a commit is under way goes into the next one together."""
        cost = block_bytes(batch.payload)
        self._writer.admit(cost)
        pending = self._writer.newest
        if pending is not None and isinstance(pending.operation, Append):
            append = pending.operation
        else:
            append = Append(self._cache)
            pending = self._writer.submit(append)
        self._writer.add_cost(pending, cost)
        position = append.add(batch, arrival_ns)
        await pending.committed()
        return append.first + position

    async def recover(self) -> AsyncIterator[StoredBatch]:
        """See `SpanStore.recover`. Raises StoreUnavailable where the file cannot be read at present."""
        async for stored in BatchReader(self._database, self._ledger).read():
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
        """See `SpanStore.forget`."""
        return len((await self._commit(Forget(before_ns))).due.batches)

    async def _open(self) -> None:
        try:
            await self._load()
        except Damaged as exc:
            await self._database.close()
            await to_thread.run_sync(set_aside, self._database.path, str(exc))
            await self._load()

    async def _load(self) -> None:
        await self._database.open()
        try:
            self._ledger = await read_ledger(self._database)
        except StoreUnavailable as exc:
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot read {exc}") from exc

    async def _commit(self, operation: Op) -> Op:
        await self._writer.submit(operation).committed()
        return operation

    async def _perform(self, operation: Operation) -> None:
        """One transaction. The ledger hears of it once it is committed, and never of one that failed."""
        try:
            await to_thread.run_sync(self._write, operation, limiter=self._writing)
        except StoreUnavailable as exc:
            if not self.unavailable:
                logger.error("nothing can be committed; senders are told to try again", extra={"reason": str(exc)})  # noqa: TRY400 -- an expected state, not a bug: no traceback
            self.unavailable = str(exc)
            raise
        if self.unavailable:
            logger.warning("commits work again")
            self.unavailable = ""
        for number in operation.note(self._ledger):
            self._cache.drop(number)
        self._ticks.passed(self._ledger.passed_tick)

    def _write(self, operation: Operation) -> None:
        operation.prepare(self._ledger)
        started = time.perf_counter()
        with self._database.transaction() as connection:
            operation.execute(connection)
        self._instruments.commit_duration.record(time.perf_counter() - started)
