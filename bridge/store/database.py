"""The database file: connections, transactions, versions, and what its errors mean."""

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
from anyio import to_thread
from sqlalchemy import URL, Connection, Engine, Row, Select, create_engine, event, insert, inspect, select, update
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

from bridge.errors import ConfigError, StoreUnavailable
from bridge.store import tables
from bridge.store.packing import Damaged

logger = logging.getLogger(__name__)

T = TypeVar("T")
Rows = Sequence[Row[Any]]

READERS = 2
"""Connections that read."""
BUSY_S = 5
"""How long a statement waits for a lock that some other program holds."""
PAGE_BYTES = 16384
"""Rows are tens of kilobytes: four times SQLite's page means a quarter of the pages to chain, log and free."""
WAL_PAGES = 1024
"""Pages in the log before a commit copies them over: 16 MiB."""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Database:
    """One SQLite file in WAL mode: one connection that writes, some that read and never wait for it.

    Reading is aiosqlite's, where each connection has a thread of its own. `transaction` blocks, and is called in
    worker threads, one at a time: its hops between threads would cost more than its statements.
    """

    def __init__(self, path: Path, synchronous: Literal["full", "normal"]) -> None:
        self.path = path
        self._writing = _writing_engine(path, synchronous)
        self._writer: Connection | None = None
        self._reading = _reading_engine(path)
        self._readers = anyio.CapacityLimiter(READERS)  # whoever waits here can be cancelled; in the pool nobody waits

    async def open(self) -> None:
        """Make or check the tables. Raises ConfigError where the file cannot be used, Damaged where it is broken."""
        try:
            # looked at before it is opened for writing, which alone would change a file that is not ours
            empty = await self._read(self._check)
            await to_thread.run_sync(self._begin, empty)
        except DBAPIError as exc:
            if is_damage(exc):
                raise Damaged(str(exc.orig)) from exc
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot use {self.path}: {exc.orig}") from exc

    def _check(self, connection: Connection) -> bool:
        """Whether the file is still without tables."""
        names = set(inspect(connection).get_table_names())
        if not names:
            return True
        if tables.store.name not in names:
            raise ConfigError(f"inputs.ebpftrace.db_path: {self.path} is a database, but not one of the bridge's")
        missing = set(tables.metadata.tables) - names
        version = connection.execute(select(tables.store.c.version)).scalar_one_or_none()
        if version is None or (missing and version <= tables.STORE_VERSION):
            raise Damaged(f"without {', '.join(sorted(missing)) or 'a version'}")
        if version > tables.STORE_VERSION:
            raise ConfigError(
                f"inputs.ebpftrace.db_path: {self.path} was written by a newer bridge (store version {version}, this "
                f"one knows {tables.STORE_VERSION}); start that one, or name another folder"
            )
        return False

    def _begin(self, empty: bool) -> None:
        with self.transaction() as connection:
            if empty:
                tables.metadata.create_all(connection)
                connection.execute(insert(tables.store).values(version=tables.STORE_VERSION))
            else:  # an older version's rows stay as they are, and can be read
                connection.execute(update(tables.store).values(version=tables.STORE_VERSION))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Write; committed when the context is left without an error. Raises StoreUnavailable, then nothing is kept."""
        try:
            # kept: a connection of SQLAlchemy's costs more to make than a small transaction
            connection = self._writer = self._writer or self._writing.connect()
            with connection.begin():
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
        except DBAPIError as exc:
            raise self._unavailable(exc) from exc

    async def read(self, query: Select[Any], **values: object) -> Rows:
        """The rows of what is committed, as it is now. Raises StoreUnavailable, Damaged.

        Whoever is cancelled waits for a query that has begun.
        """
        try:
            return await self._read(lambda connection: connection.execute(query, values).all())
        except DBAPIError as exc:
            if is_damage(exc):
                raise Damaged(str(exc.orig)) from exc
            raise self._unavailable(exc) from exc

    async def _read(self, work: Callable[[Connection], T]) -> T:
        async with self._readers:
            # a connection that is given up in the middle of a statement would be lost with its thread
            with anyio.CancelScope(shield=True):
                async with self._reading.connect() as connection:
                    done = await connection.run_sync(work)
        return done

    async def stop_writing(self) -> None:
        """Close the connection that writes: from now on another process does."""
        await to_thread.run_sync(self._dispose_writer)

    async def close(self) -> None:
        """Close all connections; the last one to go copies the log over and removes it. Not to be cancelled."""
        with anyio.CancelScope(shield=True):
            await self._reading.dispose()
            await to_thread.run_sync(self._dispose_writer)

    def _dispose_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._writing.dispose()

    def _unavailable(self, exc: DBAPIError) -> StoreUnavailable:
        return StoreUnavailable(f"{self.path}: {exc.orig}")


def is_damage(exc: DBAPIError) -> bool:
    """Whether SQLite says that the file is not what it wrote."""
    return getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged database and its log, so that a new one can be made and somebody can look into the old one."""
    suffix = f".damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    for end in ("", "-wal", "-shm"):  # SQLite finds them together under the new name too
        part = path.with_name(path.name + end)
        if part.exists():
            part.rename(path.with_name(path.name + suffix + end))
    logger.error(
        "database is damaged; set aside, and a new one begun: what was not delivered is only in the old one",
        extra={"path": str(path), "set_aside": path.name + suffix, "reason": reason},
    )


def _writer_pragmas(synchronous: str) -> tuple[str, ...]:
    return (
        f"page_size = {PAGE_BYTES}",
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        f"wal_autocheckpoint = {WAL_PAGES}",
        f"journal_size_limit = {4 * WAL_PAGES * PAGE_BYTES}",
        "cache_size = -2048",
        # some builds overwrite with zeros whatever is deleted: twice the writing, for nothing here
        "secure_delete = OFF",
    )


def _writing_engine(path: Path, synchronous: str) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={**_connect_args(), "check_same_thread": False},
    )
    _set_up(engine, _writer_pragmas(synchronous))
    return engine


def _reading_engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=READERS,
        max_overflow=0,
        connect_args=_connect_args(),
        # a query is a transaction by itself: BEGIN and ROLLBACK around it would double its hops
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_reset_on_return=None,
    )
    _set_up(engine.sync_engine, ("query_only = ON",))
    return engine


def blocking_reader(path: Path) -> Engine:
    """An engine for one connection that reads, in whatever thread: what `Database.read` does without its hops."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={**_connect_args(), "check_same_thread": False},
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_reset_on_return=None,
    )
    _set_up(engine, ("query_only = ON",))
    return engine


def _connect_args() -> dict[str, Any]:
    # with an isolation level the driver would begin late, and not at all before DDL
    return {"timeout": BUSY_S, "isolation_level": None}


def _set_up(engine: Engine, pragmas: tuple[str, ...]) -> None:
    """Give these to each new connection."""

    def connected(connection: DBAPIConnection, _: object) -> None:
        try:
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()  # nobody else will: it is not the pool's yet, and a reader's thread would stay
            raise

    event.listen(engine, "connect", connected)
