"""Single broken rows and pages cost what they held, are told, and nothing else."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from bridge.spans import Departure, Outcome, PayloadBlock, SpanBatch
from bridge.store.engines import PAGE_BYTES
from bridge.store.numbers import DATABASE_FILE
from tests.integration.store.conftest import MakeStore
from tests.support.stored import assert_linked, departure_of, random_batch, rows_of


async def batches_that_left(make_store: MakeStore) -> tuple[dict[int, SpanBatch], dict[int, Departure]]:
    """A stopped store with batches 1 and 2, which left whole and together in tick 1, and 3, in tick 2."""
    batches = {number: large_batch(number) for number in (1, 2, 3)}
    departures = {
        1: departure_of(rows_of((1, 40), (2, 40)), 1, Outcome.EXPORT),
        2: departure_of(rows_of((3, 40)), 2, Outcome.EXPORT),
    }
    store = make_store()
    async with store.running():
        await store.register(["slow"])
        for number, batch in batches.items():
            assert await store.append(batch, number) == number
        for tick, departure in departures.items():
            assert await store.commit_tick(departure, tick) == tick
    return batches, departures


def large_batch(seed: int) -> SpanBatch:
    """40 spans of 5 kB that nothing packs: its row takes a chain of pages."""
    batch, size = random_batch(seed, 40), 5000
    payload = batch.payload
    data = np.random.default_rng(seed).bytes(40 * size)
    offsets = np.arange(41, dtype=np.int64) * size
    return SpanBatch(batch.columns, PayloadBlock(payload.format, data, offsets, payload.contexts, payload.context))


def break_row(folder: Path, statement: str) -> None:
    """Run a statement on the stopped store's file."""
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


def break_page(folder: Path, batch: int) -> None:
    """Break the chain of pages of a batch's payload."""
    path = folder / DATABASE_FILE
    with sqlite3.connect(path) as connection:
        packed = connection.execute("SELECT data FROM payload WHERE batch = ?", (batch,)).fetchone()[0]
    connection.close()
    data = bytearray(path.read_bytes())
    at = data.index(packed[100_000:100_100]) // PAGE_BYTES * PAGE_BYTES
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["row", "page"])
async def test_damaged_payload_costs_its_own_batch(
    make_store: MakeStore, folder: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The other spans of the tick leave; how many do not is told."""
    batches, departures = await batches_that_left(make_store)
    if kind == "row":
        break_row(folder, "UPDATE payload SET data = substr(data, 1, length(data) - 9) WHERE batch = 1")
    else:
        break_page(folder, 1)
    store = make_store()
    async with store.running():
        found = await store.read_tick(1)
        assert_linked(await store.read_tick(2), 2, departures[2], batches)
    assert found.decisions.span_id.tolist() == departures[1].decisions.span_id[40:].tolist()
    assert [block.data for block in found.blocks] == [batches[2].payload.data]
    told = [(r.levelname, r.batch, r.spans) for r in caplog.records]
    assert told == [("ERROR", 1, 40)]


async def test_damaged_decisions_cost_their_tick(
    make_store: MakeStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tick is empty then, so that an exporter gets past it; batches of which is not known what left are not
    recovered, as they would leave twice."""
    batches, departures = await batches_that_left(make_store)
    break_row(folder, "UPDATE tick SET departure = substr(departure, 1, 30) WHERE number = 1")
    store = make_store()
    async with store.running():
        assert len(await store.read_tick(1)) == 0
        assert_linked(await store.read_tick(2), 2, departures[2], batches)
        assert [stored.number async for stored in store.recover()] == [3]
    assert [(r.levelname, getattr(r, "tick", None), getattr(r, "batch", None)) for r in caplog.records] == [
        ("ERROR", 1, None),
        ("ERROR", None, 1),
        ("ERROR", None, 2),
    ]


async def test_damaged_columns_cost_their_batch(
    make_store: MakeStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not recovered; what of it was decided before still leaves."""
    batches, departures = await batches_that_left(make_store)
    break_row(folder, "UPDATE batch SET columns = zeroblob(100) WHERE number = 2")
    store = make_store()
    async with store.running():
        assert [stored.number async for stored in store.recover()] == [1, 3]
        assert_linked(await store.read_tick(1), 1, departures[1], batches)
    assert [(r.levelname, r.batch, r.spans) for r in caplog.records] == [("ERROR", 2, 40)]


@pytest.mark.parametrize("kind", ["row", "page", "decisions"])
async def test_a_preview_of_what_is_damaged_tells_nobody(
    make_store: MakeStore, folder: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Whoever looks is refused; what is lost is told by the exporter that comes upon it, and once."""
    batches, departures = await batches_that_left(make_store)
    if kind == "page":
        break_page(folder, 1)
    elif kind == "row":
        break_row(folder, "UPDATE payload SET data = substr(data, 1, length(data) - 9) WHERE batch = 1")
    else:
        break_row(folder, "UPDATE tick SET departure = substr(departure, 1, 30) WHERE number = 1")
    store = make_store()
    async with store.running():
        with pytest.raises(LookupError):
            await store.preview_tick(1, 1000)
        assert_linked(await store.preview_tick(2, 1000), 2, departures[2], batches)
        assert caplog.records == []
        await store.read_tick(1)
    assert len(caplog.records) == 1
