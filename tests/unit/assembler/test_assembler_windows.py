"""When rows leave, what is still known of them then, and when nothing is."""

import numpy as np
import pytest

from bridge.linker import LinkOptions, WindowOptions
from bridge.linker.groups import Groups, PlainGroups
from bridge.linker.remembered import Remembered
from bridge.linker.waiting import WaitingRows
from bridge.spans import Kind, Outcome
from tests.support.assembling import Row, Run
from tests.support.link_scenes import client, net, server

WINDOW = 100
KEEP_ALL = LinkOptions(sampling_rate=1.0)
ON_THREAD = {"sender": 1, "pid": 5, "tid": 7}
START = 1_000_000


@pytest.fixture(params=[Groups, PlainGroups])
def groups(request: pytest.FixtureRequest) -> type[PlainGroups]:
    found: type[PlainGroups] = request.param
    return found


def new_run(groups: type[PlainGroups], options: LinkOptions = KEEP_ALL, **window: int) -> Run:
    return Run(options, WindowOptions(WINDOW, **window), groups)


def named(number: int, row: Row) -> Row:
    """The row under a span id of its own."""
    return {**row, "span_id": number, "digest": number}


def span_at(ktime: int, length: int) -> Row:
    return {"ktime": ktime, "start_ns": START, "end_ns": START + length}


def trace_of(run: Run, number: int, row: int = 0) -> tuple[float, float]:
    found = run.left[number, row].decision
    return found["trace_hi"], found["trace_lo"]


def test_a_trace_leaves_after_a_quiet_window(groups: type[PlainGroups]) -> None:
    """A window after the last row joined it, and not a nanosecond earlier."""
    run = new_run(groups)
    run.add([named(1, server(**net(1)))], 10)
    run.add([named(2, client(**net(1)))], 60)
    run.tick(159)
    assert not run.left
    departed = run.tick(160)
    assert len(run.left) == 2
    assert departed.counts["groups_quiet"] == 1


def test_unrelated_rows_do_not_wait_for_each_other(groups: type[PlainGroups]) -> None:
    """Each trace has a window of its own."""
    run = new_run(groups)
    run.add([named(1, server(**net(1)))], 10)
    run.add([named(2, server(**net(2)))], 60)
    run.tick(110)
    assert set(run.left) == {(1, 0)}


def test_ordinary_spans_leave_at_the_next_tick(groups: type[PlainGroups]) -> None:
    """They do not wait for a window; `leave=False` holds them like all."""
    run = new_run(groups)
    run.add([named(1, {"kind": Kind.ORDINARY}), named(2, server(**net(1)))], 10)
    run.tick(11, leave=False)
    assert not run.left
    run.tick(12)
    assert set(run.left) == {(1, 0)}
    assert run.left[1, 0].decision["outcome"] == Outcome.PASS


def test_force_lets_everything_go(groups: type[PlainGroups]) -> None:
    """Whatever waits leaves at once."""
    run = new_run(groups)
    run.add([named(1, server(**net(1))), named(2, server(**net(2)))], 10)
    departed = run.tick(11, force=True)
    assert not run.waiting
    assert departed.counts["groups_forced"] == 2


def test_rows_related_by_a_timeline_leave_together(groups: type[PlainGroups]) -> None:
    """An exit and an entry that share no key, one of which alone would have left earlier."""
    exit_ = named(1, client(**ON_THREAD, **net(1), **span_at(50, 5)))
    entry = named(2, server(**ON_THREAD, **net(2), **span_at(40, 90)))
    for first, second in ((exit_, entry), (entry, exit_)):
        run = new_run(groups)
        run.add([first], 10)
        run.add([second], 80)
        run.tick(110)
        assert not run.left
        run.tick(180)
        assert {place: left.at for place, left in run.left.items()} == {(1, 0): 180, (2, 0): 180}
        assert trace_of(run, 1) == trace_of(run, 2)


def test_old_traces_leave_by_age(groups: type[PlainGroups]) -> None:
    """A trace that is joined again and again leaves when its first row is `max_trace_age` old; later rows join it."""
    run = new_run(groups, max_trace_age_ns=250)
    counts = 0
    for number in range(1, 12):
        run.add([named(number, client(thread_trace_id=9) if number > 1 else server(thread_trace_id=9))], 40 * number)
        counts += run.tick(40 * number + 1).counts.get("groups_age", 0)
        assert all(40 * number + 1 - at < 250 for at in (run.batches[n - 1][1] for n, _ in run.waiting))
    assert counts == 1
    run.tick(541)
    assert not run.waiting
    assert len({trace_of(run, number) for number in range(1, 12)}) == 1


def test_big_traces_leave_by_size(groups: type[PlainGroups]) -> None:
    """A trace of `max_trace_spans` rows leaves at the next tick; its tail joins it."""
    run = new_run(groups, max_trace_spans=5)
    run.add([named(1, server(thread_trace_id=9))], 1)
    run.add([named(i, client(thread_trace_id=9)) for i in range(2, 5)], 2)
    run.tick(3)
    assert not run.left
    run.add([named(5, client(thread_trace_id=9))], 4)
    assert run.tick(5).counts["groups_size"] == 1
    assert len(run.left) == 5
    run.add([named(6, client(thread_trace_id=9))], 6)
    run.tick(200)
    assert trace_of(run, 4) == trace_of(run, 1)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_late_rows_join_what_left(groups: type[PlainGroups], rate: float) -> None:
    """Late children, by key and by timeline, and a late copy: trace and verdict of what left, also after a restart."""
    run = new_run(groups, LinkOptions(sampling_rate=rate))
    head = named(1, server(**ON_THREAD, thread_trace_id=9, **net(1), **span_at(40, 90)))
    run.add([head], 1)
    run.tick(101)
    run.restart(102)
    by_key = named(2, client(thread_trace_id=9, **net(2), app_flag=1))
    by_timeline = named(3, client(**ON_THREAD, thread_trace_id=77, **net(3), **span_at(50, 5), app_flag=1))
    run.add([by_key], 150)
    run.add([by_timeline], 150)
    run.add([head], 150)
    counts = run.tick(250).counts
    assert counts["late_children"] == 2
    assert trace_of(run, 2) == trace_of(run, 3) == trace_of(run, 1)
    outcome = Outcome.EXPORT if rate else Outcome.SAMPLED_OUT
    assert [run.left[n, 0].decision["outcome"] for n in (1, 2, 3, 4)] == [outcome] * 3 + [Outcome.FOLDED]


def test_late_parent_takes_over_fragments(groups: type[PlainGroups]) -> None:
    """An entry that comes after exits of its thread left takes the first one's trace and links to the other."""
    run = new_run(groups)
    run.add([named(1, client(**ON_THREAD, **net(1), **span_at(50, 5)))], 1)
    run.add([named(2, client(**ON_THREAD, **net(2), **span_at(60, 5)))], 30)
    run.tick(101)
    run.tick(131)
    run.add([named(3, server(**ON_THREAD, **net(3), **span_at(40, 90)))], 140)
    assert run.tick(240).counts["late_parents"] == 1
    assert trace_of(run, 3) == trace_of(run, 1) != trace_of(run, 2)
    assert run.left[3, 0].links == {(*trace_of(run, 2), 2)}


def test_adopted_fragment_is_not_adopted_again(groups: type[PlainGroups]) -> None:
    """An entry around a fragment that has its entry by now, which fits better, is a trace of its own."""
    run = new_run(groups)
    run.add([named(1, client(**ON_THREAD, **net(1), **span_at(50, 5)))], 1)
    run.tick(101)
    run.add([named(2, server(**ON_THREAD, **net(2), **span_at(40, 90)))], 110)
    run.tick(210)
    run.add([named(3, server(**ON_THREAD, **net(3), **span_at(30, 90)))], 220)
    assert run.tick(320).counts["late_parents"] == 0
    assert trace_of(run, 2) == trace_of(run, 1) != trace_of(run, 3)


def test_after_the_late_window_nothing_is_known(groups: type[PlainGroups]) -> None:
    """`late_window` after a row left it is forgotten: a copy is exported again, a child is a trace of its own."""
    run = new_run(groups, late_window_ns=500)
    row = named(1, server(thread_trace_id=9))
    run.add([row], 1)
    run.tick(101)
    run.tick(600)
    assert run.assembler.retained == 1
    run.tick(601)
    assert run.assembler.retained == 0
    run.add([row, named(2, client(thread_trace_id=9))], 602)
    run.tick(702)
    assert run.left[2, 0].decision["outcome"] == Outcome.EXPORT


def test_memory_comes_back(groups: type[PlainGroups]) -> None:
    """When all that was kept is past, columns and, with the next row, the index are as small as at first."""
    run = new_run(groups)
    many = [named(i + 1, (server if i % 2 else client)(**net(i // 2), **ON_THREAD, ktime=i + 1)) for i in range(6000)]
    run.add(many, 1)
    run.tick(101)
    assert run.assembler.retained == 6000
    run.tick(402)
    waiting, left = run.assembler._rows, run.assembler._left
    assert (run.assembler.retained, len(waiting), left.capacity) == (0, 0, 0)
    assert waiting.row_bytes == WaitingRows().row_bytes
    assert left.row_bytes == Remembered().row_bytes


def test_index_does_not_grow_with_uptime() -> None:
    """Generation after generation of rows, all different, takes no more memory than the first few."""
    compiled = pytest.importorskip("bridge.linker._groups", reason="no C compiler was there")
    index = compiled.Groups()
    run = Run(KEEP_ALL, WindowOptions(WINDOW), lambda: index)  # type: ignore[arg-type]  # any maker of an index
    sizes = []
    for generation in range(24):
        rows = [
            named(generation * 1000 + i, server(**net(generation * 1000 + i), **ON_THREAD, ktime=generation * 1000 + i))
            for i in range(1, 500)
        ]
        run.add(rows, generation * WINDOW + 1)
        run.tick((generation + 1) * WINDOW + 1)
        sizes.append(index.nbytes)
    assert sizes[-1] == sizes[len(sizes) // 2]


def test_clock_that_steps_back(groups: type[PlainGroups]) -> None:
    """Times never run backwards in here: a tick or an arrival of the past counts as now."""
    run = new_run(groups)
    run.add([named(1, server(**net(1)))], 1000)
    run.tick(1050)
    run.add([named(2, client(**net(1)))], 900)
    run.tick(500)
    assert not run.left
    run.tick(1100)
    assert len(run.left) == 2


def test_restored_rows_wait_on(groups: type[PlainGroups]) -> None:
    """Rows that waited when the bridge stopped leave as they would have, counted from when they came."""
    run = new_run(groups)
    run.add([named(1, server(**net(1))), named(2, server(**net(2)))], 10)
    run.add([named(3, client(**net(1)))], 60)
    run.tick(61)
    run.restart(100)
    assert run.assembler.waiting == 3
    run.tick(110)
    assert set(run.left) == {(1, 1)}
    run.tick(160)
    assert not run.waiting
    assert np.unique([trace_of(run, 1), trace_of(run, 2)], axis=0).shape == (1, 2)
