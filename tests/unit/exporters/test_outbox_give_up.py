"""Ticks that are given up: none is handed out any more; the cursor passes them once what is open of them is done."""

import anyio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.exporters.outbox import Outbox


class Ticks:
    """The numbers of committed ticks, asked for like a store's."""

    def __init__(self, newest: int) -> None:
        self.newest = newest

    async def last_tick(self) -> int:
        return self.newest

    async def next_tick(self, after: int) -> int | None:
        return after + 1 if after < self.newest else None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 30)),
        st.tuples(st.just("next"), st.just(0)),
        st.tuples(st.just("settle"), st.integers(0, 9)),
        st.tuples(st.just("give up"), st.integers(0, 60)),
    ),
    max_size=60,
)


async def test_end_of_a_backlog_does_not_hide_newer_ticks() -> None:
    """What is left of a backlog may be nothing: whoever asks in its turn is given the next new tick instead."""
    ticks = Ticks(10)
    outbox = Outbox(ticks)  # type: ignore[arg-type]  # it asks for ticks alone
    outbox.start(0)
    handed = [await outbox.next()]
    outbox.weigh(1)
    handed.append(await outbox.next())
    outbox.weigh(5)  # from now on it is the backlog's turn
    for _ in range(8):
        handed.append(await outbox.next())
        outbox.weigh(0)
    assert handed == [1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
    ticks.newest = 12
    assert [await outbox.next() for _ in range(3)] == [11, 12, None]


@settings(max_examples=60)
@given(cursor=st.integers(0, 5), steps=STEPS)
@example(0, [("commit", 2), ("next", 0), ("next", 0), ("settle", 0), ("give up", 9), ("give up", 2)])
def test_each_tick_is_handed_out_or_given_up_once(cursor: int, steps: list[tuple[str, int]]) -> None:
    """Whatever the order, each tick after the cursor is handed out exactly once or is in exactly one range that was
    given up; `undelivered` names those that are neither given up nor settled, and `delivered` stays before them."""
    ticks = Ticks(7)
    outbox = Outbox(ticks)  # type: ignore[arg-type]  # it asks for ticks alone
    outbox.start(cursor)
    handed: list[int] = []
    unsettled: list[int] = []
    given_up: list[int] = []

    def check() -> None:
        gone = {*given_up, *handed} - set(unsettled)
        left = [n for n in range(cursor + 1, ticks.newest + 1) if n not in gone]
        ranges = outbox.undelivered(ticks.newest)
        assert sorted(n for after, last in ranges for n in range(after + 1, last + 1)) == left
        assert outbox.delivered < min(left, default=ticks.newest + 1)

    async def walk() -> None:
        for step, number in steps:
            if step == "commit":
                ticks.newest += number
            elif step == "next":
                if (tick := await outbox.next()) is not None:
                    handed.append(tick)
                    unsettled.append(tick)
            elif step == "settle" and unsettled:
                outbox.settle(unsettled.pop(number % len(unsettled)))
            elif step == "give up":
                up_to = min(number, ticks.newest)
                ranges = outbox.give_up(up_to)
                given_up.extend(n for after, last in ranges for n in range(after + 1, last + 1))
                assert outbox.give_up(up_to) == []
                if not unsettled or min(unsettled) > up_to:
                    assert outbox.delivered >= min(up_to, ticks.newest)
            check()
        while (tick := await outbox.next()) is not None:
            handed.append(tick)
            outbox.settle(tick)
        assert sorted(handed + given_up) == list(range(cursor + 1, ticks.newest + 1))

    anyio.run(walk)
