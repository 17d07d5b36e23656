"""What arrived, in parts for the linker."""

import pytest

from bridge.component import Arrival
from bridge.pipeline.catching_up import PART_TICKS, Backlog
from bridge.spans import SpanColumns

S = 10**9
TICK_S = 0.5
PART_NS = int(PART_TICKS * TICK_S * S)
COLUMNS = SpanColumns.zeros(3)


def backlog(*at_ns: int) -> Backlog:
    found = Backlog(TICK_S)
    found.extend(Arrival(number, at, COLUMNS) for number, at in enumerate(at_ns, 1))
    return found


def numbers(backlog: Backlog, now_ns: int) -> tuple[list[int], int, bool]:
    part = backlog.next(now_ns)
    return [arrival.number for arrival in part.arrivals], part.at_ns, part.last


def test_what_comes_in_a_tick_is_one_part() -> None:
    """As of now, also where it took a little longer, and where there is nothing."""
    now_ns = 100 * S
    one = backlog(now_ns - PART_NS, now_ns - 5, now_ns)
    assert one.spans == 9
    assert numbers(one, now_ns) == ([1, 2, 3], now_ns, True)
    assert one.spans == 0
    assert numbers(one, now_ns + 1) == ([], now_ns + 1, True)


def test_what_is_behind_comes_oldest_first() -> None:
    """Each part as of its last batch, the last one as of now."""
    now_ns = 100 * S
    one = backlog(50 * S, 50 * S + PART_NS, 50 * S + PART_NS + 1, 90 * S)
    assert numbers(one, now_ns) == ([1, 2], 50 * S + PART_NS, False)
    assert one.spans == 6
    assert numbers(one, now_ns) == ([3], 50 * S + PART_NS + 1, False)
    assert numbers(one, now_ns) == ([4], now_ns, True)


def test_time_never_goes_back() -> None:
    """Batches of several processes come in order of number, not of time; no two parts of a backlog are of one time."""
    one = backlog(50 * S, 60 * S, 51 * S, 61 * S, 52 * S, 63 * S)
    times = [one.next(100 * S).at_ns for _ in range(3)]
    assert sorted(set(times)) == times
    assert one.next(99 * S).at_ns >= times[-1]


def test_a_batch_from_the_future_is_now() -> None:
    """Nothing leaves before its time because of one."""
    one = backlog(50 * S, 500 * S, 501 * S)
    assert numbers(one, 100 * S) == ([1], 50 * S, False)
    assert numbers(one, 100 * S)[1] == 100 * S


def test_what_is_due_leaves_before_more_comes() -> None:
    """A tick that lets go no more than it may is followed by one as of the same time."""
    one = backlog(50 * S, 60 * S, 70 * S)
    assert numbers(one, 100 * S)[0] == [1]
    one.took(0.0, more=True)
    assert numbers(one, 100 * S) == ([], 50 * S + 1, False)
    one.took(0.0, more=False)
    assert numbers(one, 100 * S) == ([2], 60 * S, False)
    one.took(0.0, more=True)
    assert numbers(one, 100 * S)[0] == []
    one.took(0.0, more=False)
    assert numbers(one, 100 * S) == ([3], 100 * S, True)
    one.took(0.0, more=True)
    one.extend([Arrival(9, 100 * S, COLUMNS)])
    assert one.next(100 * S).last is False


@pytest.mark.parametrize("besides_s", [1, 3, 12])
def test_parts_are_as_long_as_ticks_need(besides_s: int) -> None:
    """However long a tick takes besides linking, as on a slow disk: a linker that is behind gets nearer."""
    one, now_s, came = Backlog(TICK_S), 60, 0
    while now_s < 600:
        one.extend(Arrival(number, number * S, COLUMNS) for number in range(came, now_s))
        one.next(now_s * S)
        one.took(besides_s, more=False)
        now_s, came = now_s + besides_s, now_s
    assert one.spans <= 3 * besides_s
