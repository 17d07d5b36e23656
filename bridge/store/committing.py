"""What every process that writes to a database of its own has in common: appending, and one task that commits."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio
from anyio import to_thread

from bridge.component import BatchStore
from bridge.errors import StoreUnavailable
from bridge.spans import SpanBatch
from bridge.store.cache import PayloadCache, block_bytes
from bridge.store.database import Database, space_in, with_log
from bridge.store.ledger import Ledger
from bridge.store.operations import Append, Operation, Probe
from bridge.store.room import Room
from bridge.store.shrinking import Shrinking
from bridge.store.space import FileSpace, Space
from bridge.store.writer import Writer
from bridge.telemetry import Instruments

logger = logging.getLogger(__name__)

PROBE_S = 1.0
"""How often is tried whether commits work again."""

Op = TypeVar("Op", bound=Operation)


class CommittingStore(BatchStore):
    """Commits operations on one database, in order, and notes in the ledger what was committed."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        cache: PayloadCache,
        queue_bytes: int,
        space: Space,
        instruments: Instruments,
    ) -> None:
        self._database, self._ledger, self._cache, self._instruments = database, ledger, cache, instruments
        instruments.refused_batches.add(0, {"reason": "quota"})
        self.space = space
        """What the store takes, and whether there is room for more."""
        self._writing = anyio.CapacityLimiter(1)  # of its own: a commit never waits for other work in threads
        self._writer: Writer[Operation] = Writer(self._perform, queue_bytes)
        self._shrinking = Shrinking(database, space, self._writing)
        self._room = Room(database.path.parent, space.limits.min_free_bytes)
        self._failure = self._lacking = ""
        """Why the last commit failed; why none of spans is tried."""
        self._failed = anyio.Event()
        self.damaged = anyio.Event()
        """Set when a file turned out not to be what was written: nothing more can be committed to it."""

    @property
    def damage(self) -> str:
        """What is wrong with the file if it turned out damaged."""
        return f"{self._database.path}: {self._database.damage}" if self._database.damage else ""

    @property
    def unavailable(self) -> str:
        """Why spans cannot be committed at present, "" when they can."""
        return self._failure or self._lacking

    async def append(self, batch: SpanBatch, arrival_ns: int) -> int:
        """See `BatchStore.append`. What arrives while a commit is under way goes into the next one together."""
        cost = block_bytes(batch.payload)
        self._writer.admit(cost)
        self.space.admit(self._writer.waiting_bytes)
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
        self.space.measured(await to_thread.run_sync(self._database.space, limiter=self._writing))
        self._shrinking.noted()
        async with anyio.create_task_group() as tasks:
            self._writer.open = True
            tasks.start_soon(self._writer.run)
            beside = anyio.CancelScope()
            tasks.start_soon(self._watch_over, beside)
            try:
                yield
            finally:
                self._writer.close()
                beside.cancel()

    async def _watch_over(self, scope: anyio.CancelScope) -> None:
        with scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_probing)
                tasks.start_soon(self._shrinking.run)

    async def _commit(self, operation: Op) -> Op:
        await self._writer.submit(operation).committed()
        return operation

    async def _keep_probing(self) -> None:
        """While commits fail, try one now and then: there may be nobody else who does."""
        while True:
            await self._failed.wait()
            await anyio.sleep(PROBE_S)
            if self._writer.newest is None:
                with suppress(StoreUnavailable):
                    await self._commit(Probe())

    async def _perform(self, operation: Operation) -> None:
        """One transaction. The ledger hears of it once it is committed, and never of one that failed."""
        before = self.unavailable
        try:
            self.space.measured(await to_thread.run_sync(self._write, operation, limiter=self._writing))
        except StoreUnavailable as exc:
            if not self._lacking:
                self._failure = str(exc)
            self._tell_change(before)
            raise
        self._failure = ""
        self._tell_change(before)
        for number in operation.note(self._ledger):
            self._cache.drop(number)
        self._shrinking.noted()

    def _write(self, operation: Operation) -> FileSpace:
        if self._database.damage:  # what some write still could would not be there after the next start
            raise StoreUnavailable(self.damage)
        if isinstance(operation, Probe):
            self._database.checkpoint()
        if isinstance(operation, Append | Probe):
            self._lacking = self._room.lacking(self._database.unused_bytes)
            if self._lacking:
                raise StoreUnavailable(self._lacking)
        operation.prepare(self._ledger)
        started = time.perf_counter()
        with self._database.transaction() as driver:
            operation.execute(driver)
            space = space_in(driver, self.space.own.page_bytes)
        self._instruments.commit_duration.record(time.perf_counter() - started)
        return with_log(space, self._database.log_path)

    def _tell_change(self, before: str) -> None:
        """Log once that commits fail, and once that they work again."""
        now = self.unavailable
        if now and not before:
            logger.error("nothing can be committed; senders are told to try again", extra={"reason": now})
            self._failed.set()
        elif before and not now:
            logger.warning("commits work again")
            self._failed = anyio.Event()
        if self._database.damage and not self.damaged.is_set():
            self.damaged.set()
