"""The store on SQLite: what the parts of this package do together."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import anyio
from anyio import to_thread

from bridge.component import Arrival, SpanStore, StoredBatch, TickSummary
from bridge.errors import ConfigError, StoreDamaged, StoreUnavailable
from bridge.spans import Departure, LinkedSpans
from bridge.store.cache import PayloadCache
from bridge.store.committing import CommittingStore
from bridge.store.database import Database
from bridge.store.dropping import Drop, part_of
from bridge.store.ledger import Ledger
from bridge.store.lock import owned
from bridge.store.numbers import OWN, by_writer, file_of
from bridge.store.operations import Advance, Forget, Operation, Register, Tick
from bridge.store.packing import Damaged
from bridge.store.restart import BatchReader, read_ledger
from bridge.store.salvage import keep_copies, prepare, salvage
from bridge.store.shards import Shards
from bridge.store.space import NO_LIMITS, Limits, Space
from bridge.store.tick_reader import TickReader
from bridge.telemetry import Instruments

logger = logging.getLogger(__name__)

LOST = ("damaged_batch", "damaged_decisions", "damaged_payload")
"""Reasons for which spans are lost."""


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
        limits: Limits = NO_LIMITS,
        instruments: Instruments,
    ) -> None:
        """ingest_processes: how many append to files of their own, through `IngestStore`, while this one is open."""
        database, cache = Database(file_of(path, OWN), synchronous, limits.log_bytes), PayloadCache(payload_cache_bytes)
        space = Space(limits, 1 + ingest_processes, refused=instruments.refuse)
        super().__init__(database, Ledger(), cache, queue_bytes, space, instruments)
        self._folder, self._lock_wait_s = path, lock_wait_s
        self._databases = {OWN: database}
        self._ticks = TickReader(
            self._databases, cache, lambda: self._ledger, lost=self._count_lost, broken=self._declare_broken
        )
        self.shards = Shards(path, ingest_processes, synchronous, limits.log_bytes)
        """What other processes write, or wrote."""
        for reason in LOST:
            # a counter that appears with its first event hides that event from whoever watches for an increase
            instruments.lost_spans.add(0, {"reason": reason})
        self._broken: dict[int, str] = {}
        """Files of which a page could not be read at the start, by writer."""
        self._forgetting = anyio.Lock()
        self.lock_descriptor = -1
        """Of the lock on the folder, for processes that share it."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `SpanStore.running`. Leaving writes what waits.

        A file that is damaged, or turned out to be by when the context is left, is set aside, and what can be read of
        it is taken over into a new one.
        """
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
                await self._save()

    @property
    def damage(self) -> str:
        """Which files turned out damaged, and what SQLite said."""
        return "; ".join(f"{path}: {reason}" for path, reason in self._damages().items())

    def declare_damaged(self, writer: int, reason: str) -> None:
        """The process that writes to this file found it damaged."""
        self.shards.declare_damaged(writer, reason)
        self.damaged.set()

    @asynccontextmanager
    async def examined(self) -> AsyncIterator[None]:
        """Own the store of a bridge that does not run, while the context is open: nothing is made or set aside.

        Raises ConfigError where there is none, where it is owned by a bridge, or cannot be read.
        """
        if not self._database.path.is_file():
            raise ConfigError(f"inputs.ebpftrace.db_path: {self._folder} holds no store")
        async with owned(self._folder, self._lock_wait_s):
            try:
                try:
                    await self._load()
                except Damaged as exc:
                    raise ConfigError(f"inputs.ebpftrace.db_path: {self._database.path} is damaged: {exc}") from exc
                async with self._committing():
                    yield
            finally:
                await self._close()

    async def arrivals(self) -> list[Arrival]:
        """Batches that other processes committed since the start or the last call, as they arrived.

        Not to be cancelled: what was read already would be given to nobody.
        """
        arrivals = await self.shards.arrivals(self._ledger.appended)
        self._note_damage()
        self.space.measured_elsewhere(self.shards.used_bytes)
        return arrivals

    async def recover(self) -> AsyncIterator[StoredBatch]:
        """See `SpanStore.recover`. Raises StoreUnavailable where the file cannot be read at present.

        What waits in a batch that is damaged is given up, its rows being copied into a file beside: it would be met
        again at every start. Raises StoreDamaged where there are pages that SQLite cannot read.
        """
        reader = BatchReader(self._databases, self._ledger)
        async for stored in reader.read():
            yield stored
        self._broken |= reader.broken
        self._note_damage()
        if reader.broken:
            raise StoreDamaged(self.damage)
        await self._give_up(reader.left_out)

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

    async def preview_tick(self, number: int, most: int) -> LinkedSpans:
        """See `SpanStore.preview_tick`. Raises StoreUnavailable where the file cannot be read at present."""
        if not self._ledger.has_tick(number):
            raise LookupError(f"tick {number} is not stored")
        return await self._ticks.preview(number, most)

    async def next_tick(self, after: int) -> int | None:
        """See `SpanStore.next_tick`."""
        return self._ledger.next_tick(after)

    async def summary(self, after: int, up_to: int) -> TickSummary:
        """See `SpanStore.summary`."""
        return self._ledger.summary(after, up_to)

    async def tick_before(self, left_ns: int, *, after: int) -> int:
        """See `SpanStore.tick_before`."""
        return self._ledger.tick_before(left_ns, after)

    async def cursors(self) -> dict[str, int]:
        """See `SpanStore.cursors`."""
        return dict(self._ledger.cursors)

    def bytes_of(self, spans: int) -> int:
        """What so many stored spans take, about: a share of what all do."""
        return self.space.used_bytes * spans // max(1, self._ledger.spans_with_payload)

    def tick_to_pass(self, spare_bytes: int) -> int:
        """The tick all cursors have to pass for about so many bytes to be freed; 0 where none would be."""
        return self._ledger.tick_to_pass(spare_bytes * self._ledger.spans_with_payload // max(1, self.space.used_bytes))

    def oldest_undelivered_ns(self) -> dict[str, int]:
        """When the tick behind each cursor left; exporters that have none are left out."""
        return self._ledger.oldest_undelivered_ns()

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
        async with self._forgetting:  # what is due stays so until it is gone from every file
            return 0 if self.shards.stopping else await self._forget_everywhere(before_ns)

    async def _forget_everywhere(self, before_ns: int) -> int:
        due = self._ledger.due(before_ns)
        try:
            await self.shards.drop(due)
        finally:
            self._note_damage()
        await self._commit(Drop(part_of(due, OWN, due.ticks), due))
        await self.shards.remove_empty(self._databases)
        self._note_damage()
        await self.shards.measure()
        self.space.measured_elsewhere(self.shards.used_bytes)
        return len(due.batches)

    async def _give_up(self, numbers: list[int]) -> None:
        for writer, of_one in by_writer(numbers):
            await to_thread.run_sync(keep_copies, self._databases[writer].path, of_one)
        for number in numbers:
            lost, passed = self._ledger.given_up(number)
            self._count_lost(lost, "damaged_batch")
            for other in passed:
                self._cache.drop(other)

    def _count_lost(self, spans: int, reason: str) -> None:
        if spans:
            self._instruments.lost_spans.add(spans, {"reason": reason})

    def _declare_broken(self, reason: str) -> None:
        self._broken[OWN] = reason
        self._note_damage()

    def _damages(self) -> dict[Path, str]:
        found = self._broken | self.shards.damage
        if self._database.damage:
            found |= {OWN: self._database.damage}
        return {file_of(self._folder, writer): reason for writer, reason in found.items()}

    def _note_damage(self) -> None:
        if self._damages():
            self.damaged.set()

    async def _save(self) -> None:
        """Take over what can be read of files that turned out damaged. Nobody has them open. Not to be cancelled."""
        with anyio.CancelScope(shield=True):
            for path, reason in self._damages().items():
                await to_thread.run_sync(salvage, path, reason)

    async def _open(self) -> None:
        await to_thread.run_sync(prepare, self._database.path)
        try:
            await self._load()
        except Damaged as exc:
            await self._close()
            await to_thread.run_sync(salvage, self._database.path, str(exc))
            await self._load()

    async def _load(self) -> None:
        await self._database.open()
        try:
            sizes = await self.shards.open(self._databases)
            self._ledger, last = await read_ledger(self._database, sizes)
        except StoreUnavailable as exc:
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot read {exc}") from exc
        self.shards.start_after(last)
        await self.shards.measure()
        self.space.measured_elsewhere(self.shards.used_bytes)

    async def _close(self) -> None:
        await self.shards.close()
        for database in self._databases.values():
            await database.close()

    async def _perform(self, operation: Operation) -> None:
        await super()._perform(operation)
        self._ticks.passed(self._ledger.passed_tick)
