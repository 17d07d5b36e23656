"""What earlier versions of the bridge left is taken over."""

import sqlite3
from pathlib import Path

from bridge.spans import Outcome
from bridge.store import tables
from bridge.store.numbers import DATABASE_FILE
from bridge.store.packing import decompress_all
from tests.integration.store.conftest import MakeStore
from tests.support.old_rows import old_payload, repacked
from tests.support.stored import assert_linked, assert_same_table, departure_of, random_batch, rows_of


def as_version_1(folder: Path, payloads: dict[int, bytes]) -> None:
    """Make of a stopped store's file what version 1 would have written."""
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        for table, number, column in (("batch", "number", "columns"), ("tick", "number", "departure")):
            rows = connection.execute(f"SELECT {number}, {column} FROM {table}").fetchall()  # noqa: S608 -- names of ours
            update = f"UPDATE {table} SET {column} = ? WHERE {number} = ?"  # noqa: S608
            connection.executemany(update, [(repacked(packed), key) for key, packed in rows])
        connection.executemany(
            "UPDATE payload SET data = ? WHERE batch = ?", [(packed, key) for key, packed in payloads.items()]
        )
        connection.execute("UPDATE espan_store SET version = 1")
    connection.close()


async def test_ticks_that_do_not_say_how_many_spans_they_hold_are_counted(make_store: MakeStore, folder: Path) -> None:
    """Those an earlier bridge wrote, if somebody has not delivered them yet; what is undelivered can be told then."""
    store = make_store()
    async with store.running():
        await store.register(["a"])
        await store.append(random_batch(1, 9), 1)
        await store.commit_tick(departure_of(rows_of((1, 4)), 1, Outcome.EXPORT), 1)
        await store.commit_tick(departure_of([(1, 4), (1, 5)], 2, Outcome.SAMPLED_OUT), 2)
        await store.commit_tick(departure_of([(1, 6), (1, 7), (1, 8)], 3, Outcome.PASS), 3)
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        counts = connection.execute("SELECT number, counts FROM tick").fetchall()
        connection.executemany("UPDATE tick SET counts = ? WHERE number = ?", [(c[:-4], n) for n, c in counts])
    connection.close()
    store = make_store()
    async with store.running():
        spans = [(await store.summary(tick, tick + 1)).spans for tick in range(3)]
        assert spans == [4, 0, 3]
        assert [stored.left_rows.size async for stored in store.recover()] == [9]


async def test_a_store_of_version_1_is_taken_over(make_store: MakeStore, folder: Path) -> None:
    """Its batches, decisions and payload are read as they are, beside what is written from now on; the version says
    that an earlier bridge cannot read the file any more."""
    batches = {seed: random_batch(seed, 9) for seed in (1, 2, 3)}
    first = departure_of(rows_of((1, 9)), 1, Outcome.EXPORT)
    store = make_store()
    async with store.running():
        await store.register(["a"])
        for number in (1, 2):
            assert await store.append(batches[number], number) == number
        assert await store.commit_tick(first, 1) == 1
    as_version_1(folder, {number: old_payload(batches[number].payload) for number in (1, 2)})

    store = make_store()
    async with store.running():
        assert await store.append(batches[3], 3) == 3
        found = {stored.number: stored async for stored in store.recover()}
        assert found.keys() == batches.keys()
        for number, stored in found.items():
            assert_same_table(stored.columns, batches[number].columns)
        assert found[1].left_rows.tolist() == list(range(9))
        assert_linked(await store.read_tick(1), 1, first, batches)
        second = departure_of(rows_of((2, 9), (3, 9)), 2, Outcome.EXPORT)
        assert_linked(await store.read_tick(await store.commit_tick(second, 2)), 2, second, batches)
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        assert connection.execute("SELECT version FROM espan_store").fetchall() == [(tables.STORE_VERSION,)]
        (packed,) = connection.execute("SELECT columns FROM batch WHERE number = 3").fetchone()
        assert len(decompress_all(packed)) == 1
    connection.close()
