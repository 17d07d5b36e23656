"""The database file: connections, transactions, versions, and what its errors mean."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
from anyio import to_thread
from sqlalchemy import (
    ClauseElement,
    Connection,
    Row,
    Select,
    bindparam,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable
from sqlalchemy.util import greenlet_spawn

from bridge.errors import ConfigError, StoreUnavailable
from bridge.store import tables
from bridge.store.engines import (
    AUTO_VACUUM,
    BUSY_S,
    PAGE_BYTES,
    READERS,
    blocking_reader,
    reading_engine,
    writing_engine,
)
from bridge.store.packing import Damaged
from bridge.store.space import LOG_BYTES, FileSpace

logger = logging.getLogger(__name__)

T = TypeVar("T")
Rows = Sequence[Row[Any]]

COMPACT_UP_TO = 64 << 20
"""Bytes in use up to which a file of an earlier bridge is made over at a start, which takes a second."""
_PAGES = "PRAGMA page_count"
_FREE_PAGES = "PRAGMA freelist_count"
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Database:
    """One SQLite file in WAL mode: one connection that writes, some that read and never wait for it.

    `read` is aiosqlite's, where each connection has a thread of its own. `transaction` and `read_here` block, and are
    called in worker threads, the first one at a time: where much is done at once a hop between threads for each
    statement would cost more than the statement. What `transaction` gives is the driver's own connection, since
    SQLAlchemy's takes longer to begin and to commit than SQLite.
    """

    def __init__(self, path: Path, synchronous: Literal["full", "normal"], log_bytes: int = LOG_BYTES) -> None:
        """log_bytes: what the log may keep once its content was copied over."""
        self.path, self.log_path = path, path.with_name(f"{path.name}-wal")
        """Of the file, and of its log, which is there while the file is open."""
        self._writing = writing_engine(path, synchronous, log_bytes)
        self._writer: Connection | None = None
        self._reading, self._reading_here = reading_engine(path), blocking_reader(path, READERS)
        self.damage = ""
        """What SQLite said when a write met a file that is not what it wrote; only a new file helps."""
        self._readers_here = threading.BoundedSemaphore(READERS)
        self._closed = False
        self._readers = anyio.CapacityLimiter(READERS)  # whoever waits here can be cancelled; in the pool nobody waits

    async def open(self) -> None:
        """Make or check the tables. Raises ConfigError where the file cannot be used, Damaged where it is broken."""
        self._closed = False
        try:
            # looked at before it is opened for writing, which alone would change a file that is not ours
            empty = await self._read(self._check)
            await to_thread.run_sync(self._begin, empty)
            await to_thread.run_sync(self._make_over)
        except DBAPIError as exc:
            if is_damage(exc):
                raise Damaged(str(exc.orig)) from exc
            remedy = "; make room there, or name another folder" if is_full(exc) else ""
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot use {self.path}: {exc.orig}{remedy}") from exc

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
        with self.transaction() as driver:
            if empty:
                for table in tables.metadata.sorted_tables:
                    driver.execute(sql(CreateTable(table)))
                driver.execute(sql(insert(tables.store)), (tables.STORE_VERSION,))
            else:  # an older version's rows stay as they are, and can be read
                driver.execute(SET_VERSION, (tables.STORE_VERSION,))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write; committed when the context is left without an error. Raises StoreUnavailable, then nothing is kept."""
        try:
            driver = self._driver_that_writes()
            driver.execute("BEGIN IMMEDIATE")
            try:
                yield driver
                driver.execute("COMMIT")
            except BaseException:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
                raise
        except (sqlite3.Error, DBAPIError) as exc:
            if is_damage(exc):
                self.damage = str(_cause_of(exc))
            raise self._unavailable(exc) from exc

    def checkpoint(self) -> None:
        """Copy the log over, as far as there is room and nobody reads: then it begins anew, and need not grow.

        SQLite does so after a commit, and never where none works because the log has no room. Blocks, as `transaction`
        does. Raises StoreUnavailable.
        """
        self._pragma("wal_checkpoint(PASSIVE)")

    def unused_bytes(self) -> int:
        """What new rows may take before the file grows. Blocks, as `transaction` does. Raises StoreUnavailable."""
        return self._pragma("freelist_count") * PAGE_BYTES

    def _pragma(self, text: str) -> int:
        with self._driver() as driver:
            return int(driver.execute(f"PRAGMA {text}").fetchone()[0])

    def _driver_that_writes(self) -> sqlite3.Connection:
        # kept: a connection of SQLAlchemy's costs more to make than a small transaction
        self._writer = self._writer or self._writing.connect()
        return driver_of(self._writer)

    async def read(self, query: Select[Any], **values: object) -> Rows:
        """The rows of what is committed, as it is now. Raises StoreUnavailable, Damaged.

        Whoever is cancelled waits for a query that has begun.
        """
        try:
            return await self._read(lambda connection: connection.execute(query, values).all())
        except DBAPIError as exc:
            raise self._unreadable(exc) from exc

    def read_here(self, query: Select[Any], **values: object) -> Rows:
        """The same in the thread that asks, which is blocked; READERS of them at once, others wait for one."""
        with self._readers_here:
            if self._closed:  # nobody waits for a thread whose task was cancelled past anyio's shields
                raise StoreUnavailable(f"{self.path} is closed")
            try:
                with self._reading_here.connect() as connection:
                    return connection.execute(query, values).all()
            except DBAPIError as exc:
                raise self._unreadable(exc) from exc

    async def _read(self, work: Callable[[Connection], T]) -> T:
        async with self._readers:
            # a connection that is given up in the middle of a statement would be lost with its thread
            with anyio.CancelScope(shield=True):
                done: T = await greenlet_spawn(self._connected, work)
        return done

    def _connected(self, work: Callable[[Connection], T]) -> T:
        with self._reading.connect() as connection:
            return work(connection)

    def _make_over(self) -> None:
        """Have a file give freed pages back, which those of earlier bridges do not, where that is soon done."""
        with self._driver() as driver:
            if driver.execute("PRAGMA auto_vacuum").fetchone()[0] or space_in(driver).used_bytes > COMPACT_UP_TO:
                return
            try:
                driver.execute(f"PRAGMA auto_vacuum = {AUTO_VACUUM}")
                driver.execute("VACUUM")
            except sqlite3.Error as exc:
                logger.warning(
                    "a file of an earlier bridge keeps its size; the next start tries again",
                    extra={"path": str(self.path), "reason": str(exc)},
                )

    def space(self) -> FileSpace:
        """What the file takes; blocks, and is called where `transaction` is. Raises StoreUnavailable."""
        with self._driver() as driver:
            return space_in(driver)

    def shrink(self, pages: int) -> FileSpace:
        """Give so many free pages back, in a transaction; returns what is left. As `space`.

        What was given back leaves the file when the log is copied over.
        """
        with self._driver() as driver:
            # of a statement without columns `execute` does one step, which is one page; this does all of them
            driver.executescript(f"PRAGMA incremental_vacuum({pages})")
            return space_in(driver)

    def truncate_log(self) -> None:
        """Copy the log over and empty it, unless somebody is reading: no reader is waited for. As `space`."""
        with self._driver() as driver:
            driver.execute("PRAGMA busy_timeout = 0")
            try:
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                driver.execute(f"PRAGMA busy_timeout = {1000 * BUSY_S:.0f}")

    @contextmanager
    def _driver(self) -> Iterator[sqlite3.Connection]:
        """The driver's own connection that writes, outside of a transaction."""
        try:
            yield self._driver_that_writes()
        except (sqlite3.Error, DBAPIError) as exc:
            raise self._unavailable(exc) from exc

    async def stop_writing(self) -> None:
        """Close the connection that writes: from now on another process does."""
        await to_thread.run_sync(self._dispose_writer)

    async def close(self) -> None:
        """Close all connections; the last one to go copies the log over and removes it. Not to be cancelled."""
        with anyio.CancelScope(shield=True):
            await greenlet_spawn(self._reading.dispose)
            await to_thread.run_sync(self._dispose_blocking)

    def _dispose_blocking(self) -> None:
        """Once no thread reads any more."""
        for _ in range(READERS):
            self._readers_here.acquire()
        self._closed = True
        self._reading_here.dispose()
        for _ in range(READERS):
            self._readers_here.release()
        self._dispose_writer()

    def _dispose_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._writing.dispose()

    def _unreadable(self, exc: DBAPIError) -> Damaged | StoreUnavailable:
        return Damaged(str(exc.orig)) if is_damage(exc) else self._unavailable(exc)

    def _unavailable(self, exc: sqlite3.Error | DBAPIError) -> StoreUnavailable:
        return StoreUnavailable(f"{self.path}: {_cause_of(exc)}")


def sql(statement: ClauseElement) -> str:
    """The statement as the driver takes it: made once, as SQLAlchemy's way to it costs more than running it."""
    return str(statement.compile(dialect=sqlite.dialect()))


SET_VERSION = sql(update(tables.store).values(version=bindparam("version")))


def with_log(space: FileSpace, log_path: Path) -> FileSpace:
    """The space with the present size of the log."""
    try:
        return replace(space, log_bytes=log_path.stat().st_size)
    except OSError:
        return space


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection, for what SQLAlchemy would take longer to ask for than SQLite to answer."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101 -- the engines here have no other driver
    return driver


def space_in(driver: sqlite3.Connection, page_bytes: int = 0) -> FileSpace:
    """What the file takes, in a transaction with what it wrote so far. All of it is on the first page, in memory.

    page_bytes: what a page of it has, where that is known.
    """
    page_bytes = page_bytes or driver.execute("PRAGMA page_size").fetchone()[0]
    return FileSpace(page_bytes, driver.execute(_PAGES).fetchone()[0], driver.execute(_FREE_PAGES).fetchone()[0])


def _cause_of(exc: sqlite3.Error | DBAPIError) -> BaseException | None:
    """What the driver raised."""
    return exc.orig if isinstance(exc, DBAPIError) else exc


def is_damage(exc: sqlite3.Error | DBAPIError) -> bool:
    """Whether SQLite says that the file is not what it wrote."""
    return getattr(_cause_of(exc), "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def is_full(exc: DBAPIError) -> bool:
    """Whether SQLite says that the disk is full."""
    return bool(getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL)


def aside_name() -> str:
    """What a damaged database is called after its name from now on."""
    return f".damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"


def rename_all(path: Path, to: Path) -> None:
    """Rename a database and its log: SQLite finds them together under the new name too."""
    for end in ("", "-wal", "-shm"):
        part = path.with_name(path.name + end)
        if part.exists():
            part.rename(to.with_name(to.name + end))
