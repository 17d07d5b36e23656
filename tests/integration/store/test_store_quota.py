"""The quota, on real files: appends stop before it, what makes room goes on, and the file shrinks again."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from bridge.errors import ConfigError, Throttled
from bridge.spans import Outcome
from bridge.store import Limits, SqliteStore, database, engines, shrinking
from bridge.store.numbers import DATABASE_FILE
from tests.integration.store.conftest import MakeStore
from tests.support.big_batches import SPANS, big_batch
from tests.support.sharded_store import ShardedStore
from tests.support.stored import departure_of, rows_of

MIB = 1 << 20
QUOTA = 16 * MIB
LIMITS = Limits(max_bytes=QUOTA)
WAIT_S = 30.0
ALL = 1 << 60


def size_of(folder: Path) -> int:
    """Bytes of all files in the folder, logs included."""
    return sum(path.stat().st_size for path in folder.iterdir())


async def becomes(true: Callable[[], bool]) -> None:
    """Return once this holds; it is about files, which tell nobody."""
    with anyio.fail_after(WAIT_S):
        while not true():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def fill(store: SqliteStore) -> list[int]:
    """Append until the store takes no more; numbers of what it took."""
    numbers: list[int] = []
    while True:
        try:
            numbers.append(await store.append(big_batch(len(numbers)), 0))
        except Throttled as exc:
            assert exc.reason == "quota"
            return numbers


async def leave(store: SqliteStore, numbers: list[int]) -> int:
    """All rows of these leave in one tick; its number."""
    departure = departure_of(rows_of(*((number, SPANS) for number in numbers)), 1, Outcome.EXPORT)
    return await store.commit_tick(departure, 0)


async def test_appends_stop_before_the_quota_and_what_makes_room_goes_on(make_store: MakeStore, folder: Path) -> None:
    """The files stay below the quota; ticks and cursors are committed there; once an exporter has delivered and
    payload is forgotten batches are taken again, as many as before, and the file shrinks when they went too."""
    store = make_store(limits=LIMITS)
    async with store.running():
        await store.register(["a"])
        for round_ in range(3):
            numbers = await fill(store)
            assert len(numbers) >= 40
            assert size_of(folder) <= QUOTA
            first, rest = await leave(store, numbers[:5]), await leave(store, numbers[5:])
            with pytest.raises(Throttled, match=r"store\.max_bytes"):
                await store.append(big_batch(1), 0)
            await store.advance("a", first)
            await store.forget(ALL)
            # five batches are more than the step that opens it again
            assert await store.append(big_batch(1), 0) == numbers[-1] + 1
            await store.advance("a", await leave(store, [numbers[-1] + 1]))
            assert rest > first
            await store.forget(ALL)
            assert size_of(folder) <= QUOTA
            if round_ == 1:
                await becomes(lambda: size_of(folder) < 3 * MIB)
        await becomes(lambda: size_of(folder) < 3 * MIB)
    # what is in the file is whole: moving pages did not mix them up
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.close()


async def test_quota_is_still_reached_after_a_restart(make_store: MakeStore) -> None:
    """What the files take is looked at before the first batch."""
    store = make_store(limits=LIMITS)
    async with store.running():
        await store.register(["a"])
        await fill(store)
    store = make_store(limits=LIMITS)
    async with store.running():
        with pytest.raises(Throttled):
            await store.append(big_batch(1), 0)


async def test_commits_go_on_while_a_file_shrinks(
    make_store: MakeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is appended meanwhile is read back bit by bit."""
    monkeypatch.setattr(shrinking, "STEP_PAGES", 16)
    store = make_store(limits=LIMITS, payload_cache_bytes=0)
    async with store.running():
        await store.register(["a"])
        numbers = await fill(store)
        await store.advance("a", await leave(store, numbers))
        await store.forget(ALL)
        begun = store.space.own.pages
        kept = {}
        for seed in range(1000, 1030):
            kept[await store.append(big_batch(seed, 16), 0)] = big_batch(seed, 16)
        tick = await leave(store, list(kept))
        await becomes(lambda: store.space.own.pages < begun // 4)
        linked = await store.read_tick(tick)
    assert [block.data for block in linked.blocks] == [batch.payload.data for batch in kept.values()]


async def test_files_of_all_processes_count(tmp_path: Path) -> None:
    """A store whose batches lie in two other files is full when these are, and has room when they have."""
    store = ShardedStore(tmp_path / "data", 2, limits=LIMITS)
    async with store.running():
        await store.register(["a"])
        numbers = []
        with pytest.raises(Throttled):
            while True:
                numbers.append(await store.append(big_batch(len(numbers)), 0))
                store.tell_others()
        assert size_of(tmp_path / "data") <= QUOTA
        await store.advance("a", await leave(store, numbers))
        await store.forget(ALL)
        await store.arrivals()
        store.tell_others()
        assert await store.append(big_batch(1), 0)


async def test_file_of_an_earlier_bridge_is_made_over_where_that_is_soon_done(
    make_store: MakeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with little in it gives pages back after its next start; a larger one keeps its size, and works as ever."""
    with monkeypatch.context() as earlier:
        for module in (database, engines):
            earlier.setattr(module, "AUTO_VACUUM", "NONE")
        store = make_store(limits=LIMITS)
        async with store.running():
            await store.register(["a"])
            numbers = [await store.append(big_batch(seed), 0) for seed in range(30)]
            await store.advance("a", await leave(store, numbers))
            await store.forget(ALL)
    size = size_of(folder)
    assert size > 7 * MIB
    with monkeypatch.context() as large:
        large.setattr(database, "COMPACT_UP_TO", 0)
        store = make_store(limits=LIMITS)
        async with store.running():
            number = await store.append(big_batch(1), 0)
            await anyio.wait_all_tasks_blocked()
        assert size_of(folder) >= size
    store = make_store()
    async with store.running():
        assert [stored.number async for stored in store.recover()] == [number]
    assert size_of(folder) < 2 * MIB


async def test_log_is_emptied_once_nothing_is_written(make_store: MakeStore, folder: Path) -> None:
    """A burst leaves no log behind, although the file stays open."""
    store = make_store()
    log = folder / f"{DATABASE_FILE}-wal"
    async with store.running():
        for seed in range(12):
            await store.append(big_batch(seed), 0)
        assert log.stat().st_size > 2 * MIB
        await becomes(lambda: log.stat().st_size == 0)
        assert [stored.number async for stored in store.recover()] == list(range(1, 13))


async def test_examined_store_is_left_as_it_was(make_store: MakeStore, tmp_path: Path) -> None:
    """A store can be looked at while no bridge runs: what waits still waits, and a folder without one is not made."""
    with pytest.raises(ConfigError, match="holds no store"):
        async with make_store().examined():
            pass
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240
    store = make_store()
    async with store.running():
        await store.register(["a"])
        await leave(store, [await store.append(big_batch(1), 0)])
    store = make_store()
    async with store.examined():
        assert await store.cursors() == {"a": 0}
        assert (await store.summary(0, 1)).spans == SPANS
        assert len(await store.read_tick(1)) == SPANS
