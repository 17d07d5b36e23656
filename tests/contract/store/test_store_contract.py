"""What every SpanStore promises; see bridge/component/store.py."""

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from bridge.component import SpanStore, StoredBatch, TickSummary
from bridge.errors import StoreUnavailable
from bridge.spans import Departure, LinkedSpans, Outcome, SpanBatch
from tests.support.stored import assert_linked, assert_same_table, departure_of, random_batch, rows_of, with_traces

MakeStore = Callable[[], SpanStore]


async def recovered(store: SpanStore) -> dict[int, StoredBatch]:
    """Everything the store recovers, by number; in ascending order."""
    found = [stored async for stored in store.recover()]
    numbers = [stored.number for stored in found]
    assert numbers == sorted(set(numbers))
    return dict(zip(numbers, found, strict=True))


def leaving(*batches: tuple[int, int], seed: int = 1) -> Departure:
    """Every row of these (number, spans) leaves."""
    return departure_of(rows_of(*batches), seed)


async def test_batch_is_recovered_after_a_restart(make_store: MakeStore) -> None:
    """What append returned from is there again: number, time of arrival, every column bit by bit."""
    batches = [random_batch(seed, n) for seed, n in enumerate((1, 0, 700))]
    store = make_store()
    async with store.running():
        numbers = [await store.append(batch, 10 + i) for i, batch in enumerate(batches)]
    store = make_store()
    async with store.running():
        found = await recovered(store)
    assert list(found) == numbers
    for i, (number, batch) in enumerate(zip(numbers, batches, strict=True)):
        assert found[number].arrival_ns == 10 + i
        assert found[number].left_rows.size == found[number].left_ns.size == len(found[number].decisions) == 0
        assert_same_table(found[number].columns, batch.columns)


async def test_recovery_tells_which_rows_left_when_and_how(make_store: MakeStore) -> None:
    """A recovered batch carries the rows that left, tick by tick, each with its time and its decision."""
    store = make_store()
    async with store.running():
        first, second = [await store.append(random_batch(seed, 3), 0) for seed in (1, 2)]
        departures = [departure_of([(first, 2), (second, 0)], 1), departure_of([(second, 2), (first, 0)], 2)]
        for left_ns, departure in enumerate(departures, 100):
            await store.commit_tick(departure, left_ns)
    store = make_store()
    async with store.running():
        found = await recovered(store)
    assert found[first].left_rows.tolist() == [2, 0]
    assert found[second].left_rows.tolist() == [0, 2]
    assert found[first].left_ns.tolist() == found[second].left_ns.tolist() == [100, 101]
    assert found[first].decisions.span_id.tolist() == [
        int(departures[0].decisions.span_id[0]),
        int(departures[1].decisions.span_id[1]),
    ]
    assert_same_table(found[second].decisions.take([0]), departures[0].decisions.take([1]))


async def test_numbers_grow_whatever_was_forgotten(make_store: MakeStore) -> None:
    """Batches and ticks get larger numbers than any before, also after everything was dropped and a restart."""
    store = make_store()
    async with store.running():
        number = await store.append(random_batch(1, 2), 0)
        tick = await store.commit_tick(leaving((number, 2)), 1)
        assert await store.forget(2) == 1
    store = make_store()
    async with store.running():
        assert await recovered(store) == {}
        assert await store.last_tick() == tick
        later = await store.append(random_batch(2, 1), 0)
        assert later > number
        assert await store.commit_tick(leaving((later, 1)), 3) > tick


async def test_writes_happen_in_the_order_of_the_calls(make_store: MakeStore) -> None:
    """Of appends that are called one after another and run at once, the earlier has the smaller number."""
    store = make_store()
    numbers: dict[int, int] = {}

    async def append(position: int) -> None:
        numbers[position] = await store.append(random_batch(position, 1), position)

    async with store.running():
        async with anyio.create_task_group() as tasks:
            for position in range(40):
                tasks.start_soon(append, position)
        found = await recovered(store)
    assert [found[numbers[position]].arrival_ns for position in range(40)] == list(range(40))
    assert sorted(numbers.values()) == [numbers[position] for position in range(40)]


async def test_tick_is_read_with_its_payload(make_store: MakeStore) -> None:
    """A tick gives the rows to be exported, in the departure's order, with payload, decisions and links; it does so
    from a store that wrote it as from one that was started later."""
    batches: dict[int, SpanBatch] = {}
    store = make_store()
    async with store.running():
        await store.register(["one"])
        for seed, n in enumerate((40, 300, 1)):
            batch = random_batch(seed, n)
            batches[await store.append(batch, 0)] = batch
        rows = rows_of(*((number, len(batch)) for number, batch in batches.items()))
        departures = [departure_of(rows[5:120][::-1], 1), departure_of(rows[:5] + rows[120:], 2)]
        ticks = [await store.commit_tick(departure, 1) for departure in departures]
        for tick, departure in zip(ticks, departures, strict=True):
            assert_linked(await store.read_tick(tick), tick, departure, batches)
    store = make_store()
    async with store.running():
        for tick, departure in zip(ticks, departures, strict=True):
            assert_linked(await store.read_tick(tick), tick, departure, batches)


async def test_many_batches_come_back(make_store: MakeStore) -> None:
    """More batches and ticks than are read at once: all are recovered, and a tick over all of them is read whole."""
    batches: dict[int, SpanBatch] = {}
    store = make_store()
    async with store.running():
        await store.register(["one"])
        for seed in range(75):
            batch = random_batch(seed, 2)
            number = await store.append(batch, seed)
            batches[number] = batch
            await store.commit_tick(departure_of([(number, 1)], seed), seed)
        departure = departure_of([(number, 0) for number in batches][::-1], 1)
        tick = await store.commit_tick(departure, 100)
    store = make_store()
    async with store.running():
        found = await recovered(store)
        assert_linked(await store.read_tick(tick), tick, departure, batches)
    assert {number: stored.left_ns.tolist() for number, stored in found.items()} == {
        number: [seed, 100] for seed, number in enumerate(batches)
    }


async def test_tick_is_the_same_for_everyone_who_reads_it(make_store: MakeStore) -> None:
    """Several exporters that read at once, or one after the other, get equal spans; so do those left when one of them
    is cancelled."""
    batch = random_batch(1, 50)
    store = make_store()
    found = []

    async def read(tick: int) -> None:
        found.append(await store.read_tick(tick))

    async with store.running():
        await store.register(["a", "b"])
        number = await store.append(batch, 0)
        departure = leaving((number, 50))
        tick = await store.commit_tick(departure, 1)
        async with anyio.create_task_group() as tasks:
            given_up = anyio.CancelScope()
            with given_up:
                async with anyio.create_task_group() as first:
                    first.start_soon(read, tick)
                    for _ in range(3):
                        tasks.start_soon(read, tick)
                    await anyio.lowlevel.checkpoint()
                    given_up.cancel()
        await read(tick)
    assert len(found) >= 4
    for linked in found:
        assert_linked(linked, tick, departure, {number: batch})


async def test_empty_tick_is_a_tick(make_store: MakeStore) -> None:
    """A departure without rows is committed, counted and read as any other."""
    store = make_store()
    async with store.running():
        await store.register(["one"])
        tick = await store.commit_tick(departure_of([]), 1)
        assert await store.last_tick() == tick
        assert await store.next_tick(0) == tick
        assert len(await store.read_tick(tick)) == 0


async def test_ticks_are_walked_in_order(make_store: MakeStore) -> None:
    """`next_tick` goes through the ticks after a number, `last_tick` names the newest; 0 and None without any."""
    store = make_store()
    async with store.running():
        await store.register(["one"])
        assert await store.last_tick() == 0
        assert await store.next_tick(0) is None
        ticks = [await store.commit_tick(departure_of([]), i) for i in range(3)]
        walked, at = [], 0
        while (following := await store.next_tick(at)) is not None:
            walked.append(following)
            at = following
    assert walked == ticks
    assert at == ticks[-1]


async def test_more_rows_than_wait_cannot_leave(make_store: MakeStore) -> None:
    """A tick that names an unknown batch, or more rows of one than wait in it, is refused and leaves nothing."""
    store = make_store()
    async with store.running():
        number = await store.append(random_batch(1, 2), 0)
        for rows in ([(number + 1, 0)], [(number, 0), (number, 1), (number, 2)]):
            with pytest.raises(ValueError, match="batch"):
                await store.commit_tick(departure_of(rows), 1)
        assert await store.last_tick() == 0
        assert (await recovered(store))[number].left_rows.size == 0


async def test_new_exporter_begins_at_the_newest_tick(make_store: MakeStore) -> None:
    """Registering makes a cursor at the newest tick where there is none, keeps those there are, forgets the others."""
    store = make_store()
    async with store.running():
        assert await store.register(["a", "b"]) == {"a": 0, "b": 0}
        tick = await store.commit_tick(departure_of([]), 1)
        await store.advance("b", tick)
        assert await store.register(["a", "c"]) == {"a": 0, "c": tick}
        newer = await store.commit_tick(departure_of([]), 1)
    store = make_store()
    async with store.running():
        assert await store.register(["a", "b", "c"]) == {"a": 0, "b": newer, "c": tick}


async def test_cursor_survives_and_never_goes_back(make_store: MakeStore) -> None:
    """An advance is kept; an earlier one that comes late changes nothing."""
    store = make_store()
    async with store.running():
        await store.register(["a"])
        ticks = [await store.commit_tick(departure_of([]), 1) for _ in range(3)]
        await store.advance("a", ticks[1])
        await store.advance("a", ticks[1])
        await store.advance("a", ticks[0])
    store = make_store()
    async with store.running():
        assert await store.register(["a"]) == {"a": ticks[1]}


async def test_advance_wants_a_known_exporter_and_an_existing_tick(make_store: MakeStore) -> None:
    """A cursor that is not there, or that would pass what is not there yet, is a mistake of the caller."""
    store = make_store()
    async with store.running():
        await store.register(["a"])
        with pytest.raises(ValueError, match="b"):
            await store.advance("b", 0)
        with pytest.raises(ValueError, match="a"):
            await store.advance("a", 1)


async def test_payload_stays_until_every_cursor_has_passed(make_store: MakeStore) -> None:
    """However old it is: a tick that one exporter has not delivered can be read, and none of its batches goes."""
    batch = random_batch(1, 8)
    store = make_store()
    async with store.running():
        await store.register(["quick", "slow"])
        number = await store.append(batch, 0)
        departure = leaving((number, 8))
        tick = await store.commit_tick(departure, 1)
        await store.advance("quick", tick)
        assert await store.forget(1 << 60) == 0
        assert_linked(await store.read_tick(tick), tick, departure, {number: batch})
    store = make_store()
    async with store.running():
        assert await store.forget(1 << 60) == 0
        assert_linked(await store.read_tick(tick), tick, departure, {number: batch})
        await store.advance("slow", tick)
        assert await store.forget(1 << 60) == 1
        with pytest.raises(LookupError):
            await store.read_tick(tick)


async def test_payload_stays_until_every_row_has_left(make_store: MakeStore) -> None:
    """Rows that wait keep the payload of their whole batch."""
    batch = random_batch(1, 2)
    store = make_store()
    async with store.running():
        await store.register(["a"])
        number = await store.append(batch, 0)
        await store.advance("a", await store.commit_tick(departure_of([(number, 0)]), 1))
        assert await store.forget(1 << 60) == 0
        departure = departure_of([(number, 1)], 3)
        tick = await store.commit_tick(departure, 1)
        assert_linked(await store.read_tick(tick), tick, departure, {number: batch})


async def test_keys_stay_until_all_rows_left_long_ago(make_store: MakeStore) -> None:
    """With its payload gone a batch is still recovered, with its decisions, until every row left before the limit."""
    store = make_store()
    async with store.running():
        number = await store.append(random_batch(1, 2), 0)
        await store.commit_tick(departure_of([(number, 1)], 1), 100)
        late = departure_of([(number, 0)], 2)
        await store.commit_tick(late, 200)
        assert await store.forget(150) == 0
        assert await store.forget(200) == 0
    store = make_store()
    async with store.running():
        stored = (await recovered(store))[number]
        assert stored.left_rows.tolist() == [1, 0]
        assert_same_table(stored.decisions.take([1]), late.decisions)
        assert await store.forget(200) == 0
        assert await store.forget(201) == 1
        assert await store.forget(201) == 0
        assert await recovered(store) == {}


async def test_forgotten_batch_leaves_its_neighbours(make_store: MakeStore) -> None:
    """A tick that two batches share tells of the younger one as long as that is kept, also after a restart."""
    store = make_store()
    async with store.running():
        old, young = await store.append(random_batch(1, 1), 0), await store.append(random_batch(2, 2), 0)
        shared = departure_of([(young, 1), (old, 0)], 1)
        await store.commit_tick(shared, 100)
        await store.commit_tick(departure_of([(young, 0)], 2), 200)
        assert await store.forget(150) == 1
    store = make_store()
    async with store.running():
        found = await recovered(store)
        assert list(found) == [young]
        assert found[young].left_rows.tolist() == [1, 0]
        assert_same_table(found[young].decisions.take([0]), shared.decisions.take([0]))
        assert await store.forget(300) == 1


async def test_summary_tells_what_ticks_hold(make_store: MakeStore) -> None:
    """Ticks after one and up to another: how many, spans of them that are exported, and when the oldest left; what is
    not stored holds nothing. The same after a restart."""
    store = make_store()
    async with store.running():
        await store.register(["a"])
        number = await store.append(random_batch(1, 12), 0)
        for tick, outcome in enumerate((Outcome.EXPORT, Outcome.SAMPLED_OUT, Outcome.PASS), 1):
            departure = departure_of([(number, 4 * tick - 4 + row) for row in range(4)], tick, outcome)
            assert await store.commit_tick(departure, 100 * tick) == tick

    async def check() -> None:
        assert await store.summary(0, 3) == TickSummary(3, 8, 100)
        assert await store.summary(1, 3) == TickSummary(2, 4, 200)
        assert await store.summary(1, 2) == TickSummary(1, 0, 200)
        assert await store.summary(2, 99) == TickSummary(1, 4, 300)
        assert await store.summary(3, 3) == await store.summary(3, 1 << 60) == TickSummary(0, 0, None)

    async with store.running():
        await check()
    store = make_store()
    async with store.running():
        await check()


async def test_tick_before_goes_no_further_than_a_younger_one(make_store: MakeStore) -> None:
    """The newest tick such that it and all between left before a time, also where a clock went back meanwhile."""
    store = make_store()
    async with store.running():
        await store.register(["a"])
        for left_ns in (10, 20, 90, 30):
            await store.commit_tick(departure_of([]), left_ns)
        wanted = {10: 0, 11: 1, 21: 2, 90: 2, 91: 4}
        assert {ns: await store.tick_before(ns, after=0) for ns in wanted} == wanted
        assert [await store.tick_before(25, after=after) for after in (1, 2, 3, 4)] == [2, 2, 3, 4]
        assert await store.tick_before(31, after=3) == 4


async def test_cursors_are_those_of_registered_exporters(make_store: MakeStore) -> None:
    """Each with the tick up to which it has delivered, also in a store that was opened without registering anybody."""
    store = make_store()
    async with store.running():
        assert await store.cursors() == {}
        await store.register(["a", "b"])
        tick = await store.commit_tick(departure_of([]), 1)
        await store.advance("b", tick)
        assert await store.cursors() == {"a": 0, "b": tick}
    store = make_store()
    async with store.running():
        assert await store.cursors() == {"a": 0, "b": tick}


async def test_closed_store_refuses_writes(make_store: MakeStore) -> None:
    """A write before the start or after the end is StoreUnavailable, and not a wait for ever."""
    store = make_store()
    with pytest.raises(StoreUnavailable):
        await store.append(random_batch(1, 1), 0)
    async with store.running():
        pass
    for write in (store.append(random_batch(1, 1), 0), store.forget(0), store.register([]), store.advance("a", 0)):
        with pytest.raises(StoreUnavailable):
            await write


async def previewed(store: SpanStore, most: int, *sizes: int) -> tuple[LinkedSpans, Departure, dict[int, SpanBatch]]:
    """What is seen of a tick of four batches, its rows in traces of these sizes; the store keeps it."""
    batches = {}
    for seed in range(4):
        batch = random_batch(seed, 5)
        batches[await store.append(batch, 0)] = batch
    departure = departure_of(rows_of(*((number, 5) for number in batches)), 3, Outcome.EXPORT)
    departure = with_traces(departure, sizes)
    await store.register(["slow"])
    tick = await store.commit_tick(departure, 1)
    return await store.preview_tick(tick, most), departure, batches


@pytest.mark.parametrize(
    ("most", "seen"), [(0, 0), (1, 1), (2, 2), (5, 3), (6, 6), (7, 6), (12, 6), (13, 13), (19, 13), (20, 20), (99, 20)]
)
async def test_a_preview_has_the_first_traces(make_store: MakeStore, most: int, seen: int) -> None:
    """Whole ones as far as they fit, here of 3, 3 and 7 spans and the rest; part of the first where it is larger."""
    store = make_store()
    async with store.running():
        found, departure, batches = await previewed(store, most, 3, 3, 7)
        assert_linked(found, found.tick, departure, batches, range(seen))


async def test_a_preview_changes_nothing(make_store: MakeStore) -> None:
    """The whole tick is there for exporters afterwards, also when only the stored payload is left of it."""
    store = make_store()
    async with store.running():
        found, departure, batches = await previewed(store, 7, 3, 3)
        assert_linked(await store.read_tick(found.tick), found.tick, departure, batches)
    store = make_store()
    async with store.running():
        again = await store.preview_tick(found.tick, 7)
        assert_linked(again, found.tick, departure, batches, range(6))
        assert (await store.cursors())["slow"] < found.tick
        assert_linked(await store.read_tick(found.tick), found.tick, departure, batches)


async def test_a_preview_of_what_is_gone_is_refused(make_store: MakeStore) -> None:
    """A tick that never was, and one that was delivered and forgotten."""
    store = make_store()
    async with store.running():
        found, _, _ = await previewed(store, 1)
        with pytest.raises(LookupError):
            await store.preview_tick(found.tick + 1, 1)
        await store.advance("slow", found.tick)
        await store.forget(1 << 60)
        with pytest.raises(LookupError):
            await store.preview_tick(found.tick, 1)
