"""What a start reads: the ledger at once, batches page by page while they are asked for."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from anyio import to_thread
from sqlalchemy import Row, select

from bridge.component import StoredBatch
from bridge.store import tables
from bridge.store.database import Database, Rows
from bridge.store.ledger import Ledger
from bridge.store.packing import Damaged
from bridge.store.recovery import Recovery
from bridge.store.rows import unpack_columns, unpack_counts, unpack_departure

logger = logging.getLogger(__name__)

PAGE = 32
"""Batches that are read at once: some megabytes."""


async def read_ledger(database: Database) -> Ledger:
    """The ledger as batches, ticks and cursors say. Raises Damaged, StoreUnavailable."""
    b, t, c, n = tables.batches.c, tables.ticks.c, tables.cursors.c, tables.numbers.c
    # nobody writes yet, so that these belong together
    last = {row.name: row.seq for row in await database.read(select(n.name, n.seq))}
    cursors = {row.exporter: row.tick for row in await database.read(select(c.exporter, c.tick))}
    batches = await database.read(select(b.number, b.spans).order_by(b.number))
    ticks = await database.read(select(t.number, t.left_ns, t.counts).order_by(t.number))
    ledger = Ledger(last.get(tables.batches.name, 0), last.get(tables.ticks.name, 0), cursors)
    await to_thread.run_sync(_fill, ledger, batches, ticks)
    return ledger


def _fill(ledger: Ledger, batches: Rows, ticks: Rows) -> None:
    for batch in batches:
        ledger.appended(batch.number, batch.spans)
    stored = np.array([batch.number for batch in batches], np.int64)
    for tick in ticks:
        numbers, counts = unpack_counts(tick.counts)
        kept = np.isin(numbers, stored)  # what is aged has been dropped from under ticks that others still need
        ledger.left(tick.number, tick.left_ns, numbers[kept], counts[kept])


class BatchReader:
    """Reads every stored batch, with what is known of its rows that left.

    A batch whose columns are damaged, or of which is not known any more which rows left, is left out and an error is
    logged; its bytes stay in the database.
    """

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database, self._ledger = database, ledger
        self._recovery = Recovery()
        self._seen: set[int] = set()
        """Ticks that were read."""
        self._damaged: set[int] = set()
        """Ticks of which the decisions cannot be read."""

    async def read(self) -> AsyncIterator[StoredBatch]:
        """In order of number. Raises StoreUnavailable."""
        numbers = self._ledger.batches
        for at in range(0, len(numbers), PAGE):
            ticks_of = {number: list(self._ledger.ticks_of(number)) for number in numbers[at : at + PAGE]}
            rows = await self._rows(_BATCHES, list(ticks_of))
            wanted = sorted({tick for ticks in ticks_of.values() for tick in ticks} - self._seen)
            for first in range(0, len(wanted), PAGE):
                ticks = wanted[first : first + PAGE]
                await to_thread.run_sync(self._take_ticks, ticks, await self._rows(_TICKS, ticks))
            for stored in await to_thread.run_sync(self._page, rows, ticks_of):
                yield stored

    def _page(self, rows: Rows, ticks_of: dict[int, list[int]]) -> list[StoredBatch]:
        return [stored for row in rows if (stored := self._batch(row, ticks_of[row.number])) is not None]

    async def _rows(self, columns: Sequence[Any], numbers: list[int]) -> Rows:
        """The rows of these numbers, without those on pages of the file that are damaged."""
        query = select(*columns).where(columns[0].in_(numbers)).order_by(columns[0])
        try:
            return await self._database.read(query)
        except Damaged as exc:
            if len(numbers) > 1:
                return [row for number in numbers for row in await self._rows(columns, [number])]
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
            self._recovery.add_tick(row.number, row.left_ns, departure)
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
        return None


_BATCHES = (
    tables.batches.c.number,
    tables.batches.c.arrival_ns,
    tables.batches.c.spans,
    tables.batches.c.schema_version,
    tables.batches.c.columns,
)
_TICKS = (tables.ticks.c.number, tables.ticks.c.left_ns, tables.ticks.c.version, tables.ticks.c.departure)
