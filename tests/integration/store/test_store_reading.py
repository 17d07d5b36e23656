"""How the store reads: connections of their own, few of them, and none lost to cancellation."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiosqlite
import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.engine import AdaptedConnection

from bridge.errors import StoreUnavailable
from bridge.store import SqliteStore, tables
from bridge.store.engines import READERS
from tests.integration.store.conftest import MakeStore
from tests.support.stored import departure_of, random_batch, rows_of

TICKS = 8


class OnQuery(Protocol):
    """Calls something just before a query with this text is handed to the database, on the event loop if need be."""

    def __call__(
        self, text: str, call: Callable[[], None], *, in_thread: bool = False
    ) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Readers:
    """Every connection that is made: those of aiosqlite, which all read, and the others, of which one writes."""

    waited_for: list[aiosqlite.Connection] = field(default_factory=list)
    blocking: list[sqlite3.Connection] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.waited_for) + len(self.blocking)


@pytest.fixture
def readers() -> Iterator[Readers]:
    """Every connection that is made while the store runs."""
    made = Readers()

    def connected(connection: object, _: object) -> None:
        if isinstance(connection, AdaptedConnection):
            made.waited_for.append(connection.driver_connection)
        else:
            assert isinstance(connection, sqlite3.Connection)
            made.blocking.append(connection)

    event.listen(Engine, "connect", connected)
    yield made
    event.remove(Engine, "connect", connected)


@pytest.fixture
def on_query() -> OnQuery:
    """See `OnQuery`."""

    @contextmanager
    def listening(text: str, call: Callable[[], None], *, in_thread: bool = False) -> Iterator[None]:
        def about_to(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if text not in statement:
                return
            if in_thread:
                call()
                return
            try:
                asyncio.get_running_loop()
            except RuntimeError:  # in a worker thread
                anyio.from_thread.run_sync(call)
            else:
                call()

        event.listen(Engine, "before_cursor_execute", about_to)
        yield
        event.remove(Engine, "before_cursor_execute", about_to)

    return listening


async def with_ticks(store: SqliteStore) -> list[int]:
    """Numbers of ticks with one batch each."""
    await store.register(["a"])
    ticks = []
    for seed in range(TICKS):
        number = await store.append(random_batch(seed, 9), seed)
        ticks.append(await store.commit_tick(departure_of(rows_of((number, 9))), seed))
    return ticks


async def test_readers_are_few_and_cannot_write(make_store: MakeStore, readers: Readers) -> None:
    """However many ticks are read at once, a fixed number of connections reads them; what they are given to write is
    refused."""
    store = make_store(payload_cache_bytes=0)
    async with store.running():
        ticks = await with_ticks(store)
        (writer,) = readers.blocking
        async with anyio.create_task_group() as tasks:
            for tick in ticks:
                tasks.start_soon(store.read_tick, tick)
        assert 2 <= len(readers.blocking) <= 1 + READERS
        assert 1 <= len(readers.waited_for) <= READERS
        for reader in readers.waited_for:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await reader.execute("DELETE FROM payload")
        for blocking in readers.blocking:
            if blocking is not writer:
                with pytest.raises(sqlite3.OperationalError, match="readonly"):
                    blocking.execute("DELETE FROM payload")


@pytest.mark.parametrize("table", ["tick", "payload", "batch"])
async def test_cancelled_reader_gives_its_connection_back(
    make_store: MakeStore, readers: Readers, on_query: OnQuery, table: str
) -> None:
    """Readers that are cancelled while their query runs leave after it, and the next ones read over the same
    connections; the threads of these end with the store."""
    store = make_store(payload_cache_bytes=0)

    async def read_all() -> int:
        return len([await store.read_tick(tick) for tick in ticks] + [stored async for stored in store.recover()])

    async with store.running():
        ticks = await with_ticks(store)
        await read_all()
        before = len(readers)
        for _ in range(READERS + 1):
            with anyio.CancelScope() as scope, on_query(f"FROM {table}", scope.cancel):
                await read_all()
            assert scope.cancelled_caught
        assert await read_all() == 2 * TICKS
        assert len(readers) == before


@pytest.mark.parametrize("table", ["sqlite_master", "espan_store", "batch"])
async def test_cancelled_start_leaves_nothing(make_store: MakeStore, on_query: OnQuery, table: str) -> None:
    """Whoever is cancelled while it checks the tables or reads the ledger leaves neither lock nor thread, and the next
    one finds what was there."""
    store = make_store()
    async with store.running():
        number = await store.append(random_batch(1, 2), 0)
    with anyio.CancelScope() as scope, on_query(table, scope.cancel):
        async with make_store().running():
            pytest.fail("the start was cancelled")
    assert scope.cancelled_caught
    store = make_store()
    async with store.running():
        assert [stored.number async for stored in store.recover()] == [number]


async def test_close_waits_for_a_read_that_nobody_waits_for(make_store: MakeStore, on_query: OnQuery) -> None:
    """A task that is cancelled past all shields leaves its thread reading: the file is closed after that."""
    store = make_store(payload_cache_bytes=0)
    reading, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reading.set()
        assert go_on.wait(10)

    async with store.running():
        tick = (await with_ticks(store))[0]
        with on_query("FROM payload", hold, in_thread=True):
            task = asyncio.create_task(store.read_tick(tick))
            await anyio.to_thread.run_sync(reading.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not go_on.is_set()
        threading.Timer(0.3, go_on.set).start()
    assert go_on.is_set()
    with pytest.raises(StoreUnavailable, match="closed"):
        store._database.read_here(select(tables.ticks.c.number))
