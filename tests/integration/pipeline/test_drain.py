"""The tick on the real store and the real linker."""

from pathlib import Path

import anyio
import numpy as np
import pytest

from bridge.cli.simulation import Simulation
from bridge.codec.otlp_protobuf import decode_request
from bridge.errors import StoreUnavailable
from bridge.pipeline import drain as drain_module
from bridge.pipeline import effort
from bridge.spans import Departure, Method
from bridge.store import SqliteStore
from bridge.telemetry import Instruments
from bridge.telemetry.metrics import running_metrics
from tests.support.bridge_parts import (
    LATE_WINDOW_NS,
    START_NS,
    WINDOW_NS,
    HandClock,
    Parts,
    S,
    espan_batches,
    ids_of,
    ordinary_batch,
    running_parts,
)


async def consume_all(parts: Parts, batches: list) -> None:
    for batch in batches:
        await parts.ingest.consume(batch)


async def test_a_trace_leaves_a_window_after_its_last_span_came(tmp_path: Path) -> None:
    """Not before; all of it in one tick."""
    batches = espan_batches(5)
    async with running_parts(tmp_path) as parts:
        await consume_all(parts, batches)
        await parts.tick_after(WINDOW_NS - 1)
        assert await parts.ticks() == []
        await parts.tick_after(1)
        (tick,) = await parts.ticks()
        assert set(tick.decisions.span_id.tolist()) == ids_of(batches)
        assert parts.drain.last_tick == tick.tick


async def test_a_linker_that_is_behind_catches_up_as_if_it_had_kept_up(tmp_path: Path) -> None:
    """What came while no tick could be made leaves when it would have left, in ticks that follow at once."""
    step_ns, traces = WINDOW_NS // 4, 12
    left: dict[str, list[set[int]]] = {}
    for way in ("in time", "behind"):
        async with running_parts(tmp_path / way) as parts:
            for first in range(traces):
                await consume_all(parts, espan_batches(1, first))
                if way == "in time" and first < traces - 1:
                    await parts.drain.tick()
                parts.clock.move_on(step_ns)
            while await parts.drain.tick():
                assert parts.ingest.waiting == 9 * traces - sum(len(tick) for tick in await parts.ticks())
            left[way] = [set(tick.decisions.span_id.tolist()) for tick in await parts.ticks()]
    assert len(left["in time"]) > traces // 2
    assert left["behind"] == left["in time"]


async def test_force_waits_for_all_that_came(tmp_path: Path) -> None:
    """A stop that lets everything leave does not cut a trace where the linker happens to be."""
    early, late = espan_batches(1)[:2], espan_batches(1)[2:]
    async with running_parts(tmp_path) as parts:
        await consume_all(parts, early)
        parts.clock.move_on(WINDOW_NS // 2)
        await consume_all(parts, late)
        await parts.drain.flush()
        (tick,) = await parts.ticks()
        assert len(tick) == 9


async def test_a_linker_that_is_behind_takes_more_where_ticks_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would fall behind for good: here the time of two batches passes with each tick, besides linking."""
    async with running_parts(tmp_path) as parts:

        async def collect() -> None:
            parts.clock.move_on(2 * S)

        monkeypatch.setattr(parts.ingest, "collect", collect)
        for _ in range(40):
            await parts.ingest.consume(ordinary_batch())
            parts.clock.move_on(S)
        ticks = 1
        while await parts.drain.tick():
            ticks += 1
        assert 2 < ticks < 12
        assert parts.ingest.waiting == 0


async def test_a_stop_links_all_that_came(tmp_path: Path) -> None:
    """Without force, too: ordinary spans leave however far behind the linker is, traces that are not quiet yet wait."""
    async with running_parts(tmp_path) as parts:
        for _ in range(10):
            await parts.ingest.consume(ordinary_batch())
            parts.clock.move_on(S)
        await consume_all(parts, espan_batches(1))
        await parts.drain.flush(force=False)
        assert sum(len(tick) for tick in await parts.ticks()) == 10
        assert parts.ingest.waiting == 9


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["no time", "time"])
async def test_timing_is_given_what_there_is_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Where linking takes more than it may, exits whose thread nobody knows stay alone."""
    monkeypatch.setattr(effort, "SHARE", share)
    monkeypatch.setattr(effort, "BURST_S", 0.0)
    monkeypatch.setattr(effort, "CUT", 0.0)
    monkeypatch.setattr(effort, "LEAST", 0.0)
    simulation = Simulation(attributes=4)
    requests = simulation.requests(simulation.traces(0, np.full(3, START_NS, np.uint64)), 512)
    batches = [decode_request(request.data, peer="127.0.0.1").batch for request in requests]
    async with running_parts(tmp_path, timing=True) as parts:
        await consume_all(parts, batches)
        for _ in range(24):
            await parts.tick_after(WINDOW_NS // 16)
        methods = np.concatenate([tick.decisions.method for tick in await parts.ticks()])
    assert methods.size == 27
    assert (Method.TIMING in methods) == (share > 0)


async def test_an_ordinary_span_leaves_at_the_next_tick(tmp_path: Path) -> None:
    """It waits for nobody."""
    async with running_parts(tmp_path) as parts:
        await parts.ingest.consume(ordinary_batch())
        await parts.drain.tick()
        (tick,) = await parts.ticks()
        assert len(tick) == 1


async def test_after_a_start_nothing_leaves_before_its_time(tmp_path: Path) -> None:
    """Ordinary spans included: senders that were held up by a restart get their turn first."""
    clock = HandClock()
    async with running_parts(tmp_path, clock=clock, at_once=False) as parts:
        await parts.ingest.consume(ordinary_batch())
        await consume_all(parts, espan_batches(1))
        await parts.tick_after(10 * WINDOW_NS)
        assert await parts.ticks() == []
        parts.drain.leave_from_ns = clock.now_ns() + WINDOW_NS
        await parts.tick_after(WINDOW_NS - 1)
        assert await parts.ticks() == []
        await parts.tick_after(1)
        assert sum(len(tick) for tick in await parts.ticks()) == 10


async def test_time_without_receivers_makes_no_trace_leave(tmp_path: Path) -> None:
    """A stop may take long; senders whose spans are refused meanwhile bring them to the next start, in time."""
    clock = HandClock()
    async with running_parts(tmp_path, clock=clock) as parts:
        await consume_all(parts, espan_batches(1))
        await parts.tick_after(WINDOW_NS - 1)
        parts.drain.closed_ns = clock.now_ns()
        await parts.tick_after(10 * WINDOW_NS)
        assert await parts.ticks() == []
        await parts.tick_after(0, force=True)
        assert sum(len(tick) for tick in await parts.ticks()) == 9


async def test_force_lets_everything_leave_at_once(tmp_path: Path) -> None:
    """For store.flush_on_stop; also before the time after a start."""
    async with running_parts(tmp_path, at_once=False) as parts:
        await consume_all(parts, espan_batches(2))
        await parts.tick_after(0, force=True)
        assert sum(len(tick) for tick in await parts.ticks()) == 18


async def test_a_restart_in_the_middle_of_a_trace_changes_nothing(tmp_path: Path) -> None:
    """Trace ids and parents are those of a bridge that was never stopped."""
    batches = espan_batches(20)
    async with running_parts(tmp_path / "whole") as parts:
        await consume_all(parts, batches)
        await parts.tick_after(WINDOW_NS)
        expected = await parts.left()
    clock = HandClock()
    async with running_parts(tmp_path / "torn", clock=clock) as parts:
        await consume_all(parts, batches[:3])
        await parts.drain.tick()
    async with running_parts(tmp_path / "torn", clock=clock) as parts:
        assert parts.ingest.waiting == sum(map(len, batches[:3]))
        await consume_all(parts, batches[3:])
        await parts.tick_after(WINDOW_NS)
        assert await parts.left() == expected


async def test_a_late_span_joins_its_trace_after_a_restart(tmp_path: Path) -> None:
    """What left is known to the next bridge for late_window."""
    *early, late = espan_batches(1)
    clock = HandClock()
    async with running_parts(tmp_path, clock=clock) as parts:
        await consume_all(parts, early)
        await parts.tick_after(WINDOW_NS)
    async with running_parts(tmp_path, clock=clock) as parts:
        await parts.ingest.consume(late)
        await parts.tick_after(WINDOW_NS)
        left = await parts.left()
    (late_id,) = ids_of([late])
    high, low, parent = left[late_id]
    assert parent in ids_of(early)
    assert {trace[:2] for trace in left.values()} == {(high, low)}


async def test_what_is_past_is_forgotten(tmp_path: Path) -> None:
    """Once it is delivered and late_window has passed, neither store nor linker knows it any more."""
    async with running_parts(tmp_path) as parts:
        await consume_all(parts, espan_batches(3))
        await parts.tick_after(WINDOW_NS)
        await parts.store.advance("backend", parts.drain.last_tick)
        await parts.tick_after(LATE_WINDOW_NS - S)
        assert [batch async for batch in parts.store.recover()]
        await parts.tick_after(LATE_WINDOW_NS)
        assert [batch async for batch in parts.store.recover()] == []


class FullDisk(SqliteStore):
    """Cannot commit decisions while it is full."""

    full = True
    asked = 0

    async def commit_tick(self, departure: Departure, left_ns: int) -> int:
        self.asked += 1
        if self.full:
            raise StoreUnavailable("disk full")
        return await super().commit_tick(departure, left_ns)


async def asked(store: SqliteStore, times: int) -> None:
    assert isinstance(store, FullDisk)
    while store.asked < times:
        await anyio.lowlevel.checkpoint()


async def test_decisions_are_committed_once_the_store_can_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones: the linker has decided. Meanwhile the drain says what it is stuck at."""
    monkeypatch.setattr(drain_module, "RETRY_COMMIT_S", 0.001)
    batches = espan_batches(3)
    async with running_parts(tmp_path, store=FullDisk) as parts:
        await consume_all(parts, batches)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.tick_after, WINDOW_NS)
            await asked(parts.store, 3)
            assert parts.drain.stuck == "disk full"
            parts.store.full = False
        assert parts.drain.stuck == ""
        assert set(await parts.left()) == ids_of(batches)


async def test_decisions_given_up_at_a_stop_are_made_again_after_the_next_start(tmp_path: Path) -> None:
    """And nothing is decided on top of them in between, not even by force."""
    batches, later = espan_batches(3), espan_batches(1, first=3)
    clock = HandClock()
    async with running_parts(tmp_path, clock=clock, store=FullDisk) as parts:
        await consume_all(parts, batches)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.tick_after, WINDOW_NS)
            await asked(parts.store, 1)
            tasks.cancel_scope.cancel()
        parts.store.full = False
        await consume_all(parts, later)
        await parts.tick_after(0, force=True)
        assert await parts.ticks() == []
    async with running_parts(tmp_path, clock=clock) as parts:
        await parts.tick_after(WINDOW_NS)
        assert set(await parts.left()) == ids_of(batches + later)


class Broken(SqliteStore):
    """Has a defect."""

    async def commit_tick(self, departure: Departure, left_ns: int) -> int:
        raise ValueError("a defect")


async def test_a_defect_ends_the_drain(tmp_path: Path) -> None:
    """Loudly: its owner's task group ends with the error."""
    async with running_parts(tmp_path, store=Broken) as parts:
        await consume_all(parts, espan_batches(1))
        parts.clock.move_on(WINDOW_NS)
        with pytest.raises(ValueError, match="a defect"):
            await parts.drain.run()


async def test_what_left_is_counted(tmp_path: Path) -> None:
    """Spans by outcome, edges by method, traces by verdict, groups by reason, and what was odd."""
    batches = espan_batches(4)
    with running_metrics("0") as metrics:
        async with running_parts(tmp_path, instruments=Instruments(metrics.meter)) as parts:
            await consume_all(parts, [*batches, batches[0], ordinary_batch()])
            await parts.tick_after(WINDOW_NS)
        lines = set(metrics.prometheus_text().decode().splitlines())
    assert lines >= {
        'linker_left_spans_total{outcome="export"} 36.0',
        f'linker_left_spans_total{{outcome="folded"}} {float(len(batches[0]))}',
        'linker_left_spans_total{outcome="pass"} 1.0',
        'linker_edges_total{method="none"} 4.0',
        'linker_edges_total{method="seq"} 16.0',
        'linker_edges_total{method="thread"} 16.0',
        'linker_left_traces_total{verdict="kept"} 4.0',
        'linker_left_groups_total{reason="quiet"} 4.0',
    }


async def test_what_does_not_fit_into_a_tick_leaves_in_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says whether there is more; a flush goes on until nothing is left. No span is in two of them."""
    monkeypatch.setattr(drain_module, "FEWEST_ROWS", 9)
    async with running_parts(tmp_path, tick_bytes=1) as parts:
        await consume_all(parts, [batch for trace in range(4) for batch in espan_batches(1, first=trace)])
        parts.clock.move_on(WINDOW_NS)
        assert await parts.drain.tick()
        await parts.drain.flush()
        assert not await parts.drain.tick()
        ticks = await parts.ticks()
    assert [len(tick) for tick in ticks] == [9] * 4
    ids = [span_id for tick in ticks for span_id in tick.decisions.span_id.tolist()]
    assert len(ids) == len(set(ids)) == 36
