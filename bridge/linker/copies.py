"""Which rows are copies of one span: the same id and the same bytes."""

import numpy as np
from numpy.typing import NDArray

from bridge.linker.joining import repeated
from bridge.spans import Kind, SpanColumns


def originals(
    columns: SpanColumns, known: NDArray[np.bool_], folded: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], int]:
    """For each row the row it is a copy of (itself if it is none), and how many new spans have another span's id.

    Of equal rows the one that has left is the original, else the one with the smallest sender: which came first says
    nothing. Ordinary spans are never copies. folded: which of the `known` rows left as copies; what another known row
    left as, it stays.
    """
    n = len(columns)
    rows = np.arange(n, dtype=np.int64)
    espans = np.flatnonzero(columns.kind != Kind.ORDINARY)
    some = espans[repeated(columns.span_id[espans])]
    if not some.size:
        return rows, 0
    order = some[
        np.lexsort(
            (
                columns.service[some],
                columns.sender[some],
                folded[some],
                ~known[some],
                columns.digest[some],
                columns.span_id[some],
            )
        )
    ]
    same_id = columns.span_id[order][1:] == columns.span_id[order][:-1]
    same = same_id & (columns.digest[order][1:] == columns.digest[order][:-1])
    first = np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, np.arange(order.size)))
    rows[order] = order[first]
    # rows that left stay what they were, also where the same span left twice
    spans = np.flatnonzero(known & ~folded)
    rows[spans] = spans
    return rows, _conflicts(columns.span_id[order], ~same, ~known[order])


def _conflicts(ids: NDArray[np.uint64], differs: NDArray[np.bool_], new: NDArray[np.bool_]) -> int:
    """Spans that are new and whose id another span has: all but one of an id, and all if one of them has left.

    ids: sorted, equal spans together, the known one first; differs: whether the span after each is another one.
    """
    spans = np.concatenate([[True], differs])
    ids, new = ids[spans], new[spans]
    _, label, count = np.unique(ids, return_inverse=True, return_counts=True)
    n_new = np.bincount(label, weights=new).astype(np.int64)
    return int(np.minimum(n_new, count - 1).sum())
