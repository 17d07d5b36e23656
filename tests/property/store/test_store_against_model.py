"""The SQLite store does what the plain model does, whatever comes in whatever order."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.component import SpanStore
from bridge.store import SqliteStore
from bridge.telemetry import Instruments
from tests.support.store_model import Disk, ModelStore
from tests.support.stored import (
    assert_same_table,
    departure_of,
    linked_payloads,
    random_batch,
)

EXPORTERS = ("a", "b", "c")
Step = tuple[str, int, int]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 12), st.integers(0, 99)),
        st.tuples(st.just("tick"), st.integers(0, 14), st.integers(0, 99)),
        st.tuples(st.just("advance"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("register"), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("forget"), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=40,
)


class Pair:
    """A store and its model, which are told the same and must answer the same."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.disk = disk
        # a cache that holds a batch or two: payload comes from memory and from the file
        self.store: SpanStore = SqliteStore(folder, payload_cache_bytes=1500, instruments=Instruments())
        self.model: SpanStore = ModelStore(disk)
        self.now = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.store.running(), self.model.running():
            yield

    async def step(self, kind: str, a: int, b: int) -> None:
        """Do one step to both; every answer is compared."""
        self.now += 10
        if kind == "append":
            batch = random_batch(b, a)
            assert await self.store.append(batch, self.now) == await self.model.append(batch, self.now)
        elif kind == "tick":
            departure = departure_of(await self._waiting(a, b), b)
            assert await self.store.commit_tick(departure, self.now) == await self.model.commit_tick(
                departure, self.now
            )
        elif kind == "advance" and EXPORTERS[a] in self.disk.cursors:
            tick = max(0, self.disk.last_tick - b)
            await self.store.advance(EXPORTERS[a], tick)
            await self.model.advance(EXPORTERS[a], tick)
        elif kind == "register":
            names = [name for i, name in enumerate(EXPORTERS) if a & 1 << i]
            assert await self.store.register(names) == await self.model.register(names)
        elif kind == "forget":
            before = self.now - 10 * a
            assert await self.store.forget(before) == await self.model.forget(before)

    async def compare(self) -> None:
        """Everything that can be asked for."""
        assert await self.store.last_tick() == await self.model.last_tick()
        found = [stored async for stored in self.store.recover()]
        wanted = [stored async for stored in self.model.recover()]
        assert [(s.number, s.arrival_ns) for s in found] == [(s.number, s.arrival_ns) for s in wanted]
        for stored, other in zip(found, wanted, strict=True):
            assert stored.left_rows.tolist() == other.left_rows.tolist()
            assert stored.left_ns.tolist() == other.left_ns.tolist()
            assert_same_table(stored.columns, other.columns)
            assert_same_table(stored.decisions, other.decisions)
        assert await self.store.cursors() == await self.model.cursors()
        newest = self.disk.last_tick
        for cursor in self.disk.cursors.values():
            assert await self.store.summary(cursor, newest) == await self.model.summary(cursor, newest)
            for age in (0, 30, 100):
                before = self.now - age
                found = await self.store.tick_before(before, after=cursor)
                assert found == await self.model.tick_before(before, after=cursor)
            await self._compare_ticks_after(cursor)

    async def _compare_ticks_after(self, at: int) -> None:
        while (tick := await self.model.next_tick(at)) is not None:
            assert await self.store.next_tick(at) == tick
            linked, other = await self.store.read_tick(tick), await self.model.read_tick(tick)
            assert linked.tick == other.tick == tick
            assert linked_payloads(linked) == linked_payloads(other)
            assert_same_table(linked.decisions, other.decisions)
            assert_same_table(linked.links, other.links)
            at = tick
        assert await self.store.next_tick(at) is None

    async def _waiting(self, rows: int, seed: int) -> list[tuple[int, int]]:
        """Some rows that have not left, in an order that depends on the seed."""
        waiting = []
        async for stored in self.model.recover():
            left = set(stored.left_rows.tolist())
            waiting += [(stored.number, row) for row in range(len(stored.columns)) if row not in left]
        return sorted(waiting, key=lambda item: hash((seed, *item)))[:rows]


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_store_answers_as_the_model(steps: list[Step]) -> None:
    """Appends, ticks, cursors, forgetting and restarts in any order: numbers, what is recovered, and every tick that
    some exporter has not passed come out as from the model."""
    anyio.run(_run, steps)


async def _run(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disk, left = Disk(), list(steps)
        now = 0
        while left:
            pair = Pair(Path(folder), disk)
            pair.now = now
            async with pair.running():
                while left and left[0][0] != "restart":
                    await pair.step(*left.pop(0))
                await pair.compare()
            del left[:1]
            now = pair.now
