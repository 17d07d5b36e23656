"""Reads what another process appends to its file."""

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select
from sqlalchemy.exc import DBAPIError

from bridge.component import Arrival
from bridge.errors import StoreUnavailable
from bridge.store import tables
from bridge.store.database import Rows, driver_of, is_damage, space_in
from bridge.store.engines import blocking_reader
from bridge.store.packing import Damaged
from bridge.store.rows import unpack_columns
from bridge.store.space import FileSpace

logger = logging.getLogger(__name__)

PAGE = 64
"""Batches that are read at once: some megabytes."""

_b = tables.batches.c
_NEW: Select[Any] = (
    select(_b.number, _b.arrival_ns, _b.spans, _b.schema_version, _b.columns)
    .where(_b.number > bindparam("after"))
    .order_by(_b.number)
    .limit(PAGE)
)


class ShardReader:
    """Blocks, and is called in worker threads, one at a time, at every tick: it keeps its connection."""

    def __init__(self, path: Path) -> None:
        self._path, self._engine = path, blocking_reader(path)
        self._connection: Connection | None = None

    def pages(self, after: int) -> Iterator[tuple[list[tuple[int, int]], list[Arrival]]]:
        """Batches with larger numbers, in order and page by page: (number, spans) of each, and those that can be read.

        Damaged ones are told in the log. Raises StoreUnavailable, Damaged.
        """
        while rows := self._rows(after):
            yield [(row.number, row.spans) for row in rows], _arrivals(rows)
            if len(rows) < PAGE:
                return
            after = rows[-1].number

    def space(self) -> FileSpace:
        """What the file takes. Raises StoreUnavailable."""
        try:
            connection = self._connection = self._connection or self._engine.connect()
            return space_in(driver_of(connection))
        except (DBAPIError, sqlite3.Error) as exc:
            raise StoreUnavailable(f"{self._path}: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    def _rows(self, after: int) -> Rows:
        try:
            connection = self._connection = self._connection or self._engine.connect()
            rows: Rows = connection.execute(_NEW, {"after": after}).all()
        except DBAPIError as exc:
            if is_damage(exc):
                raise Damaged(str(exc.orig)) from exc
            raise StoreUnavailable(f"{self._path}: {exc.orig}") from exc
        return rows


def _arrivals(rows: Rows) -> list[Arrival]:
    found = []
    for row in rows:
        try:
            found.append(Arrival(row.number, row.arrival_ns, unpack_columns(row.columns, row.schema_version)))
        except Damaged as exc:
            logger.error(  # noqa: TRY400 -- the reason is all there is to say
                "a batch is damaged; its spans are lost",
                extra={"batch": row.number, "spans": row.spans, "reason": str(exc)},
            )
    return found
