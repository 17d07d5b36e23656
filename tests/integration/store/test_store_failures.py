"""What the store does while it cannot commit, and when it can again."""

import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Engine, event

from bridge.errors import StoreUnavailable, Throttled
from bridge.store.numbers import DATABASE_FILE
from tests.integration.store.conftest import MakeStore
from tests.support.stored import assert_same_table, departure_of, random_batch, rows_of

Limit = Callable[[], None]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another program is writing to the file."""
    other = sqlite3.connect(folder / DATABASE_FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


async def test_locked_file_is_unavailable_and_then_works(
    make_store: MakeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody else holds the file's lock every kind of write is StoreUnavailable and leaves nothing; afterwards
    the same writes work. What is committed can be read all the while."""
    monkeypatch.setattr("bridge.store.engines.BUSY_S", 0.02)
    store = make_store()
    async with store.running():
        await store.register(["a"])
        first = await store.append(random_batch(1, 1), 1)
        tick = await store.commit_tick(departure_of([(first, 0)]), 1)
        with locked(folder):
            for write in (
                store.append(random_batch(2, 3), 2),
                store.commit_tick(departure_of([]), 2),
                store.register(["b"]),
                store.advance("a", tick),
                store.forget(1 << 60),
            ):
                with pytest.raises(StoreUnavailable, match="locked") as info:
                    await write
                assert info.value.retry_after_s is not None
                assert "locked" in store.unavailable
            assert [stored.number async for stored in store.recover()] == [first]
            assert await store.next_tick(0) == await store.last_tick() == tick
            await store.read_tick(tick)
        assert await store.register(["a", "b"]) == {"a": 0, "b": tick}
        assert store.unavailable == ""
        assert await store.append(random_batch(2, 3), 2) == first + 1
        await store.advance("a", tick)
        assert await store.forget(1 << 60) == 1


@pytest.fixture
def connections() -> Iterator[list[sqlite3.Connection]]:
    """Every connection that is made to write to a database."""
    made: list[sqlite3.Connection] = []

    def connected(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):  # those that read are aiosqlite's
            made.append(connection)

    event.listen(Engine, "connect", connected)
    yield made
    event.remove(Engine, "connect", connected)


def pragma(connections: list[sqlite3.Connection], text: str) -> Limit:
    """Sets this for all connections when called."""

    def run() -> None:
        for connection in connections:
            connection.execute(f"PRAGMA {text}")

    return run


@pytest.fixture
def full_database(connections: list[sqlite3.Connection]) -> tuple[Limit, Limit]:
    """Makes the database full (SQLITE_FULL), and roomy again."""
    return pragma(connections, "max_page_count = 1"), pragma(connections, f"max_page_count = {1 << 30}")


@pytest.fixture
def read_only(connections: list[sqlite3.Connection]) -> tuple[Limit, Limit]:
    """Makes the database refuse what changes it (SQLITE_READONLY), and take it again."""
    return pragma(connections, "query_only = ON"), pragma(connections, "query_only = OFF")


@pytest.fixture
def small_files() -> Iterator[tuple[Limit, Limit]]:
    """Makes writes beyond 300 kB of any file fail (EFBIG), and work again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def free() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard)), free
    free()


@pytest.mark.parametrize("disk", ["full_database", "small_files", "read_only"])
async def test_disk_that_takes_nothing_is_unavailable_and_then_works(
    make_store: MakeStore, disk: str, request: pytest.FixtureRequest
) -> None:
    """Appends fail while the disk is full or read-only, again and again, and work without a restart once it is not; the
    ones that failed left nothing, neither in numbers nor in the file."""
    fill, free = request.getfixturevalue(disk)
    store = make_store()
    batches = [random_batch(seed, 1000) for seed in range(12)]
    kept = {}
    async with store.running():
        kept[await store.append(batches[0], 0)] = batches[0]
        fill()
        failed = 0
        for batch in batches[1:]:
            try:
                kept[await store.append(batch, 0)] = batch
            except StoreUnavailable:
                failed += 1
        assert failed >= 2
        free()
        for batch in batches[:3]:
            kept[await store.append(batch, 0)] = batch
        assert list(kept) == list(range(1, len(kept) + 1))
    store = make_store()
    async with store.running():
        found = {stored.number: stored.columns async for stored in store.recover()}
    assert found.keys() == kept.keys()
    for number, columns in found.items():
        assert_same_table(columns, kept[number].columns)


async def test_cancelled_caller_leaves_a_whole_write(make_store: MakeStore, folder: Path) -> None:
    """Whoever waits for a commit may go; batch and tick are committed in the order of the calls nevertheless."""
    batch = random_batch(1, 5)
    store = make_store()
    async with store.running():
        await store.register(["a"])
        with locked(folder):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.append, batch, 7)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(store.append, random_batch(2, 1), 8)
                tasks.start_soon(store.commit_tick, departure_of([(1, 3)]), 9)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        assert await store.append(random_batch(3, 1), 0) == 3
        found = [stored async for stored in store.recover()]
    assert [stored.number for stored in found] == [1, 2, 3]
    assert found[0].left_rows.tolist() == [3]
    assert_same_table(found[0].columns, batch.columns)


async def test_stopping_writes_what_waits(make_store: MakeStore, folder: Path) -> None:
    """Leaving the context commits what was handed in before."""
    store = make_store()
    async with anyio.create_task_group() as tasks, store.running():
        with locked(folder):
            for seed in range(3):
                tasks.start_soon(store.append, random_batch(seed, 1), seed)
            await anyio.wait_all_tasks_blocked()
    store = make_store()
    async with store.running():
        assert [stored.number async for stored in store.recover()] == [1, 2, 3]


async def test_too_much_that_waits_is_throttled(make_store: MakeStore, folder: Path) -> None:
    """Beyond `queue_bytes` append pushes back at once; what waits is committed all the same, and then there is room."""
    store = make_store(queue_bytes=1)
    numbers = []

    async def append() -> None:
        numbers.append(await store.append(random_batch(1, 9), 0))

    async with store.running():
        async with anyio.create_task_group() as tasks:
            with locked(folder):
                tasks.start_soon(append)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(Throttled, match=r"store\.queue_bytes = 1"):
                    await store.append(random_batch(2, 9), 0)
                assert numbers == []
        await append()
    assert numbers == [1, 2]


async def test_refused_operation_fails_alone(make_store: MakeStore) -> None:
    """A mistake in one operation is its caller's; the store goes on."""
    store = make_store()
    async with store.running():
        number = await store.append(random_batch(1, 2), 0)
        with pytest.raises(ValueError, match="rows of batch"):
            await store.commit_tick(departure_of(rows_of((number, 3))), 0)
        assert await store.commit_tick(departure_of(rows_of((number, 2))), 0) == 1
