"""What a start reads: the ledger at once, batches page by page while they are asked for.

Batches lie in several files when several processes took them in: `Databases` has each by the number of its writer.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from anyio import to_thread
from sqlalchemy import Row, select

from bridge.component import StoredBatch
from bridge.store import tables
from bridge.store.database import Database, Rows
from bridge.store.ledger import Ledger
from bridge.store.numbers import OWN, before_first, by_writer
from bridge.store.operations import exported_in
from bridge.store.packing import Damaged
from bridge.store.recovery import Recovery
from bridge.store.rows import unpack_columns, unpack_counts, unpack_departure

logger = logging.getLogger(__name__)

PAGE = 32
"""Batches that are read at once: some megabytes."""


Databases: TypeAlias = Mapping[int, Database]
"""Open files by the number of their writer, the bridge's own among them."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Which batches a file holds."""

    last: int
    """The largest number ever given in it."""
    batches: Rows
    """(number, spans) of each, ascending."""


async def read_sizes(database: Database, writer: int) -> Sizes:
    """What the file of this writer holds. Raises Damaged, StoreUnavailable."""
    last = (await _sequences(database)).get(tables.batches.name, before_first(writer))
    return Sizes(last, await database.read(_SIZES))


async def read_ledger(own: Database, others: Mapping[int, Sizes]) -> tuple[Ledger, dict[int, int]]:
    """The ledger as batches, ticks and cursors say, and the largest number heard of, by writer of other files.

    Nobody writes meanwhile, so that what the files say belongs together. Raises Damaged, StoreUnavailable.
    """
    t, c = tables.ticks.c, tables.cursors.c
    sizes, last_tick = await read_sizes(own, OWN), (await _sequences(own)).get(tables.ticks.name, 0)
    cursors = {row.exporter: row.tick for row in await own.read(select(c.exporter, c.tick))}
    ticks = await own.read(select(t.number, t.left_ns, t.counts).order_by(t.number))
    ledger = Ledger(sizes.last, last_tick, cursors)
    exported = await _exported(own, ticks, ledger.passed_tick)
    batches = [row for of_one in (sizes, *others.values()) for row in of_one.batches]
    last = {writer: of_one.last for writer, of_one in others.items()}
    await to_thread.run_sync(_fill, ledger, batches, ticks, exported, last)
    return ledger, last


async def _sequences(database: Database) -> dict[str, int]:
    """The largest number ever given, by name of table."""
    n = tables.numbers.c
    return {row.name: row.seq for row in await database.read(select(n.name, n.seq))}


async def _exported(own: Database, ticks: Rows, passed: int) -> dict[int, int]:
    """How many spans those ticks hold for exporters that do not say so themselves, as earlier bridges wrote them."""
    found = {}
    for number in [row.number for row in ticks if row.number > passed and unpack_counts(row.counts)[2] is None]:
        try:
            (row,) = await own.read(select(*_TICKS).where(tables.ticks.c.number == number))
            found[number] = await to_thread.run_sync(_exported_in_row, row)
        except Damaged:
            continue  # told when somebody asks for it
    return found


def _exported_in_row(row: Row[Any]) -> int:
    return exported_in(unpack_departure(row.departure, row.version))


def _fill(
    ledger: Ledger, batches: Sequence[Row[Any]], ticks: Rows, exported: Mapping[int, int], last: dict[int, int]
) -> None:
    for batch in batches:
        ledger.appended(batch.number, batch.spans)
    stored = np.array([batch.number for batch in batches], np.int64)
    for tick in ticks:
        numbers, counts, told = unpack_counts(tick.counts)
        for writer, of_one in by_writer(numbers.tolist()):
            # of a file that was set aside, too: its numbers must not be given again
            last[writer] = max(last.get(writer, 0), of_one[-1])
        kept = np.isin(numbers, stored)  # what is aged has been dropped from under ticks that others still need
        for_exporters = exported.get(tick.number, 0) if told is None else told
        ledger.left(tick.number, tick.left_ns, numbers[kept], counts[kept], for_exporters)


class BatchReader:
    """Reads every stored batch, with what is known of its rows that left.

    A batch whose columns are damaged, or of which is not known any more which rows left, is left out and an error is
    logged.
    """

    def __init__(self, databases: Databases, ledger: Ledger) -> None:
        self._databases, self._ledger = databases, ledger
        self._recovery = Recovery()
        self._seen: set[int] = set()
        """Ticks that were read."""
        self._damaged: set[int] = set()
        """Ticks of which the decisions cannot be read."""
        self.left_out: list[int] = []
        """Batches that were left out although their row can be read."""
        self.broken: dict[int, str] = {}
        """Files in which a page was found that SQLite cannot read, by writer, with what it said."""

    async def read(self) -> AsyncIterator[StoredBatch]:
        """In the order in which the linker was given them. Raises StoreUnavailable."""
        numbers = self._ledger.batches if len(self._databases) == 1 else await self._in_order_of_arrival()
        for at in range(0, len(numbers), PAGE):
            ticks_of = {number: list(self._ledger.ticks_of(number)) for number in numbers[at : at + PAGE]}
            rows = [row for writer, of_one in by_writer(ticks_of) for row in await self._rows(writer, _BATCHES, of_one)]
            wanted = sorted({tick for ticks in ticks_of.values() for tick in ticks} - self._seen)
            for first in range(0, len(wanted), PAGE):
                ticks = wanted[first : first + PAGE]
                await to_thread.run_sync(self._take_ticks, ticks, await self._rows(OWN, _TICKS, ticks))
            for stored in await to_thread.run_sync(self._page, rows, ticks_of):
                yield stored

    async def _in_order_of_arrival(self) -> list[int]:
        """Numbers of all batches; those of one writer stay in their order."""
        arrivals: list[tuple[int, int]] = []
        for database in self._databases.values():
            newest_ns = 0
            for row in await database.read(_TIMES):
                newest_ns = max(newest_ns, row.arrival_ns)
                arrivals.append((newest_ns, row.number))
        return [number for _, number in sorted(arrivals) if self._ledger.has_batch(number)]

    def _page(self, rows: Rows, ticks_of: dict[int, list[int]]) -> list[StoredBatch]:
        return [stored for row in rows if (stored := self._batch(row, ticks_of[row.number])) is not None]

    async def _rows(self, writer: int, columns: Sequence[Any], numbers: list[int]) -> Rows:
        """The rows of these numbers, without those on pages of the file that are damaged."""
        query = select(*columns).where(columns[0].in_(numbers)).order_by(columns[0])
        try:
            return await self._databases[writer].read(query)
        except Damaged as exc:
            if len(numbers) > 1:
                return [row for number in numbers for row in await self._rows(writer, columns, [number])]
            self.broken[writer] = str(exc)
            logger.error(  # noqa: TRY400 -- the reason is all there is to say
                "a page of the database is damaged; what it held is lost",
                extra={columns[0].table.name: numbers[0], "reason": str(exc)},
            )
            return []

    def _take_ticks(self, numbers: list[int], rows: Rows) -> None:
        self._seen.update(numbers)
        self._damaged.update(numbers)
        for row in rows:
            try:
                departure = unpack_departure(row.departure, row.version)
            except Damaged:
                continue  # told with each batch that it means
            self._recovery.add_tick(row.number, row.left_ns, departure, self._ledger.batches_of(row.number))
            self._damaged.discard(row.number)

    def _batch(self, row: Row[Any], ticks: list[int]) -> StoredBatch | None:
        lost = self._damaged.intersection(ticks)
        try:
            columns = unpack_columns(row.columns, row.schema_version)
        except Damaged as exc:
            reason = str(exc)
        else:
            if not lost:
                return self._recovery.batch(row.number, row.arrival_ns, columns)
            reason = f"decisions of tick {min(lost)} are damaged"
        logger.error(
            "a batch is damaged; what of it waits is lost",
            extra={"batch": row.number, "spans": row.spans, "reason": reason},
        )
        self.left_out.append(row.number)
        return None


_SIZES = select(tables.batches.c.number, tables.batches.c.spans).order_by(tables.batches.c.number)
_TIMES = select(tables.batches.c.number, tables.batches.c.arrival_ns).order_by(tables.batches.c.number)
_BATCHES = (
    tables.batches.c.number,
    tables.batches.c.arrival_ns,
    tables.batches.c.spans,
    tables.batches.c.schema_version,
    tables.batches.c.columns,
)
_TICKS = (tables.ticks.c.number, tables.ticks.c.left_ns, tables.ticks.c.version, tables.ticks.c.departure)
