"""Parents to roots: pointer jumping over a column of parent rows, and loops broken where they are weakest."""

import numpy as np
from numpy.typing import NDArray

I64Array = NDArray[np.int64]


def roots(parent: I64Array) -> I64Array:
    """The topmost ancestor of each row; parent: shape (n,), -1 at a root, without loops.

    Pointer jumping (Wyllie, 1979): each round doubles how far a row sees, so that a chain of n takes log n rounds.
    """
    above = np.where(parent < 0, np.arange(parent.size), parent)
    while True:
        further = above[above]
        if np.array_equal(further, above):
            return above
        above = further


def break_loops(parent: I64Array, strength: NDArray[np.uint8], tie: tuple[NDArray[np.generic], ...]) -> I64Array:
    """Rows whose parent edge is to be cut so that no loop is left: one of each loop.

    Cut is the edge of least strength; of several such the one whose row has the least `tie` (columns of shape (n,), the
    first of them counts most).
    """
    n = parent.size
    above = np.where(parent < 0, np.arange(n), parent)
    for _ in range(n.bit_length() + 1):
        further = above[above]
        if np.array_equal(further, above):
            break
        above = further
    # after n steps or more every row stands at a root or inside a loop
    reached = np.zeros(n, np.bool_)
    reached[above] = True
    looped = np.flatnonzero(reached & (parent >= 0))
    if not looped.size:
        return looped
    loop = _labels(looped, parent)
    order = np.lexsort((*(column[looped] for column in reversed(tie)), strength[looped], loop))
    first = np.ones(order.size, np.bool_)
    first[1:] = loop[order][1:] != loop[order][:-1]
    return looped[order[first]]


def _labels(looped: I64Array, parent: I64Array) -> I64Array:
    """A number per loop for rows that are all on loops: the least position on it."""
    after = np.searchsorted(looped, parent[looped])
    label = np.arange(looped.size)
    for _ in range(looped.size.bit_length()):
        label = np.minimum(label, label[after])
        after = after[after]
    return label


def united(n: int, a: I64Array, b: I64Array) -> I64Array:
    """A label per node 0..n-1, equal for nodes that are connected by edges a[i] - b[i]: the least node of each part.

    Every part hooks onto the least one beside it, then all trees are flattened (after Shiloach and Vishkin, 1982).
    """
    label = np.arange(n)
    while a.size:
        low, high = np.minimum(label[a], label[b]), np.maximum(label[a], label[b])
        open_ = low != high
        if not open_.any():
            break
        a, b = a[open_], b[open_]
        np.minimum.at(label, high[open_], low[open_])
        while not np.array_equal(further := label[label], label):
            label = further
    return label
