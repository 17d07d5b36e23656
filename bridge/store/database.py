"""The database file: connections, transactions, versions, and what its errors mean."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from bridge.errors import ConfigError, StoreUnavailable
from bridge.store import tables
from bridge.store.packing import Damaged

logger = logging.getLogger(__name__)

READERS = 2
"""Ticks that are read at once."""
BUSY_S = 5
"""How long a statement waits for a lock that some other program holds."""
PAGE_BYTES = 16384
"""Rows are tens of kilobytes: four times SQLite's page means a quarter of the pages to chain, log and free."""
WAL_PAGES = 1024
"""Pages in the log before a commit copies them over: 16 MiB."""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Database:
    """One SQLite file in WAL mode: one connection that writes, some that read and never wait for it.

    Everything here blocks, and is called in worker threads: one at a time for `transaction`.
    """

    def __init__(self, path: Path, synchronous: Literal["full", "normal"]) -> None:
        self.path = path
        self._writing = _engine(path, 1, _writer_pragmas(synchronous), "BEGIN IMMEDIATE")
        self._reading = _engine(path, READERS, ("query_only = ON",), "BEGIN")

    def open(self) -> None:
        """Make or check the tables. Raises ConfigError where the file cannot be used, Damaged where it is broken."""
        try:
            # looked at before it is opened for writing, which alone would change a file that is not ours
            with self._reading.connect() as connection:
                empty = self._check(connection)
            with self._writing.begin() as connection:
                if empty:
                    tables.metadata.create_all(connection)
                    connection.execute(insert(tables.store).values(version=tables.STORE_VERSION))
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
        if version is None or (missing and version == tables.STORE_VERSION):
            raise Damaged(f"without {', '.join(sorted(missing)) or 'a version'}")
        if version > tables.STORE_VERSION:
            raise ConfigError(
                f"inputs.ebpftrace.db_path: {self.path} was written by a newer bridge (store version {version}, this "
                f"one knows {tables.STORE_VERSION}); start that one, or name another folder"
            )
        return False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Write; committed when the context is left without an error. Raises StoreUnavailable, then nothing is kept."""
        try:
            with self._writing.begin() as connection:
                yield connection
        except DBAPIError as exc:
            raise self._unavailable(exc) from exc

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read what is committed, as it is now. Raises StoreUnavailable, Damaged."""
        try:
            with self._reading.connect() as connection:
                yield connection
        except DBAPIError as exc:
            if is_damage(exc):
                raise Damaged(str(exc.orig)) from exc
            raise self._unavailable(exc) from exc

    def close(self) -> None:
        """Close all connections; the last one to go copies the log over and removes it."""
        self._reading.dispose()
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
        "cache_size = -8192",
        # some builds overwrite with zeros whatever is deleted: twice the writing, for nothing here
        "secure_delete = OFF",
    )


def _engine(path: Path, connections: int, pragmas: tuple[str, ...], begin: str) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=-1,  # those who call are bounded; nobody waits here
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
    )

    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver would begin late, and not at all before DDL
        try:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()  # nobody else will: it is not the pool's yet
            raise

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine
