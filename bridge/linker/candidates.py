"""Of several rows that share a key with another, the one that fits best. Bounded work whatever the input."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.times import Rows
from bridge.spans import SpanColumns

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]

REACH: Final = 8
"""Candidates looked at on either side of a row in time, when more than one shares its key."""

_NOT_ONE: Final = np.int8(-128)
_FAR: Final = np.iinfo(np.int64).max

Fit = Callable[[Rows, Rows], NDArray[np.int8]]
"""(children, candidates), both of one shape, to how well they fit: larger is better."""


class Keyed:
    """Rows to be found by key: candidates for a parent."""

    def __init__(self, rows: Rows, keys: U64Array) -> None:
        order = np.argsort(keys)
        self.rows, self.keys = rows[order], keys[order]

    def among(self, keys: U64Array) -> "Keyed":
        """Only the rows with one of these keys."""
        mine = np.isin(self.keys, keys)
        return Keyed(self.rows[mine], self.keys[mine])


def choose(columns: SpanColumns, children: Rows, keys: U64Array, candidates: Keyed, at_ns: I64Array, fit: Fit) -> Rows:
    """For each child the candidate of its key that fits best, -1 where the key has none.

    at_ns: shape of the columns; when each row was, on a clock that children and candidates share. Looked at are the
    `REACH` candidates before and after a child in time; of equally fitting ones the nearest in time is chosen, then
    the earlier, then the one with the smaller span id.
    """
    if not children.size or not candidates.rows.size:
        return np.full(children.size, -1, np.int64)
    rows = candidates.rows
    order = np.lexsort((columns.digest[rows], columns.span_id[rows], at_ns[rows], candidates.keys))
    rows, row_keys = rows[order], candidates.keys[order]
    low, high = np.searchsorted(row_keys, keys), np.searchsorted(row_keys, keys, side="right")
    place = _place(row_keys, at_ns[rows], keys, at_ns[children])
    position = place[:, None] + np.arange(-REACH, REACH)
    valid = (position >= low[:, None]) & (position < high[:, None])
    looked = rows[np.clip(position, 0, rows.size - 1)]
    fits = fit(np.broadcast_to(children[:, None], looked.shape), looked)
    distance = np.abs(at_ns[looked] - at_ns[children][:, None])  # times are never negative: this cannot run over
    best = _best(np.where(valid, fits, _NOT_ONE), distance)
    chosen = looked[np.arange(children.size), best]
    return np.where(valid.any(axis=1), chosen, -1)


def _place(row_keys: U64Array, row_at: I64Array, keys: U64Array, at: I64Array) -> I64Array:
    """How many rows, which are sorted by (key, time), come before or at each (key, time)."""
    n = row_keys.size
    late = np.concatenate([np.zeros(n, np.uint8), np.ones(keys.size, np.uint8)])
    order = np.lexsort((late, np.concatenate([row_at, at]), np.concatenate([row_keys, keys])))
    before = np.cumsum(late[order] == 0)
    place = np.empty(order.size, np.int64)
    place[order] = before
    return place[n:]


def _best(fits: NDArray[np.int8], distance: I64Array) -> I64Array:
    """Column of the largest fit, of the least distance among those, the first among these."""
    finest = fits == fits.max(axis=1, keepdims=True)
    best: I64Array = np.argmin(np.where(finest, distance, _FAR), axis=1)
    return best
