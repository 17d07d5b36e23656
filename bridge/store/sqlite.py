"""The store on SQLite: what the parts of this package do together."""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, TypeVar

import anyio
from anyio import to_thread
from sqlalchemy import select

from bridge.component import SpanStore, StoredBatch
from bridge.errors import ConfigError
from bridge.spans import Departure, LinkedSpans, SpanBatch
from bridge.store import tables
from bridge.store.cache import PayloadCache, block_bytes
from bridge.store.database import Database, set_aside
from bridge.store.ledger import Ledger
from bridge.store.lock import owned
from bridge.store.operations import Advance, Append, Forget, Operation, Register, Tick
from bridge.store.packing import Damaged
from bridge.store.recovery import Recovery
from bridge.store.tick_reader import TickReader
from bridge.store.writer import Pending, Writer
from bridge.telemetry import Instruments

logger = logging.getLogger(__name__)

Op = TypeVar("Op", bound=Operation)

DATABASE_FILE = "espan.db"
BATCHES_AT_ONCE = 32
"""Batches that are read at once in recovery: some megabytes."""


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
        payload_cache_bytes: int = 64 << 20,
        lock_wait_s: float = 10,
        instruments: Instruments,
    ) -> None:
        self._folder, self._lock_wait_s, self._instruments = path, lock_wait_s, instruments
        self._ledger = Ledger()
        self._cache = PayloadCache(payload_cache_bytes)
        self._database = Database(path / DATABASE_FILE, synchronous)
        self._ticks = TickReader(self._database, self._cache)
        self._writer: Writer[Operation] = Writer(self._perform, queue_bytes)

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
        """See `SpanStore.append`. Raises Throttled while too much waits for its commit."""
        cost = block_bytes(batch.payload)
        self._writer.admit(cost)
        pending = self._writer.newest
        if pending is None or not isinstance(pending.operation, Append):
            pending = self._writer.submit(Append(self._cache))
        append = pending.operation
        assert isinstance(append, Append)
        self._writer.add_cost(pending, cost)
        position = append.add(batch, arrival_ns)
        await pending.committed()
        return append.first + position
