"""Engines of SQLAlchemy for one file: how connections are made, shared and set up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

READERS = 2
"""Connections that read, of each kind."""
BUSY_S = 5
"""How long a statement waits for a lock that some other program holds."""
PAGE_BYTES = 16384
"""Rows are tens of kilobytes: four times SQLite's page means a quarter of the pages to chain, log and free."""
LOG_TURNS = 4
"""How many times what has gathered in the log by when a commit copies it over (16 MiB as a rule) the log may keep."""
AUTO_VACUUM = "INCREMENTAL"
"""Freed pages are given back in parts."""


@contextmanager
def new_file(path: Path) -> Iterator[Connection]:
    """A new database that is whole and on the disk when the context is left without an error, and of no use else."""
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args=_connect_args())
    _set_up(engine, (f"page_size = {PAGE_BYTES}", f"auto_vacuum = {AUTO_VACUUM}", "journal_mode = OFF"))
    try:
        with engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("BEGIN")
            yield connection
    finally:
        engine.dispose()


def _writer_pragmas(synchronous: str, log_bytes: int) -> tuple[str, ...]:
    return (
        f"page_size = {PAGE_BYTES}",
        f"auto_vacuum = {AUTO_VACUUM}",
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        f"wal_autocheckpoint = {max(1, log_bytes // (LOG_TURNS * PAGE_BYTES))}",
        f"journal_size_limit = {log_bytes}",
        "cache_size = -2048",
        # some builds overwrite with zeros whatever is deleted: twice the writing, for nothing here
        "secure_delete = OFF",
    )


def writing_engine(path: Path, synchronous: str, log_bytes: int) -> Engine:
    """An engine for the one connection that writes, in whatever thread. log_bytes: as for `Database`."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={**_connect_args(), "check_same_thread": False},
    )
    _set_up(engine, _writer_pragmas(synchronous, log_bytes))
    return engine


def reading_engine(path: Path) -> Engine:
    """An engine whose connections wait as coroutines do: to be used within `greenlet_spawn` alone.

    sqlalchemy.ext.asyncio is the same and an ORM beside it, 8 MB of memory for nothing here.
    """
    engine = create_engine(
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
    _set_up(engine, ("query_only = ON",))
    return engine


def blocking_reader(path: Path, connections: int = 1) -> Engine:
    """An engine for connections that read, in whatever thread: what `Database.read` does without its hops."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=connections,
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
