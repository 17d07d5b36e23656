"""Few rows a tick instead of all at once: what is decided stays, and nothing is left behind."""

import pytest

from bridge.linker import LinkOptions, WindowOptions
from bridge.linker.groups import Groups, PlainGroups
from tests.support.assembling import Row, Run
from tests.support.link_scenes import client, net, server

WINDOW, TRACES = 100, 12
KEEP_ALL = LinkOptions(sampling_rate=1.0)


@pytest.fixture(params=[Groups, PlainGroups])
def groups(request: pytest.FixtureRequest) -> type[PlainGroups]:
    found: type[PlainGroups] = request.param
    return found


def traces() -> list[list[Row]]:
    """A client and a server each."""
    pairs = [(client(**net(n)), server(**net(n))) for n in range(1, TRACES + 1)]
    return [[{**row, "span_id": 2 * n + side} for side, row in enumerate(pair)] for n, pair in enumerate(pairs, 1)]


def loaded(groups: type[PlainGroups]) -> Run:
    """All traces, one batch each, at one time."""
    run = Run(KEEP_ALL, WindowOptions(WINDOW), groups)
    for rows in traces():
        run.add(rows, 10)
    return run


@pytest.mark.parametrize("force", [False, True])
def test_ticks_with_a_bound_let_the_same_go_as_one_without(groups: type[PlainGroups], force: bool) -> None:
    """About as many rows as are asked for leave in each, and `more` says whether there are others, to the last."""
    whole, parts = loaded(groups), loaded(groups)
    whole.tick(110, force=force)
    sizes, more = [], True
    while more:
        departed = parts.tick(110, most=5, force=force)
        sizes.append(len(departed.departure))
        more = departed.more
    assert sizes == [6, 4, 6, 4, 4]  # one half of a pair takes the other along
    assert {at: left.decision for at, left in parts.left.items()} == {
        at: left.decision for at, left in whole.left.items()
    }


def test_nothing_is_left_over_of_a_tick_without_a_bound(groups: type[PlainGroups]) -> None:
    """Rows that are not due yet are not `more`."""
    run = loaded(groups)
    run.add([server(**net(99))], 60)
    assert not run.tick(110).more
    assert len(run.left) == 2 * TRACES


def test_ordinary_rows_leave_in_parts_too() -> None:
    """Whole batches, at least one a tick."""
    run = Run(KEEP_ALL, WindowOptions(WINDOW))
    for number in range(3):
        run.add([{"span_id": 10 * number + row, "trace_lo": 7} for row in range(4)], 10)
        run.tick(10, leave=False)
    departed = run.tick(11, most=5)
    assert (len(departed.departure), departed.more) == (8, True)
    departed = run.tick(11, most=5)
    assert (len(departed.departure), departed.more) == (4, False)


def test_rows_that_left_are_forgotten_beyond_a_number(groups: type[PlainGroups]) -> None:
    """Those that left longest ago, counted as forgotten early; those that wait are not touched."""
    run = loaded(groups)
    run.tick(110, most=6)
    run.tick(111)
    assert run.assembler.remembered == 2 * TRACES
    run.add([server(**net(50))], 112)
    run.assembler.remember_at_most(2 * TRACES - 1)
    departed = run.tick(113)
    assert departed.counts["forgotten_early"] == 6
    assert (run.assembler.remembered, run.assembler.waiting) == (2 * TRACES - 6, 1)
