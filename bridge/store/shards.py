"""The files of ingest processes as the bridge's own process sees them: it reads all, and writes to none that is in use.

Batches are read from the files that running processes write to, in the order in which they were committed. What is to
go from such a file its process is told; a file whose process is no more is emptied here, and then removed.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Literal, TypeAlias

import anyio
from anyio import to_thread
from sqlalchemy import func, select

from bridge.component import Arrival
from bridge.errors import StoreUnavailable
from bridge.store import tables
from bridge.store.database import Database
from bridge.store.dropping import Drop, part_of
from bridge.store.ledger import Due
from bridge.store.numbers import file_of, writer_of, writers_in
from bridge.store.packing import Damaged
from bridge.store.restart import Sizes, read_sizes
from bridge.store.salvage import prepare, salvage
from bridge.store.shard_reader import ShardReader
from bridge.store.space import NOTHING, FileSpace

logger = logging.getLogger(__name__)

DropInWorker: TypeAlias = Callable[[int, Due], Awaitable[None]]
"""Has the process of this number drop payloads and batches from its file; raises StoreUnavailable where it cannot."""

_KEPT = select(func.count()).select_from(tables.batches)


@dataclass(slots=True)
class _Shard:
    """One file."""

    writer: int
    database: Database
    live: bool
    """Whether a process writes to it."""
    seen: int
    """Number of the newest batch that was read."""
    reader: ShardReader
    unreadable: str = ""
    damage: str = ""
    space: FileSpace = NOTHING


class Shards:
    """Files beside the bridge's own; `running` says how many processes write, numbered from 1 on."""

    def __init__(self, folder: Path, running: int, synchronous: Literal["full", "normal"], log_bytes: int) -> None:
        self._folder, self._running, self._synchronous, self._log_bytes = folder, running, synchronous, log_bytes
        self._shards: dict[int, _Shard] = {}
        self._reading = anyio.CapacityLimiter(1)  # of its own: it never waits for other work in threads
        self.drop_in_worker: DropInWorker = _nobody
        self.stopping = False
        """Whether the processes are ending: nothing is dropped any more, the next start does."""

    def __len__(self) -> int:
        return len(self._shards)

    async def open(self, databases: dict[int, Database]) -> dict[int, Sizes]:
        """Open every file there is, and make those that processes will write to; each is put into `databases`.

        A damaged file is set aside, and what can be read of it taken over. Raises ConfigError, StoreUnavailable.
        """
        sizes, self._shards = {}, {}
        for writer in sorted({*range(1, self._running + 1), *writers_in(self._folder)}):
            database = databases[writer] = Database(file_of(self._folder, writer), self._synchronous, self._log_bytes)
            await to_thread.run_sync(prepare, database.path)
            try:
                sizes[writer] = await _opened(database, writer)
            except Damaged as exc:
                await database.close()
                await to_thread.run_sync(salvage, database.path, str(exc))
                sizes[writer] = await _opened(database, writer)
            live = writer <= self._running
            if live:
                await database.stop_writing()
            self._shards[writer] = _Shard(writer, database, live, sizes[writer].last, ShardReader(database.path))
        return sizes

    async def close(self) -> None:
        """Close what reads at every tick; the files themselves are the store's to close."""
        for shard in self._shards.values():
            await to_thread.run_sync(shard.reader.close)

    @property
    def damage(self) -> dict[int, str]:
        """Files that turned out broken, by writer, and what SQLite said; only a new start helps."""
        found = {writer: shard.damage or shard.database.damage for writer, shard in self._shards.items()}
        return {writer: reason for writer, reason in found.items() if reason}

    def declare_damaged(self, writer: int, reason: str) -> None:
        """The process that writes to this file found it broken."""
        self._shards[writer].damage = reason

    def seen(self, writer: int) -> int:
        """Number of the newest batch of this process that was read, or that anybody ever knew of."""
        return self._shards[writer].seen

    def start_after(self, last: dict[int, int]) -> None:
        """What the largest numbers ever heard of are, by writer: only batches above are new."""
        for writer, shard in self._shards.items():
            shard.seen = max(shard.seen, last.get(writer, 0))

    async def arrivals(self, note: Callable[[int, int], object]) -> list[Arrival]:
        """Batches that were committed since the last call, as they arrived; not to be cancelled.

        note: told number and spans of each, damaged ones included, which are left out. A file that cannot be read now
        is left out, which is logged once.
        """
        found: list[Arrival] = []
        noted: list[tuple[int, int]] = []
        live = [shard for shard in self._shards.values() if shard.live]
        await to_thread.run_sync(_read, live, found, noted, limiter=self._reading)
        for number, spans in noted:
            note(number, spans)
        return in_order(found)

    async def measure(self) -> None:
        """Look how large each file is; `arrivals` does so too for files that are written to."""
        await to_thread.run_sync(_measure, list(self._shards.values()), limiter=self._reading)

    @property
    def used_bytes(self) -> int:
        """In use in all these files when they were last measured."""
        return sum(shard.space.used_bytes for shard in self._shards.values())

    @property
    def free_bytes(self) -> int:
        """In pages of these files that are free."""
        return sum(shard.space.free_bytes for shard in self._shards.values())

    def space_of(self, writer: int) -> FileSpace:
        """Of the file of this process."""
        return self._shards[writer].space

    @property
    def unreadable(self) -> str:
        """Why a file cannot be read, "" when all can."""
        return next((s.unreadable for s in self._shards.values() if s.unreadable), "")

    async def drop(self, due: Due) -> None:
        """Drop payloads and batches from their files. Raises StoreUnavailable; then the same call is made again."""
        for shard in self._shards.values():
            part = part_of(due, shard.writer, [])
            if part.payloads or part.batches:
                if shard.live:
                    await self.drop_in_worker(shard.writer, part)
                else:
                    await to_thread.run_sync(_drop_here, shard.database, part)

    async def remove_empty(self, databases: dict[int, Database]) -> None:
        """Remove files of past processes that hold nothing any more."""
        for shard in [s for s in self._shards.values() if not s.live]:
            try:
                if (await shard.database.read(_KEPT))[0][0]:
                    continue
            except Damaged as exc:
                shard.damage = str(exc)
                continue
            shard.reader.close()
            await shard.database.close()
            del self._shards[shard.writer], databases[shard.writer]
            await to_thread.run_sync(shard.database.path.unlink)
            logger.info("the file of a past ingest process is empty; removed", extra={"path": str(shard.database.path)})


async def _opened(database: Database, writer: int) -> Sizes:
    await database.open()
    return await read_sizes(database, writer)


def _read(shards: list[_Shard], found: list[Arrival], noted: list[tuple[int, int]]) -> None:
    """Read what is new in each file."""
    for shard in shards:
        try:
            for numbers, arrivals in shard.reader.pages(shard.seen):
                noted += numbers
                found += arrivals
                shard.seen = numbers[-1][0]
            shard.space = shard.reader.space()
        except (StoreUnavailable, Damaged) as exc:
            if not shard.unreadable:
                logger.error(  # noqa: TRY400 -- the reason is all there is to say
                    "the file of an ingest process cannot be read; what it took in waits",
                    extra={"path": str(shard.database.path), "reason": str(exc)},
                )
            shard.unreadable = str(exc)
            if isinstance(exc, Damaged):
                shard.damage = str(exc)
        else:
            shard.unreadable = ""


def _measure(shards: list[_Shard]) -> None:
    for shard in shards:
        try:
            shard.space = shard.reader.space()
        except StoreUnavailable:
            continue  # told by whoever reads batches


def _drop_here(database: Database, due: Due) -> None:
    with database.transaction() as driver:
        Drop(due).execute(driver)


async def _nobody(writer: int, _: Due) -> None:
    raise StoreUnavailable(f"ingest process {writer} is not running")


def in_order(arrivals: Iterable[Arrival]) -> list[Arrival]:
    """By time of arrival; those of one process, which come in the order of their numbers, stay in it."""
    newest_ns: dict[int, int] = {}
    keyed = []
    for arrival in arrivals:
        writer = writer_of(arrival.number)
        newest_ns[writer] = max(newest_ns.get(writer, 0), arrival.arrival_ns)
        keyed.append((newest_ns[writer], arrival.number, arrival))
    return [arrival for _, _, arrival in sorted(keyed, key=itemgetter(0, 1))]
