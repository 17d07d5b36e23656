"""What a start reads: the ledger at once, batches page by page while they are asked for."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from anyio import to_thread
from sqlalchemy import Row, select

from bridge.component import StoredBatch
from bridge.store import tables
from bridge.store.database import Database
from bridge.store.ledger import Ledger
from bridge.store.packing import Damaged
from bridge.store.recovery import Recovery
from bridge.store.rows import unpack_columns, unpack_counts, unpack_departure

logger = logging.getLogger(__name__)

PAGE = 32
"""Batches that are read at once: some megabytes."""


def read_ledger(database: Database) -> Ledger:
    """The ledger as batches, ticks and cursors say. Raises Damaged, StoreUnavailable."""
    b, t, c, n = tables.batches.c, tables.ticks.c, tables.cursors.c, tables.numbers.c
    with database.reading() as connection:
        last = {row.name: row.seq for row in connection.execute(select(n.name, n.seq))}
        cursors = {row.exporter: row.tick for row in connection.execute(select(c.exporter, c.tick))}
        batches = (connection.execute(select(b.number, b.spans).order_by(b.number))).all()
        ticks = (connection.execute(select(t.number, t.left_ns, t.counts).order_by(t.number))).all()
    ledger = Ledger(last.get(tables.batches.name, 0), last.get(tables.ticks.name, 0), cursors)
    for number, spans in batches:
        ledger.appended(number, spans)
    stored = np.array([number for number, _ in batches], np.int64)
    for number, left_ns, data in ticks:
        numbers, counts = unpack_counts(data)
        kept = np.isin(numbers, stored)  # what is aged has been dropped from under ticks that others still need
        ledger.left(number, left_ns, numbers[kept], counts[kept])
    return ledger


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
            for stored in await to_thread.run_sync(self._page, ticks_of):
                yield stored

    def _page(self, ticks_of: dict[int, list[int]]) -> list[StoredBatch]:
        rows = self._rows(_BATCHES, list(ticks_of))
        wanted = sorted({tick for ticks in ticks_of.values() for tick in ticks} - self._seen)
        for at in range(0, len(wanted), PAGE):
            self._take_ticks(wanted[at : at + PAGE])
        return [stored for row in rows if (stored := self._batch(row, ticks_of[row.number])) is not None]

    def _rows(self, columns: Sequence[Any], numbers: list[int]) -> Sequence[Row[Any]]:
        """The rows of these numbers, without those on pages of the file that are damaged."""
        query = select(*columns).where(columns[0].in_(numbers)).order_by(columns[0])
        try:
            with self._database.reading() as connection:
                return connection.execute(query).all()
        except Damaged as exc:
            if len(numbers) > 1:
                return [row for number in numbers for row in self._rows(columns, [number])]
            logger.error(  # noqa: TRY400 -- the reason is all there is to say
                "a page of the database is damaged; what it held is lost",
                extra={columns[0].table.name: numbers[0], "reason": str(exc)},
            )
            return []

    def _take_ticks(self, numbers: list[int]) -> None:
        self._seen.update(numbers)
        self._damaged.update(numbers)
        for row in self._rows(_TICKS, numbers):
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
