"""By request id: what an id that goes with a request from hop to hop says where numbers and threads say nothing."""

import numpy as np
from numpy.typing import NDArray

from bridge.linker.matching import LOOSE, Edges, Side, edges, only, sides
from bridge.linker.offsets import Clocks
from bridge.linker.times import INSIDE, Rows, containment
from bridge.spans import Direction, Kind, SpanColumns
from bridge.spans.ids import combine

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]


def pair_by_request_id(columns: SpanColumns, clocks: Clocks, incoming: Rows, outgoing: Rows) -> tuple[Rows, Rows]:
    """Incoming rows with the outgoing ones of other processes that have their request id; rows of both.

    Of several outgoing spans in whose time the incoming one began that is taken which lies inside all the others: the
    id went on from hop to hop. Of several incoming spans of one that which holds all the others.
    """
    ids = columns.request_id
    ins, outs = sides(columns, clocks, (incoming, ids[incoming]), (outgoing, ids[outgoing]))

    def elsewhere(a: Rows, b: Rows) -> Mask:
        other: Mask = (columns.sender[a] != columns.sender[b]) | (columns.pid[a] != columns.pid[b])
        return other

    found = edges(columns, clocks, ins, outs, elsewhere)
    found = found.take(found.fit >= LOOSE)
    found = _innermost(columns, found, outs)
    found = _outermost(found, ins)
    return ins.rows[found.incoming], outs.rows[found.outgoing]


def _innermost(columns: SpanColumns, found: Edges, outs: Side) -> Edges:
    """Of each incoming span the edge to the outgoing one that lies inside all the others, which are of other processes.

    None where there is no such: calls that one process made at the same time cannot be told apart.
    """
    rows, at, end = outs.rows[found.outgoing], outs.at_ns[found.outgoing], outs.end_ns[found.outgoing]
    order = np.lexsort((-end, at, found.incoming))
    starts, last = _groups(found.incoming[order])
    if not order.size:
        return found
    at, end = at[order], end[order]
    process = combine((columns.sender[rows[order]], columns.pid[rows[order]]))
    siblings = np.add.reduceat(process == process[np.repeat(last, last - starts + 1)], starts, dtype=np.int64)
    clear = (siblings == 1) & (np.minimum.reduceat(end, starts) == end[last])
    clear &= (starts == last) | (at[last] > at[last - 1])
    return found.take(np.sort(order[last[clear]]))


def _outermost(found: Edges, ins: Side) -> Edges:
    """Of each outgoing span the edge to the incoming one that holds all the others; none where there is no such."""
    at, end = ins.at_ns[found.incoming], ins.end_ns[found.incoming]
    order = np.lexsort((-end, at, found.outgoing))
    starts, last = _groups(found.outgoing[order])
    if not order.size:
        return found
    at, end = at[order], end[order]
    following = np.minimum(starts + 1, order.size - 1)
    clear = (np.maximum.reduceat(end, starts) == end[starts]) & ((starts == last) | (at[following] > at[starts]))
    return found.take(np.sort(order[starts[clear]]))


def _groups(ascending: I64Array) -> tuple[I64Array, I64Array]:
    """Where runs of equal values begin, and where they end."""
    new = np.ones(ascending.size, np.bool_)
    new[1:] = ascending[1:] != ascending[:-1]
    starts = np.flatnonzero(new)
    return starts, np.append(starts[1:], ascending.size)[: starts.size] - 1


def assign_by_request_id(columns: SpanColumns, clocks: Clocks, children: Mask, parents: Mask, *, slack_ns: int) -> Rows:
    """Row of the entry with the request id of each exit of its process, in whose time it began; -1 for none.

    -1, too, where several of the nearest entries are open: a process that is called again about one request cannot
    tell them apart.
    """
    parent = np.full(len(columns), -1, np.int64)
    if not columns.request_id.any():
        return parent
    named = (columns.request_id != 0) & (columns.pid != 0)
    exits = np.flatnonzero(children & named & (columns.direction == Direction.OUTGOING) & (columns.kind != Kind.ENTRY))
    entries = np.flatnonzero(parents & named & (columns.kind == Kind.ENTRY))
    keys = [combine((columns.request_id[r], columns.sender[r], columns.pid[r])) for r in (exits, entries)]
    inner, outer = sides(columns, clocks, (exits, keys[0]), (entries, keys[1]))

    def open_then(a: Rows, b: Rows) -> Mask:
        inside: Mask = containment(columns, a, b, slack_ns=slack_ns, whole=False) == INSIDE
        return inside

    found = edges(columns, clocks, inner, outer, open_then)
    found = found.take(only(found.incoming))
    parent[inner.rows[found.incoming]] = outer.rows[found.outgoing]
    return parent
