"""Batches and ticks put together again."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.store.recovery import Recovery
from tests.support.stored import assert_same_table, departure_of, random_batch


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    ticks=st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=10), max_size=5),
)
def test_rows_come_back_tick_by_tick(sizes: list[int], ticks: list[list[tuple[int, int]]]) -> None:
    """Each batch gets its own rows of every tick, in the order of ticks and inside one as they left; ticks may be added
    late, just before the first batch they mention."""
    recovery, added = Recovery(), set()
    departures = [departure_of(rows, seed) for seed, rows in enumerate(ticks)]
    for number, size in enumerate(sizes):
        for tick, rows in enumerate(ticks):
            if tick not in added and number in {batch for batch, _ in rows}:
                mentioned = {batch for batch, _ in rows if batch < len(sizes)}
                recovery.add_tick(tick, 100 + tick, departures[tick], len(mentioned))
                added.add(tick)
        columns = random_batch(number, size).columns
        stored = recovery.batch(number, 7, columns)
        expected = [(t, i, row) for t, rows in enumerate(ticks) for i, (b, row) in enumerate(rows) if b == number]
        assert (stored.number, stored.arrival_ns, stored.columns) == (number, 7, columns)
        assert stored.left_rows.tolist() == [row for _, _, row in expected]
        assert stored.left_ns.tolist() == [100 + t for t, _, _ in expected]
        for position, (t, i, _) in enumerate(expected):
            assert_same_table(stored.decisions.take(np.array([position])), departures[t].decisions.take(np.array([i])))
