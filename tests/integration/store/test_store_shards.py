"""Batches in files of several processes: read by one, dropped by their own, and found again whatever became of them."""

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bridge.component import StoredBatch
from bridge.errors import ConfigError, StoreUnavailable
from bridge.spans import Outcome
from bridge.store import SqliteStore
from bridge.store.ledger import Due
from bridge.store.numbers import OWN, file_of, writer_of
from tests.integration.store.conftest import MakeStore
from tests.support.sharded_store import ShardedStore, ingest_store
from tests.support.stored import assert_linked, assert_same_table, departure_of, random_batch, rows_of

SPANS = 5


async def recovered(store: SqliteStore) -> list[StoredBatch]:
    return [stored async for stored in store.recover()]


def rows_in(path: Path, table: str) -> int:
    """How many rows a table of a file has."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 -- a constant


def named(folder: Path, pattern: str) -> list[str]:
    """Names of the files like this, sorted."""
    return sorted(path.name for path in folder.glob(pattern))


async def append_some(store: SqliteStore, batches: int) -> list[int]:
    """Batches seeded and dated 0, 1, ...; their numbers."""
    return [await store.append(random_batch(seed, SPANS), seed) for seed in range(batches)]


async def test_batches_of_several_processes_come_once_and_as_they_arrived(make_store: MakeStore, folder: Path) -> None:
    """By time of arrival; those of one process in their order, also where its clock went back."""
    store, one, two = make_store(ingest_processes=2), ingest_store(folder, 1), ingest_store(folder, 2)
    async with store.running(), one.running(), two.running():
        first = await one.append(random_batch(1, SPANS), 100)
        second = await two.append(random_batch(2, SPANS), 50)
        third = await one.append(random_batch(3, SPANS), 20)
        arrivals = await store.arrivals()
        assert [arrival.number for arrival in arrivals] == [second, first, third]
        for arrival, seed in zip(arrivals, (2, 1, 3), strict=True):
            assert_same_table(arrival.columns, random_batch(seed, SPANS).columns)
        assert await store.arrivals() == []
        later = await two.append(random_batch(4, SPANS), 200)
        assert [(arrival.number, arrival.arrival_ns) for arrival in await store.arrivals()] == [(later, 200)]
    assert [writer_of(number) for number in (first, second, third, later)] == [1, 2, 1, 2]


async def test_any_other_number_of_processes_finds_everything_again(make_store: MakeStore, folder: Path) -> None:
    """In the order of arrival, with what is known of rows that left; undelivered ticks are read from all files."""
    async with (store := ShardedStore(folder, 3)).running():
        await store.register(["backend"])
        numbers = await append_some(store, 7)
        departure = departure_of(rows_of(*((number, SPANS - 1) for number in numbers)), 1, Outcome.EXPORT)
        tick = await store.commit_tick(departure, 50)
    batches = {number: random_batch(seed, SPANS) for seed, number in enumerate(numbers)}
    for processes in (0, 2, 4):
        async with (store := make_store(ingest_processes=processes)).running():
            found = await recovered(store)
            assert [stored.number for stored in found] == numbers
            for stored in found:
                assert_same_table(stored.columns, batches[stored.number].columns)
                assert stored.left_rows.tolist() == list(range(SPANS - 1))
            assert_linked(await store.read_tick(tick), tick, departure, batches)
            assert await store.arrivals() == []


async def test_nothing_is_forgotten_while_a_process_is_away(folder: Path) -> None:
    """Decisions must not go before the batch they are about: its rows would leave again."""

    async def away(writer: int, _: Due) -> None:
        raise StoreUnavailable(f"process {writer} is away")

    async with (store := ShardedStore(folder, 2)).running():
        numbers = await append_some(store, 2)
        await store.commit_tick(departure_of(rows_of(*((number, SPANS) for number in numbers))), 10)
        store.shards.drop_in_worker = away
        with pytest.raises(StoreUnavailable, match="is away"):
            await store.forget(11)
        assert [stored.left_rows.size for stored in await recovered(store)] == [SPANS, SPANS]
        store.shards.drop_in_worker = store.drop
        assert await store.forget(11) == 2
        assert await recovered(store) == []
    for writer, table in ((1, "batch"), (1, "payload"), (2, "batch"), (2, "payload"), (OWN, "tick")):
        assert rows_in(file_of(folder, writer), table) == 0


async def test_a_crash_between_the_files_leaves_nothing_behind(make_store: MakeStore, folder: Path) -> None:
    """Where batches went and the decisions on them did not, these go later, and nothing leaves twice."""
    async with (store := ShardedStore(folder, 1)).running():
        numbers = await append_some(store, 2)
        await store.commit_tick(departure_of(rows_of(*((number, SPANS) for number in numbers))), 10)
        await store.drop(1, Due(numbers, numbers, []))
    async with (store := make_store()).running():
        assert await recovered(store) == []
        await store.forget(11)
    assert rows_in(file_of(folder, OWN), "tick") == 0


async def test_a_file_whose_process_is_no_more_goes_once_it_is_empty(make_store: MakeStore, folder: Path) -> None:
    """One in which a span still waits stays."""
    async with (store := ShardedStore(folder, 2)).running():
        first, second = await append_some(store, 2)
    async with (store := make_store(ingest_processes=1)).running():
        await store.commit_tick(departure_of(rows_of((second, SPANS), (first, 1))), 10)
    async with (store := make_store()).running():
        assert await store.forget(11) == 1
        assert named(folder, "ingest-*.db") == ["ingest-1.db"]
        assert [stored.number for stored in await recovered(store)] == [first]
        await store.commit_tick(departure_of([(first, row) for row in range(1, SPANS)]), 20)
        assert await store.forget(21) == 1
        assert named(folder, "ingest-*") == []
    async with (store := ShardedStore(folder, 2)).running():
        assert len(set(await append_some(store, 2))) == 2


async def test_a_damaged_file_costs_what_it_held_and_its_numbers_are_not_given_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A number that decisions mention would make a new span one that has left."""
    async with (store := ShardedStore(folder, 2)).running():
        await store.register(["backend"])
        numbers = await append_some(store, 4)
        departure = departure_of(rows_of(*((number, SPANS) for number in numbers)), 1, Outcome.EXPORT)
        tick = await store.commit_tick(departure, 10)
    file_of(folder, 1).write_bytes(b"no database" * 2000)
    async with (store := ShardedStore(folder, 2)).running():
        assert len(await store.read_tick(tick)) == 2 * SPANS
        assert [stored.number for stored in await recovered(store)] == [n for n in numbers if writer_of(n) == 2]
        new = await append_some(store, 2)
        assert max(n for n in numbers if writer_of(n) == 1) < new[0]
    assert len(named(folder, "ingest-1.db.damaged-*")) == 1
    lost = [record.batch for record in caplog.records if record.message.startswith("payload of a batch is damaged")]
    assert lost == [n for n in numbers if writer_of(n) == 1]


async def test_without_the_decisions_what_is_in_other_files_is_decided_again(
    make_store: MakeStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing can be read of the bridge's own file all rows in the others wait: better twice than never."""
    async with (store := ShardedStore(folder, 2)).running():
        numbers = await append_some(store, 2)
        await store.commit_tick(departure_of(rows_of((numbers[0], SPANS)), 1, Outcome.EXPORT), 10)
    file_of(folder, OWN).write_bytes(b"no database" * 2000)
    async with (store := make_store(ingest_processes=1)).running():
        assert [stored.number for stored in await recovered(store)] == numbers
        await store.commit_tick(departure_of(rows_of(*((number, SPANS) for number in numbers))), 20)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert [name.startswith("espan.db") for name in named(folder, "*.damaged-*")] == [True]


async def test_a_process_that_has_the_lock_keeps_the_folder(make_store: MakeStore) -> None:
    """Also when the bridge that gave it to it has ended."""
    async with (store := make_store(ingest_processes=1)).running():
        inherited = os.dup(store.lock_descriptor)
    with pytest.raises(ConfigError, match="in use by another bridge"):
        async with make_store().running():
            pass
    os.close(inherited)
    async with make_store().running():
        pass


async def test_a_process_goes_on_behind_its_own_last_number(make_store: MakeStore, folder: Path) -> None:
    """Also after everything it ever wrote was dropped."""
    async with make_store(ingest_processes=1).running():
        async with (one := ingest_store(folder, 1)).running():
            first = await one.append(random_batch(1, SPANS), 1)
            await one.drop([first], [first])
        async with (one := ingest_store(folder, 1)).running():
            assert await one.append(random_batch(1, SPANS), 1) == first + 1
