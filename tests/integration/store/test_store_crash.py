"""What was acknowledged survives kill -9."""

import itertools

from bridge.spans import Departure, Outcome, SpanBatch
from tests.integration.store.conftest import MakeStore, StartChild
from tests.support.store_child import spans_of
from tests.support.stored import assert_linked, assert_same_table, departure_of, random_batch, rows_of

LINES = 400


async def test_acknowledged_writes_survive_kill(make_store: MakeStore, start_child: StartChild) -> None:
    """A process that appends and commits ticks in many tasks is killed in the middle: every batch and every tick whose
    call had returned is found again, bit by bit, and the next numbers are larger."""
    with start_child("write") as child:
        assert child.stdout is not None
        lines = [line.split() for line in itertools.islice(child.stdout, LINES)]
        child.kill()
        lines += [line.split() for line in child.stdout if line.endswith("\n")]
    assert len(lines) >= LINES
    batches = {int(words[1]): int(words[2]) for words in lines if words[0] == "batch"}
    ticks = {int(words[1]): (int(words[2]), words[3]) for words in lines if words[0] == "tick"}
    payloads: dict[int, SpanBatch] = {number: random_batch(seed, spans_of(seed)) for number, seed in batches.items()}
    departures: dict[int, Departure] = {}
    for tick, (seed, numbers) in ticks.items():
        rows = rows_of(*((number, len(payloads[number])) for number in map(int, numbers.split(","))))
        departures[tick] = departure_of(rows, seed)

    store = make_store()
    async with store.running():
        found = {stored.number: stored async for stored in store.recover()}
        assert batches.keys() <= found.keys()
        for number, seed in batches.items():
            assert found[number].arrival_ns == seed
            assert_same_table(found[number].columns, payloads[number].columns)
        for tick, departure in departures.items():
            assert_linked(await store.read_tick(tick), tick, departure, payloads)
            for number in set(departure.batch.tolist()):
                assert found[number].left_rows.tolist() == list(range(len(payloads[number])))
        waiting = [number for number in batches if len(payloads[number]) and not found[number].left_rows.size]
        rest = departure_of(rows_of(*((number, len(payloads[number])) for number in waiting)), 1, Outcome.EXPORT)
        last = await store.commit_tick(rest, 1)
        assert last > max(ticks)
        assert_linked(await store.read_tick(last), last, rest, payloads)
        assert await store.append(random_batch(0, 1), 0) > max(found)
