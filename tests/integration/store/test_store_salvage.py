"""Of a broken file all is kept that SQLite can read; the file itself is set aside as it is."""

import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bridge.errors import ConfigError, StoreDamaged, StoreUnavailable
from bridge.spans import Departure, Outcome, SpanBatch
from bridge.store import SqliteStore
from bridge.store.engines import PAGE_BYTES
from bridge.store.numbers import DATABASE_FILE, OWN, file_of
from bridge.store.salvage import COPIES, SAVED, SAVING
from bridge.telemetry import Instruments
from tests.integration.store.conftest import MakeStore
from tests.integration.store.test_store_damage import break_page, large_batch
from tests.support.sharded_store import ShardedStore
from tests.support.stored import assert_linked, departure_of, random_batch, rows_of

ROWS = 40
BATCHES = 12
GONE = 5
"""The batch whose payload is broken."""


async def filled(store: SqliteStore) -> tuple[dict[int, SpanBatch], dict[int, Departure]]:
    """Batches 1 to 12, of which the first ten left, two a tick; an exporter has the first two ticks."""
    batches = {number: large_batch(number) for number in range(1, BATCHES + 1)}
    departures = {}
    await store.register(["a", "slow"])
    for number, batch in batches.items():
        assert await store.append(batch, number) == number
    for tick in range(1, 6):
        departures[tick] = departure_of(rows_of((2 * tick - 1, ROWS), (2 * tick, ROWS)), tick, Outcome.EXPORT)
        assert await store.commit_tick(departures[tick], tick) == tick
    await store.advance("a", 2)
    return batches, departures


def names_in(folder: Path) -> list[str]:
    """Names of the files there, sorted."""
    return sorted(path.name for path in folder.iterdir())


def aside(folder: Path) -> list[str]:
    """Names of files that were set aside."""
    return [name for name in names_in(folder) if ".damaged-2" in name]


def overwrite(path: Path, start: int, stop: int) -> bytes:
    """Garbage between two shares, in percent, of a file; what it is then."""
    data = bytearray(path.read_bytes())
    first, last = (len(data) * share // 100 // PAGE_BYTES * PAGE_BYTES for share in (start, stop))
    data[first:last] = b"\xa5" * (last - first)
    path.write_bytes(data)
    return bytes(data)


def content_of(folder: Path) -> dict[str, bytes]:
    """What files hold, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def restore(folder: Path, content: dict[str, bytes]) -> None:
    """Have these files there, and no others."""
    for path in folder.iterdir():
        path.unlink()
    for name, data in content.items():
        (folder / name).write_bytes(data)


def cut(path: Path, share: int) -> None:
    """Leave so many percent of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * share // 100])


def break_map(folder: Path) -> None:
    """Overwrite the page that says what other pages are for: nothing is lost with it, but no page can be freed."""
    with (folder / DATABASE_FILE).open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)


async def recovered(store: SqliteStore) -> dict[int, int]:
    """How many rows of each batch left, by number."""
    return {stored.number: stored.left_rows.size async for stored in store.recover()}


async def test_what_is_readable_beside_a_broken_page_is_taken_over(make_store: MakeStore, folder: Path) -> None:
    """A write that meets the page says that the file is damaged, and nothing is acknowledged on it any more; closing
    saves the rest: batches, decisions, payload, cursors, and numbers."""
    store = make_store(payload_cache_bytes=0)
    async with store.running():
        batches, departures = await filled(store)
    break_page(folder, GONE)
    break_map(folder)
    store = make_store(payload_cache_bytes=0)
    async with store.running():
        assert not store.damaged.is_set()
        for exporter in ("a", "slow"):
            await store.advance(exporter, 5)
        with pytest.raises(StoreUnavailable, match="malformed"):
            await store.forget(1)
        assert store.damaged.is_set()
        assert str(folder / DATABASE_FILE) in store.damage
        with pytest.raises(StoreUnavailable, match="malformed"):
            await store.append(random_batch(1, 1), 1)
    (name,) = aside(folder)
    assert (folder / name).read_bytes()[PAGE_BYTES : 2 * PAGE_BYTES] == b"\xa5" * PAGE_BYTES

    store = make_store(payload_cache_bytes=0)
    async with store.running():
        assert await store.register(["a", "slow"]) == {"a": 5, "slow": 5}
        assert await recovered(store) == dict.fromkeys(range(1, 11), ROWS) | {11: 0, 12: 0}
        assert await store.append(random_batch(1, 1), 1) == BATCHES + 1
        assert await store.commit_tick(departure_of(rows_of((11, ROWS)), 6, Outcome.EXPORT), 6) == 6
        assert_linked(await store.read_tick(6), 6, departure_of(rows_of((11, ROWS)), 6, Outcome.EXPORT), batches)
        assert await store.forget(100) == 10
    assert departures.keys() == {1, 2, 3, 4, 5}


async def test_decisions_on_a_broken_page_are_made_again(make_store: MakeStore, folder: Path) -> None:
    """Whoever asks for them is told that the store is unavailable, and after the salvage their rows wait again."""
    async with (store := make_store()).running():
        await filled(store)
    path = folder / DATABASE_FILE
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tick'").fetchone()
    async with (store := make_store()).running():
        with path.open("r+b") as file:
            file.seek((root - 1) * PAGE_BYTES)
            file.write(b"\xa5" * PAGE_BYTES)
        await store.append(random_batch(1, 1), 1)  # after it what readers know of the file no longer holds
        with pytest.raises(StoreUnavailable, match="malformed"):
            await store.read_tick(3)
        assert store.damaged.is_set()
    async with (store := make_store()).running():
        assert await recovered(store) == dict.fromkeys(range(1, BATCHES + 2), 0)
        await store.register(["a"])
        assert await store.commit_tick(departure_of(rows_of((5, ROWS), (6, ROWS)), 3, Outcome.EXPORT), 9) == 6
        assert len(await store.read_tick(6)) == 2 * ROWS


async def test_counts_that_cannot_be_read_are_made_again_of_the_decisions(make_store: MakeStore, folder: Path) -> None:
    """One flipped bit in what every start reads: the store starts, once and again, and nothing is lost by it."""
    async with (store := make_store()).running():
        batches, departures = await filled(store)
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as connection, connection:
        (counts,) = connection.execute("SELECT counts FROM tick WHERE number = 3").fetchone()
        broken = counts[:4] + bytes([counts[4] ^ 0x80]) + counts[5:]
        connection.execute("UPDATE tick SET counts = ? WHERE number = 3", (broken,))
    for _ in range(2):
        async with (store := make_store()).running():
            assert await recovered(store) == dict.fromkeys(range(1, 11), ROWS) | {11: 0, 12: 0}
            assert_linked(await store.read_tick(3), 3, departures[3], batches)
    assert len(aside(folder)) == 1


async def test_a_broken_log_is_told_and_a_copy_kept(
    make_store: MakeStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was acknowledged and stands behind the damage is not lost in silence."""
    async with (store := make_store()).running():
        await filled(store)
        killed = content_of(folder)
    log = bytearray(killed[f"{DATABASE_FILE}-wal"])
    log[len(log) // 2] ^= 1
    restore(folder, {DATABASE_FILE: killed[DATABASE_FILE], f"{DATABASE_FILE}-wal": bytes(log)})
    async with (store := make_store()).running():
        assert 0 < len(await recovered(store)) < BATCHES
    (told,) = [record for record in caplog.records if "log of a database is damaged" in record.message]
    assert (told.levelname, told.commits > 1) == ("ERROR", True)  # type: ignore[attr-defined]
    assert (folder / told.copy).read_bytes() == log  # type: ignore[attr-defined]


@pytest.mark.parametrize("harm", ["garbage", "cut", "later pages"])
async def test_a_file_that_is_broken_at_the_start_is_salvaged_then_or_when_it_is_met(
    make_store: MakeStore, folder: Path, harm: str
) -> None:
    """Whether opening, recovering or forgetting finds out: two starts later the store works, and has most of it."""
    async with (store := make_store()).running():
        batches, _ = await filled(store)
    path = folder / DATABASE_FILE
    match harm:
        case "garbage":
            overwrite(path, 40, 60)
        case "later pages":
            overwrite(path, 90, 100)
        case _:
            cut(path, 70)
    for _ in range(3):
        store = make_store(payload_cache_bytes=0)
        try:
            async with store.running():
                cursors = await store.register(["a", "slow"])
                found = await recovered(store)
                for exporter in cursors:
                    await store.advance(exporter, await store.last_tick())
                await store.forget(1)
                number = await store.append(random_batch(1, 1), 1)
                assert await store.forget(1000) >= 0
        except (StoreDamaged, StoreUnavailable):
            continue
    assert aside(folder) or harm == "garbage"  # which met payload alone: that costs its batches, and leaves with them
    assert number > len(batches)
    assert len(found) >= 1
    assert not store.damaged.is_set()


async def test_a_broken_log_is_set_aside(make_store: MakeStore, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite would take it for an empty one, and overwrite it without a word."""
    async with (store := make_store()).running():
        await store.append(random_batch(1, 3), 1)
    log = folder / f"{DATABASE_FILE}-wal"
    log.write_bytes(b"\xa5" * 5000)
    async with (store := make_store()).running():
        assert await recovered(store) == {1: 0}
    (name,) = aside(folder)
    assert name.endswith("-wal")
    assert (folder / name).read_bytes() == b"\xa5" * 5000
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_without_room_for_a_new_file_all_is_as_it_was(make_store: MakeStore, folder: Path) -> None:
    """The start fails, says why, and a later one tries again."""
    async with (store := make_store()).running():
        await filled(store)
    path = folder / DATABASE_FILE
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'cursor'")
        connection.commit()
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(ConfigError, match=r"db_path: .* is damaged \(malformed.*\), .* cannot be saved"):
            async with make_store().running():
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert not [name for name in names_in(folder) if SAVING in name]
    async with (store := make_store()).running():
        assert len(await recovered(store)) == BATCHES


async def test_a_salvage_that_was_interrupted_at_its_end_is_finished(make_store: MakeStore, folder: Path) -> None:
    """The new file was whole, and the old one may be out of the way already."""
    async with (store := make_store()).running():
        await filled(store)
    path = folder / DATABASE_FILE
    path.rename(path.with_name(path.name + SAVED))
    path.write_bytes(b"broken")
    async with (store := make_store()).running():
        assert len(await recovered(store)) == BATCHES
    assert [(folder / name).read_bytes() for name in aside(folder)] == [b"broken"]


async def test_a_file_of_an_ingest_process_is_salvaged_too(folder: Path) -> None:
    """Its process says that it is damaged; what is readable is there after the next start."""
    async with (store := ShardedStore(folder, 1)).running():
        numbers = [await store.append(large_batch(seed), seed) for seed in range(1, 7)]
    path = file_of(folder, 1)
    overwrite(path, 80, 90)
    async with (store := ShardedStore(folder, 1)).running():
        store.declare_damaged(1, "said so")
        assert store.damaged.is_set()
    async with (store := ShardedStore(folder, 1)).running():
        found = await recovered(store)
        assert found.keys() <= set(numbers)
        assert found
        assert await store.append(large_batch(9), 9) == numbers[-1] + 1
    assert [name.startswith("ingest-1.db") for name in aside(folder)] == [True]


async def test_a_damaged_batch_leaves_and_a_copy_of_it_stays(make_store: MakeStore, folder: Path) -> None:
    """It is given up at the start that finds it, counted, dropped like any other, and not met again."""
    async with (store := make_store()).running():
        for seed in (1, 2):
            await store.append(random_batch(seed, 7), seed)
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as connection:
        connection.execute("UPDATE batch SET columns = zeroblob(100) WHERE number = 1")
        connection.commit()
    store = make_store(instruments=(instruments := Instruments()))
    async with store.running():
        assert await recovered(store) == {2: 0}
        assert instruments.lost_spans.take()[(("reason", "damaged_batch"),)] == 7
        assert await store.forget(0) == 1
        assert await recovered(store) == {2: 0}
        assert instruments.lost_spans.take() == {}
    with closing(sqlite3.connect(folder / f"{DATABASE_FILE}{COPIES}")) as connection:
        assert connection.execute("SELECT number, spans FROM batch").fetchall() == [(1, 7)]
        assert connection.execute("SELECT batch FROM payload").fetchall() == [(1,)]
    assert file_of(folder, OWN).exists()


async def test_without_cursors_everything_is_delivered_again(make_store: MakeStore, folder: Path) -> None:
    """Nobody knows what an exporter has: better twice than never. One that is new from then on begins with news."""
    async with (store := make_store()).running():
        await filled(store)
    path = folder / DATABASE_FILE
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'cursor'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)
    async with (store := make_store()).running():
        assert await store.register(["a"]) == {"a": 0}
        assert await store.next_tick(0) == 1
        await store.advance("a", 4)
        assert await store.register(["a", "new"]) == {"a": 4, "new": 5}
