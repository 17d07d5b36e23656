"""The database file: connections, transactions, versions, and what its errors mean."""

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import anyio
from sqlalchemy import URL, event, insert, inspect, select
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from bridge.errors import ConfigError, StoreUnavailable
from bridge.store import tables
from bridge.store.packing import Damaged

logger = logging.getLogger(__name__)

READERS = 2
BUSY_S = 5
"""How long a statement waits for a lock that some other program holds."""
PAGE_BYTES = 16384
"""Rows are tens of kilobytes: four times SQLite's page means a quarter of the pages to chain, log and free."""
WAL_PAGES = 1024
"""Pages in the log before a commit copies them over: 16 MiB."""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Database:
    """One SQLite file in WAL mode: one connection that writes, some that read and never wait for it."""

    def __init__(self, path: Path, synchronous: Literal["full", "normal"]) -> None:
        self.path = path
        self._writing = _engine(path, 1, _writer_pragmas(synchronous))
        self._reading = _engine(path, READERS, ("query_only = ON",))
        self._readers = anyio.CapacityLimiter(READERS)

    async def open(self) -> None:
        """Make or check the tables. Raises ConfigError where the file cannot be used, Damaged where it is broken."""
        try:
            async with self._writing.begin() as connection:
                await connection.run_sync(self._check)
        except DBAPIError as exc:
            if is_damage(exc):
                raise Damaged(str(exc.orig)) from exc
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot use {self.path}: {exc.orig}") from exc

    def _check(self, connection: Any) -> None:
        names = set(inspect(connection).get_table_names())
        if not names:
            tables.metadata.create_all(connection)
            connection.execute(insert(tables.store).values(version=tables.STORE_VERSION))
            return
        if tables.store.name not in names:
            raise ConfigError(f"inputs.ebpftrace.db_path: {self.path} is a database, but not one of the bridge's")
        version = connection.execute(select(tables.store.c.version)).scalar_one()
        if version > tables.STORE_VERSION:
            raise ConfigError(
                f"inputs.ebpftrace.db_path: {self.path} was written by a newer bridge (store version {version}, this "
                f"one knows {tables.STORE_VERSION}); start that one, or name another folder"
            )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Write; committed when the context is left without an error. Raises StoreUnavailable, then nothing is kept."""
        try:
            async with self._writing.begin() as connection:
                yield connection
        except DatabaseError as exc:
            raise self._unavailable(exc) from exc

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Read what is committed. Cancellation waits for the context's end. Raises StoreUnavailable."""
        async with self._readers:
            try:
                # a connection that is given up in the middle of a statement would leave its thread behind
                with anyio.CancelScope(shield=True):
                    async with self._reading.connect() as connection:
                        yield connection
            except DatabaseError as exc:
                raise self._unavailable(exc) from exc

    async def close(self) -> None:
        """Close all connections; the last one to go copies the log over and removes it."""
        with anyio.CancelScope(shield=True):
            await self._reading.dispose()
            await self._writing.dispose()

    def _unavailable(self, exc: DatabaseError) -> StoreUnavailable:
        return StoreUnavailable(f"{self.path}: {exc.orig}")


def is_damage(exc: DBAPIError) -> bool:
    """Whether SQLite says that the file is not what it wrote."""
    return getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged database and its log, so that a new one can be made and somebody can look into the old one."""
    suffix = f".damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        part = path.with_name(name)
        if part.exists():
            part.rename(path.with_name(name + suffix))
    logger.error(
        "database is damaged; set aside, and a new one begun: spans that had not been delivered are only in the old one",
        extra={"path": str(path), "set_aside": path.name + suffix, "reason": reason},
    )


def _writer_pragmas(synchronous: str) -> tuple[str, ...]:
    return (
        f"page_size = {PAGE_BYTES}",
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        f"wal_autocheckpoint = {WAL_PAGES}",
        f"journal_size_limit = {4 * WAL_PAGES * PAGE_BYTES}",
        "cache_size = -8192",
        # some builds overwrite with zeros whatever is deleted: twice the writing, for nothing here
        "secure_delete = OFF",
    )


def _engine(path: Path, connections: int, pragmas: tuple[str, ...]) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"timeout": BUSY_S},
    )

    def connected(connection: Any, _: object) -> None:
        try:
            connection.isolation_level = None  # the driver would begin late, and not at all before DDL
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()  # nobody else will: it is not the pool's yet, and its thread would stay
            raise

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if "journal_mode = WAL" in pragmas else "BEGIN")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begin)
    return engine
