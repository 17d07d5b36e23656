"""What is kept in memory beside the file, and for how long."""

import sqlite3
from pathlib import Path

import pytest

from bridge.store.cache import block_bytes
from bridge.store.numbers import DATABASE_FILE
from tests.integration.store.conftest import MakeStore
from tests.support.stored import departure_of, random_batch, rows_of


def lose_payloads(folder: Path) -> None:
    """Delete all payload in the file: from now on only what is in memory can be read."""
    connection = sqlite3.connect(folder / DATABASE_FILE)
    with connection:
        assert connection.execute("DELETE FROM payload").rowcount > 0
    connection.close()


async def test_exporters_share_what_one_of_them_read(make_store: MakeStore) -> None:
    """A tick is read once for several exporters, and let go of when all of them have passed it."""
    store = make_store()
    async with store.running():
        await store.register(["a", "b"])
        number = await store.append(random_batch(1, 9), 0)
        tick = await store.commit_tick(departure_of(rows_of((number, 9))), 1)
        first = await store.read_tick(tick)
        await store.advance("a", tick)
        assert await store.read_tick(tick) is first
        await store.advance("b", tick)
        assert await store.read_tick(tick) is not first


async def test_one_exporter_keeps_no_tick(make_store: MakeStore) -> None:
    """There is nobody else to read it."""
    store = make_store()
    async with store.running():
        await store.register(["a"])
        tick = await store.commit_tick(departure_of([]), 1)
        assert await store.read_tick(tick) is not await store.read_tick(tick)


@pytest.mark.parametrize("delivered", [True, False])
async def test_delivered_payload_makes_room_for_new(make_store: MakeStore, folder: Path, delivered: bool) -> None:
    """New payload is kept in memory where there is room, which what all exporters have passed gives back."""
    batch = random_batch(1, 9)
    store = make_store(payload_cache_bytes=block_bytes(batch.payload))
    async with store.running():
        await store.register(["a"])
        first = await store.append(batch, 0)
        tick = await store.commit_tick(departure_of(rows_of((first, 9))), 1)
        if delivered:
            await store.advance("a", tick)
        second = await store.append(batch, 0)
        tick = await store.commit_tick(departure_of(rows_of((second, 9))), 1)
        lose_payloads(folder)
        if delivered:
            assert (await store.read_tick(tick)).blocks
        else:
            assert not (await store.read_tick(tick)).blocks


@pytest.mark.parametrize("leaving", [4, 9])
async def test_payload_that_was_read_is_kept_while_rows_of_it_wait(
    make_store: MakeStore, folder: Path, leaving: int
) -> None:
    """A batch that leaves in two ticks is read from the file once; one that has left as a whole takes no memory."""
    store = make_store()
    async with store.running():  # a start finds nothing in memory
        await store.register(["a"])
        number = await store.append(random_batch(1, 9), 0)
    store = make_store()
    async with store.running():
        await store.register(["a"])
        assert [stored.number async for stored in store.recover()] == [number]
        rows = rows_of((number, 9))
        tick = await store.commit_tick(departure_of(rows[:leaving]), 1)
        assert (await store.read_tick(tick)).blocks
        lose_payloads(folder)
        assert bool((await store.read_tick(tick)).blocks) == (leaving < 9)


async def test_payload_of_a_tick_that_is_read_again_is_kept(make_store: MakeStore, folder: Path) -> None:
    """A backend that does not take a tick has it read again and again; the file is asked twice."""
    store = make_store()
    async with store.running():
        await store.register(["a"])
        number = await store.append(random_batch(1, 9), 0)
        tick = await store.commit_tick(departure_of(rows_of((number, 9))), 1)
    store = make_store()
    async with store.running():  # a start finds nothing in memory
        for _ in range(2):
            assert (await store.read_tick(tick)).blocks
        lose_payloads(folder)
        assert (await store.read_tick(tick)).blocks


@pytest.mark.parametrize("others", [0, 8])
async def test_new_payload_takes_no_room_among_far_too_much(make_store: MakeStore, folder: Path, others: int) -> None:
    """Where what waits is many times what memory is for, new payload is not kept: hardly any would be found."""
    batch = random_batch(1, 9)
    store = make_store(payload_cache_bytes=block_bytes(batch.payload))
    async with store.running():
        await store.register(["a"])
        first = await store.append(batch, 0)
        for _ in range(others):
            await store.append(batch, 0)
        await store.advance("a", await store.commit_tick(departure_of(rows_of((first, 9))), 1))
        last = await store.append(batch, 0)
        tick = await store.commit_tick(departure_of(rows_of((last, 9))), 1)
        lose_payloads(folder)
        assert bool((await store.read_tick(tick)).blocks) == (not others)
