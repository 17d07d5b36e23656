"""The interval in which most bounds of two hosts agree, against a search of all places where one opens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bridge.linker.offsets import _agreed

NEAR, FAR = (
    st.integers(-4, 4),
    st.sampled_from([-(1 << 63), 1 - (1 << 62), -1, 0, 1, (1 << 62) - 1, 1 << 62, (1 << 63) - 1]),
)
BOUNDS = st.lists(st.tuples(NEAR, NEAR) | st.tuples(FAR, FAR), min_size=1, max_size=8)


def first_of_most(bounds: list[tuple[int, int]]) -> tuple[int, int, int]:
    """How many intervals share the first place that most share, and where it begins and ends."""
    within = {low: sum(a <= low <= b for a, b in bounds) for low, _ in bounds}
    deepest = max(within.values())
    begin = min(low for low, n in within.items() if n == deepest)
    return deepest, begin, min(high for _, high in bounds if high >= begin)


@given(st.lists(st.tuples(BOUNDS, st.integers(1, 3)), min_size=1, max_size=6))
def test_most_agree_where_a_search_says(groups: list[tuple[list[tuple[int, int]], int]]) -> None:
    """Bounds that are equal, or as large as 64 bits allow, included."""
    sorted_bounds = [[(min(pair), max(pair)) for pair in bounds] for bounds, _ in groups]
    rows = [(i, low, high) for i, bounds in enumerate(sorted_bounds) for low, high in bounds]
    group, low, high = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    found = _agreed(group, low, high, np.array([needed for _, needed in groups], np.int64))
    expected = []
    for i, (bounds, (_, needed)) in enumerate(zip(sorted_bounds, groups, strict=True)):
        deepest, begin, end = first_of_most(bounds)
        if 2 * deepest > len(bounds) and deepest >= needed:
            expected.append((i, begin, end))
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
