"""Whether threads tell anything about a process: its own rows say so.

A thread that serves one request at a time makes sure edges. An event loop serves many at once, a pool runs calls on
whatever thread is free; an agent that follows threads is wrong there, and says so by entries of one thread that
overlap, exits outside their entry's time, exits on threads that serve no request.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.keys import entry_ends, placed, timelines
from bridge.linker.times import OUTSIDE, containment, ends
from bridge.linker.timing.scene import open_entries, processes
from bridge.spans import Kind, SpanColumns

I64Array = NDArray[np.int64]
U64Array = NDArray[np.uint64]
Mask = NDArray[np.bool_]

_CROWDED: Final = 0.02
"""Share of a process's entries that may begin while another one of their thread is open."""
_TIME_BITS: Final = 38
_MANY: Final = 65_536
_SECOND: Final = 30
_ASTRAY: Final = 0.2
"""Share of a process's exits that may find no entry on their thread though one of the process is open, and though that
thread went on to another request, or serves none."""


def doubtful(
    columns: SpanColumns,
    parent: I64Array,
    by_thread: Mask,
    left_over: Mask,
    entries: Mask,
    by_id: I64Array,
    crowded: I64Array,
    *,
    slack_ns: int,
) -> I64Array:
    """Rows whose edge by thread does not hold: it lies outside the entry's time, or threads mean nothing there.

    parent: shape (n,), rows of parents. by_thread: rows whose edge is by thread or thread trace id. left_over: exits
    that found no entry. entries: rows that may be parents. by_id: rows that found theirs by thread trace id. crowded:
    entries of the others' threads that began while the one before on their thread was open.
    """
    rows = np.flatnonzero(by_thread)
    late = _late(columns, rows, parent[rows], slack_ns)
    crowded = np.concatenate([crowded, _crowded(columns, parent[by_id])])
    astray = np.flatnonzero(left_over & (columns.kind == Kind.EXIT))
    if not (late.size or astray.size or crowded.size):
        return late
    process = processes(columns)
    suspects = np.unique(process[np.concatenate([late, astray, crowded])])
    suspects = suspects[suspects != 0]
    suspects = suspects[_not_followed(columns, process, suspects, entries, left_over)]
    return np.union1d(late, rows[np.isin(process[rows], suspects)]) if suspects.size else late


def _late(columns: SpanColumns, rows: I64Array, parents: I64Array, slack_ns: int) -> I64Array:
    """Rows that begin outside their parent's time; most plainly begin in it, which is seen at less cost."""
    since, began = columns.ktime[rows] - columns.ktime[parents], columns.ktime[parents] > 0
    inside = (columns.sender[rows] == columns.sender[parents]) & began & (since >= 0)
    inside &= since <= columns.end_ns[parents] - columns.start_ns[parents]
    rest = np.flatnonzero(~inside)
    outside = containment(columns, rows[rest], parents[rest], slack_ns=slack_ns, whole=False) == OUTSIDE
    late: I64Array = rows[rest[outside]]
    return late


def _not_followed(columns: SpanColumns, process: U64Array, suspects: U64Array, entries: Mask, left_over: Mask) -> Mask:
    """Which of these processes do not serve one request at a time on each thread."""
    rows = np.flatnonzero(placed(columns) & np.isin(process, suspects))
    number = np.searchsorted(suspects, process[rows])
    entry, at, end = entries[rows] & (columns.kind[rows] == Kind.ENTRY), columns.ktime[rows], entry_ends(columns)[rows]
    crowded = _overlapping(columns, rows[entry], number[entry], suspects.size)
    served = np.bincount(number[entry], minlength=suspects.size)
    order = np.lexsort((at, number))
    candidates = np.empty(rows.size, np.int64)
    candidates[order] = open_entries(number[order], at[order], end[order], entry[order])
    inside = (columns.kind[rows] == Kind.EXIT) & (candidates > 0)
    exits = np.bincount(number[inside], minlength=suspects.size)
    alone = inside & left_over[rows]
    alone[alone] = ~_may_come(columns, rows[alone], rows[entry])
    astray = np.bincount(number[alone], minlength=suspects.size)
    return (crowded > _CROWDED * served) | (astray > _ASTRAY * exits)


def _may_come(columns: SpanColumns, exits: I64Array, entries: I64Array) -> Mask:
    """Which of these exits are of a thread that serves requests, none of which began later: theirs may go on."""
    lines, at = _lines(columns, entries), columns.ktime[entries]
    if not lines.size:
        return np.zeros(exits.size, np.bool_)
    order = np.lexsort((at, lines))
    lines, at = lines[order], at[order]
    asked = _lines(columns, exits)
    last = np.searchsorted(lines, asked, "right") - 1
    may: Mask = (lines[last] == asked) & (last >= 0) & (at[last] <= columns.ktime[exits])
    return may


def _lines(columns: SpanColumns, rows: I64Array) -> U64Array:
    return timelines(columns.sender[rows], columns.pid[rows], columns.tid[rows], columns.tid_usr[rows])


def _overlapping(columns: SpanColumns, entries: I64Array, number: I64Array, processes: int) -> I64Array:
    """For each process how many entries begin while the one before on their thread is open."""
    lines = _lines(columns, entries)
    order = np.lexsort((columns.ktime[entries], lines))
    entries, lines, number = entries[order], lines[order], number[order]
    overlap = overlapping(lines, columns.ktime[entries], entry_ends(columns)[entries])
    return np.bincount(number[1:][overlap], minlength=processes)


def _crowded(columns: SpanColumns, parents: I64Array) -> I64Array:
    """Most of these entries, which may repeat, that begin while another one of them on their thread is open.

    Sorted by one key of 26 bits of the thread and 38 of the time: threads that share those may hide some of their
    entries from each other, which a third of the cost makes up for. Of very many only those of each fourth second
    are looked at: where threads are shared it shows there, too.
    """
    mine = np.zeros(len(columns), np.bool_)
    mine[parents] = True
    entries = np.flatnonzero(mine & ((columns.tid | columns.tid_usr) != 0) & (columns.ktime > 0))
    if entries.size > _MANY:
        entries = entries[columns.ktime[entries] >> _SECOND & 3 == 0]
    if entries.size < 2:
        return entries[:0]
    lines = _lines(columns, entries)
    at = columns.ktime[entries]
    since = at - at.min()
    coarse = (since >> max(int(since.max()).bit_length() - _TIME_BITS, 0)).astype(np.uint64)
    order = np.argsort(lines >> np.uint64(_TIME_BITS) << np.uint64(_TIME_BITS) | coarse)
    entries, lines, at = entries[order], lines[order], at[order]
    return entries[1:][overlapping(lines, at, ends(at, columns.start_ns[entries], columns.end_ns[entries]))]


def overlapping(lines: U64Array, at: I64Array, end: I64Array) -> Mask:
    """Shape (n - 1,): which entries, sorted by thread and begin, begin before the one ahead of them has ended."""
    overlap: Mask = (lines[1:] == lines[:-1]) & (at[1:] < end[:-1])
    return overlap
