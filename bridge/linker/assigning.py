"""Stage *assign*: the parent of an exit is an entry of its own process. Keyed by thread trace id, then by thread."""

import numpy as np
from numpy.typing import NDArray

from bridge.linker.candidates import Keyed, choose
from bridge.linker.joining import match
from bridge.linker.keys import entry_ends, placed, timelines
from bridge.linker.thread_order import begun
from bridge.linker.threads import overlapping
from bridge.linker.times import Rows, containment
from bridge.spans import Kind, SpanColumns
from bridge.spans.ids import combine, mix

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]


def assign_by_id(
    columns: SpanColumns, children: NDArray[np.bool_], parents: NDArray[np.bool_], *, slack_ns: int
) -> Rows:
    """Row of the entry that has the thread trace id of each span that is no entry, -1 for none; shape (n,).

    A thread trace id of 0 joins nothing. Of several entries one of the same process is taken, of several such (or
    none) the one in whose time the span began.
    """
    parent = np.full(len(columns), -1, np.int64)
    named = columns.thread_trace_id != 0
    spans = np.flatnonzero(children & named & (columns.kind != Kind.ENTRY))
    entries = np.flatnonzero(parents & named & (columns.kind == Kind.ENTRY))
    if not spans.size or not entries.size:
        return parent
    keys, candidate_keys = mix(columns.thread_trace_id[spans]), mix(columns.thread_trace_id[entries])
    found, several = match(candidate_keys, keys)
    parent[spans] = np.where(found >= 0, entries[found], -1)
    if several.any():
        candidates = Keyed(entries, candidate_keys)
        parent[spans[several]] = _closest(columns, spans[several], keys[several], candidates, slack_ns)
    return parent


def _closest(columns: SpanColumns, children: Rows, keys: U64Array, candidates: Keyed, slack_ns: int) -> Rows:
    def fit(inner: Rows, outer: Rows) -> NDArray[np.int8]:
        return containment(columns, inner, outer, slack_ns=slack_ns, whole=False)

    few = candidates.among(keys)
    chosen = choose(columns, children, keys, few, columns.start_ns, fit)
    in_process = Keyed(few.rows, combine((few.keys, columns.sender[few.rows], columns.pid[few.rows])))
    own = combine((keys, columns.sender[children], columns.pid[children]))
    better = choose(columns, children, own, in_process, columns.ktime, fit)
    return np.where((better >= 0) & (columns.pid[children] != 0), better, chosen)


def assign_by_thread(
    columns: SpanColumns, children: NDArray[np.bool_], parents: NDArray[np.bool_]
) -> tuple[Rows, Rows]:
    """Row of the latest entry of each exit's thread that was open at the exit's ktime, -1 for none; shape (n,).

    Also returned: rows of entries that began while the one before on their thread was open. A thread is
    (sender, pid, tid_usr, else tid). An entry without a duration is open for ever. Entries that began at one ktime are
    told apart by their span ids.
    """
    parent = np.full(len(columns), -1, np.int64)
    on = placed(columns)
    exits = np.flatnonzero(children & on & (columns.kind == Kind.EXIT))
    entries = np.flatnonzero(parents & on & (columns.kind == Kind.ENTRY))
    if not exits.size or not entries.size:
        return parent, np.empty(0, np.int64)
    lines = _lines(columns, entries)
    order, low, place = begun(
        lines,
        columns.ktime[entries],
        columns.span_id[entries],
        columns.digest[entries],
        _lines(columns, exits),
        columns.ktime[exits],
    )
    entries, lines = entries[order], lines[order]
    end = entry_ends(columns)[entries]
    found = latest_open(end, place, low, columns.ktime[exits])
    parent[exits] = np.where(found >= 0, entries[found], -1)
    return parent, entries[1:][overlapping(lines, columns.ktime[entries], end)]


def _lines(columns: SpanColumns, rows: Rows) -> U64Array:
    return timelines(columns.sender[rows], columns.pid[rows], columns.tid[rows], columns.tid_usr[rows])


def latest_open(ends_at: I64Array, place: I64Array, low: I64Array, at: I64Array) -> I64Array:
    """Largest position p with low <= p <= place and ends_at[p] >= at, -1 for none; shape of place.

    Steps back over runs of entries that had all ended, in powers of two: level k of the table holds the latest end of
    2**k entries, so that a search takes log n steps however many entries a thread has.
    """
    position = place.copy()
    missed = np.flatnonzero((position >= low) & (ends_at[np.maximum(position, 0)] < at))
    if missed.size:
        position[missed] = _step_back(ends_at, position[missed], low[missed], at[missed])
    return np.where(position >= low, position, -1)


def _step_back(ends_at: I64Array, position: I64Array, low: I64Array, at: I64Array) -> I64Array:
    levels = [ends_at]
    longest = int((position - low).max()) + 1
    while 1 << len(levels) <= longest:
        last, half = levels[-1], 1 << (len(levels) - 1)
        level = last.copy()
        level[half:] = np.maximum(last[half:], last[:-half])
        levels.append(level)
    for k in reversed(range(len(levels))):
        fits = position - (1 << k) + 1 >= low
        ended = fits & (levels[k][np.maximum(position, 0)] < at)
        position = np.where(ended, position - (1 << k), position)
    return position
