"""Which tick goes next, and how far the cursor may go."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exporters.outbox import Outbox


class Ticks:
    """The numbers of committed ticks, asked for like a store's."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    async def last_tick(self) -> int:
        return max(self.numbers, default=0)

    async def next_tick(self, after: int) -> int | None:
        return min((number for number in self.numbers if number > after), default=None)


@given(
    cursor=st.integers(0, 5),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("commit"), st.integers(1, 30)),
            st.tuples(st.just("next"), st.just(0)),
            st.tuples(st.just("settle"), st.integers(0, 9)),
        ),
        max_size=60,
    ),
)
def test_each_tick_goes_once_and_the_cursor_passes_none(cursor: int, steps: list[tuple[str, int]]) -> None:
    """Whatever the order of commits and deliveries, each tick after the cursor is handed out exactly once, and
    `delivered` only grows and is always the newest tick such that it and all before it are settled."""
    ticks = Ticks(list(range(1, 8)))
    outbox = Outbox(ticks)  # type: ignore[arg-type]  # it asks for ticks alone
    outbox.start(cursor)
    handed: list[int] = []
    unsettled: list[int] = []

    def check() -> None:
        missing = [n for n in ticks.numbers if n > cursor and (n not in handed or n in unsettled)]
        settled = [n for n in handed if n not in unsettled and n < min(missing, default=1 << 60)]
        assert outbox.delivered == max(settled, default=cursor)
        assert outbox.oldest_open == min(unsettled, default=None)

    async def walk() -> None:
        for step, number in steps:
            if step == "commit":
                ticks.numbers += range(ticks.numbers[-1] + 1, ticks.numbers[-1] + 1 + number, 1 + number % 2)
            elif step == "next":
                if (tick := await outbox.next()) is not None:
                    handed.append(tick)
                    unsettled.append(tick)
            elif unsettled:
                outbox.settle(unsettled.pop(number % len(unsettled)))
            check()
        while (tick := await outbox.next()) is not None:
            handed.append(tick)
            outbox.settle(tick)
        assert sorted(handed) == [n for n in ticks.numbers if n > cursor]

    anyio.run(walk)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=5, max_size=40))
def test_the_backlog_has_at_least_half(sizes: list[tuple[int, int]]) -> None:
    """Counted in spans, whatever the size of ticks: new ones get ahead by one tick at most."""
    old, new = ([pair[side] for pair in sizes] for side in (0, 1))
    ticks = Ticks(list(range(1, len(sizes) + 1)))
    outbox = Outbox(ticks, fresh_s=0.0)  # type: ignore[arg-type]

    async def walk() -> None:
        outbox.start(0)
        outbox.committed(len(old) + 1, 0.0)
        given = {True: 0, False: 0}
        for number, spans in enumerate(new, len(old) + 1):
            ticks.numbers.append(number)
            outbox.committed(number, float(number))
            tick = await outbox.next()
            assert tick is not None
            is_new = tick > len(old)
            size = spans if is_new else old[tick - 1]
            outbox.weigh(size)
            given[is_new] += size
            if outbox.undelivered(len(old))[-1][0] < len(old):
                assert given[True] <= given[False] + max(new)

    anyio.run(walk)


@pytest.mark.anyio
async def test_what_came_within_seconds_is_no_backlog() -> None:
    """After an outage ticks committed lately go first, in order, by turns with the backlog."""
    ticks = Ticks(list(range(1, 101)))
    outbox = Outbox(ticks, fresh_s=4.0)  # type: ignore[arg-type]
    outbox.start(0)
    for tick in ticks.numbers:
        outbox.committed(tick, tick * 0.5)
    handed = []
    for _ in range(8):
        handed.append(await outbox.next())
        outbox.weigh(1)
    # at 50 s those since 46 s are fresh
    assert handed == [1, 93, 2, 94, 3, 95, 4, 96]


async def _handed_after_a_stall(stalled_s: float) -> list[int | None]:
    """What goes next where the backend was back, ticks came twice a second, and nothing was handed out for so long."""
    ticks = Ticks(list(range(1, 101)))
    outbox = Outbox(ticks, fresh_s=3.0)  # type: ignore[arg-type]
    outbox.start(0)
    for tick in ticks.numbers:
        outbox.committed(tick, tick * 0.5)
    assert await outbox.next() == 1
    outbox.away = False
    for tick in range(101, 101 + round(stalled_s * 2)):
        ticks.numbers.append(tick)
        outbox.committed(tick, tick * 0.5)
    handed = []
    for _ in range(4):
        outbox.weigh(1)
        handed.append(await outbox.next())
    return handed


@pytest.mark.anyio
async def test_new_ticks_do_not_join_the_backlog_because_the_bridge_was_held_up() -> None:
    """They would come after all of it."""
    assert await _handed_after_a_stall(6.0) == [95, 2, 96, 3]


@pytest.mark.anyio
async def test_a_backend_that_takes_less_than_comes_is_given_what_is_new() -> None:
    """Otherwise everything would be late for ever."""
    assert await _handed_after_a_stall(20.0) == [135, 2, 136, 3]
