"""Trace ids that agents put on the wire: which rows carry one, and how it flows downstream."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.spans import Decisions, Encoding, Kind, SpanColumns
from bridge.spans.ids import combine

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Headers:
    """What the headers of n rows said; 0 where there were none."""

    present: Mask
    trace_hi: U64Array
    trace_lo: U64Array
    parent: U64Array
    """Span id that the headers name as the parent."""
    encode: NDArray[np.uint8]
    left: I64Array
    """Row of the eSpan, among those that left, that the headers name as the parent; -1 for none."""
    ordinary: Mask
    """Whether the parent that the headers name is an ordinary span among the rows."""
    named: U64Array
    """The span id that the headers named, also of rows that left, and before `left` took its place."""


def read_headers(columns: SpanColumns, sound: Mask, left_rows: I64Array, decisions: Decisions) -> Headers:
    """Headers of the rows that are to be linked: those that are `sound` and have not left.

    An eSpan's own trace id was found in headers if it has a parent span id too, or if another eSpan names the two of
    them, trace id and span id, as its parent; else it is a placeholder of its sender. Where the named parent left
    already, and under another trace id, that one is what counts. A span that names itself names none.

    left_rows: rows that left, first that left first; decisions: on these.
    """
    n = len(columns)
    known = np.zeros(n, np.bool_)
    known[left_rows] = True
    own_parent = _other(columns.parent_id, columns.span_id)
    own = (columns.trace_hi | columns.trace_lo) != 0
    app = (columns.app_trace_hi | columns.app_trace_lo) != 0
    child = own & (own_parent != 0)
    trace_hi = np.where(app, columns.app_trace_hi, np.where(own, columns.trace_hi, 0))
    trace_lo = np.where(app, columns.app_trace_lo, np.where(own, columns.trace_lo, 0))
    parent = np.where(app, _other(columns.app_parent, columns.span_id), own_parent)
    encode = np.where(app, columns.app_encode, Encoding.HEX).astype(np.uint8)
    left, ordinary = np.full(n, -1, np.int64), np.zeros(n, np.bool_)
    namers = sound & (app | child) & (parent != 0)
    if namers.any():
        keys = combine((trace_hi, trace_lo, parent))
        nameable = own & (columns.sent_span_id != 0) & sound
        names = combine((columns.trace_hi, columns.trace_lo, columns.sent_span_id))
        child |= nameable & np.isin(names, keys[namers])
        left = _parents_that_left(keys, namers & ~known, names, left_rows[nameable[left_rows]])
        ordinary = namers & _named_ordinary(columns, keys)
    named = np.where(namers, parent, np.uint64(0))
    present = sound & ~known & (app | child)
    late = np.flatnonzero(left >= 0)
    if late.size:
        position = np.zeros(n, np.int64)
        position[left_rows] = np.arange(left_rows.size)
        at = position[left[late]]
        trace_hi[late], trace_lo[late] = decisions.trace_hi[at], decisions.trace_lo[at]
        encode[late] = decisions.encode[at]
        parent[late] = decisions.span_id[at]
    return Headers(
        present=present,
        trace_hi=np.where(present, trace_hi, 0),
        trace_lo=np.where(present, trace_lo, 0),
        parent=np.where(present, parent, 0),
        encode=np.where(present, encode, Encoding.ABSENT).astype(np.uint8),
        left=left,
        ordinary=present & ordinary & (left < 0),
        named=named,
    )


def _other(ids: U64Array, span_id: U64Array) -> U64Array:
    return np.where(ids == span_id, np.uint64(0), ids)


def _named_ordinary(columns: SpanColumns, keys: U64Array) -> Mask:
    """Which of the keys (trace id, parent span id) are those of an ordinary span."""
    rows = np.flatnonzero(columns.kind == Kind.ORDINARY)
    if not rows.size:
        return np.zeros(keys.size, np.bool_)
    return np.isin(keys, combine((columns.trace_hi[rows], columns.trace_lo[rows], columns.span_id[rows])))


def _parents_that_left(keys: U64Array, namers: Mask, names: U64Array, rows: I64Array) -> I64Array:
    """Of several rows with one name the one that left first, which comes first in `rows`."""
    left = np.full(keys.size, -1, np.int64)
    if rows.size:
        distinct, first = np.unique(names[rows], return_index=True)
        at = np.minimum(np.searchsorted(distinct, keys[namers]), distinct.size - 1)
        left[namers] = np.where(distinct[at] == keys[namers], rows[first[at]], -1)
    return left


def no_headers(n: int) -> Headers:
    """Headers of n rows, none of which are to be used."""
    zeros = np.zeros(n, np.uint64)
    nothing = np.zeros(n, np.bool_)
    return Headers(nothing, zeros, zeros, zeros, np.zeros(n, np.uint8), np.full(n, -1, np.int64), nothing, zeros)
