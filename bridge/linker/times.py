"""Whether one span lies within another, as far as their clocks can tell."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.spans import SpanColumns

I64Array = NDArray[np.int64]
Rows = NDArray[np.int64]

OPEN_END: Final = np.iinfo(np.int64).max
"""End of a span without a duration: it counts as open for ever."""

INSIDE: Final = 1
UNKNOWN: Final = 0
OUTSIDE: Final = -1


def ends(at_ns: I64Array, start_ns: I64Array, end_ns: I64Array) -> I64Array:
    """When spans that begin at these times end, on the clock of these times; `OPEN_END` where the length is unknown."""
    length = end_ns - start_ns
    known = (start_ns > 0) & (end_ns > start_ns) & (at_ns <= OPEN_END - np.maximum(length, 0))
    return np.where(known, at_ns + length, OPEN_END)


def containment(columns: SpanColumns, inner: Rows, outer: Rows, *, slack_ns: int, whole: bool) -> NDArray[np.int8]:
    """INSIDE, OUTSIDE or UNKNOWN for each pair of rows (any shape, the same for both).

    Two rows of one sender are compared by ktime, others by start, give or take the slack. A row without that time is
    UNKNOWN. whole: the inner span must end within the outer one, too, not just begin.
    """
    same = columns.sender[inner] == columns.sender[outer]
    same &= (columns.ktime[inner] > 0) & (columns.ktime[outer] > 0)
    slack = np.where(same, 0, slack_ns)
    inner_at, inner_end = _interval(columns, inner, same)
    outer_at, outer_end = _interval(columns, outer, same)
    inside = (inner_at >= outer_at - slack) & (_earlier(inner_at, slack) <= outer_end)
    if whole:
        inside &= (inner_end == OPEN_END) | (_earlier(inner_end, slack) <= outer_end)
    known = (inner_at > 0) & (outer_at > 0)
    return np.where(known, np.where(inside, INSIDE, OUTSIDE), UNKNOWN).astype(np.int8)


def _interval(columns: SpanColumns, rows: Rows, by_ktime: NDArray[np.bool_]) -> tuple[I64Array, I64Array]:
    start = columns.start_ns[rows]
    at = np.where(by_ktime, columns.ktime[rows], start)
    return at, ends(at, start, columns.end_ns[rows])


def _earlier(time_ns: I64Array, by_ns: I64Array) -> I64Array:
    """Times are never negative, so that this cannot run over."""
    return np.maximum(time_ns, 0) - by_ns
