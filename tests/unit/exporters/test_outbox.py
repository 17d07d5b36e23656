"""Which tick goes next, and how far the cursor may go."""

import anyio
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
