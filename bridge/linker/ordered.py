"""Pairs guessed from order alone, to learn clocks from where no numbers connect hosts."""

import numpy as np
from numpy.typing import NDArray

from bridge.linker.times import Rows
from bridge.spans import SpanColumns

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]


def guessed_pairs(
    columns: SpanColumns, incoming: tuple[Rows, U64Array], outgoing: tuple[Rows, U64Array]
) -> tuple[Rows, Rows]:
    """Incoming and outgoing rows of the keys that have as many of both: first with first, second with second.

    Most are right where little was lost; whoever learns from them goes by what most of them say.
    """
    ins, here = _in_order(columns, *incoming)
    outs, there = _in_order(columns, *outgoing)
    low, high = np.searchsorted(there, here), np.searchsorted(there, here, side="right")
    first, last = np.searchsorted(here, here), np.searchsorted(here, here, side="right")
    fair = high - low == last - first
    place = np.arange(here.size) - first
    return ins[fair], outs[(low + place)[fair]]


def _in_order(columns: SpanColumns, rows: Rows, keys: U64Array) -> tuple[Rows, U64Array]:
    """Rows by key and, at each, by the kernel's time, or by start where that is not known."""
    at = np.where(columns.ktime[rows] > 0, columns.ktime[rows], columns.start_ns[rows])
    order = np.lexsort((columns.digest[rows], columns.span_id[rows], at, keys))
    return rows[order], keys[order]
