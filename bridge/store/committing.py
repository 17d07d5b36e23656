"""What every process that writes to a database of its own has in common: appending, and one task that commits."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from anyio import to_thread

from bridge.component import BatchStore
from bridge.errors import StoreUnavailable
from bridge.spans import SpanBatch
from bridge.store.cache import PayloadCache, block_bytes
from bridge.store.database import Database
from bridge.store.ledger import Ledger
from bridge.store.operations import Append, Operation
from bridge.store.writer import Writer
from bridge.telemetry import Instruments

logger = logging.getLogger(__name__)

Op = TypeVar("Op", bound=Operation)


class CommittingStore(BatchStore):
    """Commits operations on one database, in order, and notes in the ledger what was committed."""

    def __init__(
        self, database: Database, ledger: Ledger, cache: PayloadCache, queue_bytes: int, instruments: Instruments
    ) -> None:
        self._database, self._ledger, self._cache, self._instruments = database, ledger, cache, instruments
        self._writing = anyio.CapacityLimiter(1)  # of its own: a commit never waits for other work in threads
        self._writer: Writer[Operation] = Writer(self._perform, queue_bytes)
        self.unavailable = ""
        """Why the last commit failed, "" when it did not."""

    async def append(self, batch: SpanBatch, arrival_ns: int) -> int:
        """See `BatchStore.append`. What arrives while a commit is under way goes into the next one together."""
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

    @asynccontextmanager
    async def _committing(self) -> AsyncIterator[None]:
        """Commit while the context is open. Leaving it writes what waits."""
        async with anyio.create_task_group() as tasks:
            self._writer.open = True
            tasks.start_soon(self._writer.run)
            try:
                yield
            finally:
                self._writer.close()

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

    def _write(self, operation: Operation) -> None:
        operation.prepare(self._ledger)
        started = time.perf_counter()
        with self._database.transaction() as connection:
            operation.execute(connection)
        self._instruments.commit_duration.record(time.perf_counter() - started)
