"""What timing looks at: entries and exits of processes, in order of time."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.times import ends
from bridge.spans import Kind, SpanColumns
from bridge.spans.ids import combine

I32Array = NDArray[np.int32]
I64Array = NDArray[np.int64]
U64Array = NDArray[np.uint64]
Mask = NDArray[np.bool_]

ACTIVE: Final = 256
"""Entries of one process that are looked at for one exit: of more that are open, those that began last."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Entries and exits of p processes, each sorted by process, then by begin. Times are ns on the process's clock."""

    entries_of: I32Array
    """Shape (p + 1,): where the entries of each process begin."""
    exits_of: I32Array
    """Shape (p + 1,): where its exits begin."""
    entry_start: I64Array
    entry_end: I64Array
    """`bridge.linker.times.OPEN_END` where it is not known."""
    entry_operation: I32Array
    """What was asked for: a number from 2 on that no exit and no other kind of process has."""
    entry_thread: I32Array
    """A number per thread; -1 where it is not known."""
    entry_row: I64Array
    """Which row an entry is."""
    exit_start: I64Array
    exit_end: I64Array
    exit_operation: I32Array
    """What was called: a number from 2 on that no entry and no other kind of process has."""
    exit_thread: I32Array
    """A number per thread as of entries; -2 where it is not known, so that it equals none of theirs."""
    exit_row: I64Array
    vague: NDArray[np.uint8]
    """1: when the exit ended is known only roughly."""
    owner: I32Array
    """Position of the entry that an exit is known to belong to, -1 where that is not known."""
    fixed: NDArray[np.uint8]
    """1: `owner` stands."""

    @property
    def entry_process(self) -> I64Array:
        """Number of the process of each entry."""
        return np.repeat(np.arange(self.entries_of.size - 1), np.diff(self.entries_of))

    @property
    def exit_process(self) -> I64Array:
        """Number of the process of each exit."""
        return np.repeat(np.arange(self.exits_of.size - 1), np.diff(self.exits_of))


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of processes, sorted by process, then by begin."""

    rows: I64Array
    process: I64Array
    at: I64Array
    end: I64Array
    entry: Mask
    wanted: Mask
    """Exits whose parent is wanted."""

    def take(self, keep: Mask) -> "_Rows":
        return _Rows(
            self.rows[keep], self.process[keep], self.at[keep], self.end[keep], self.entry[keep], self.wanted[keep]
        )


def scene_of(
    columns: SpanColumns,
    parent: I64Array,
    entries: Mask,
    wanted: Mask,
    *,
    budget: int,
    vague: Mask | None = None,
    endpoint: U64Array | None = None,
) -> tuple[Scene | None, int]:
    """The processes that have exits whose parent is wanted, with all their entries and exits (None: there are none).

    parent: shape (n,), row of the parent that a row is known to have, -1 for none. entries: rows that may be parents.
    budget: most pairs of a wanted exit and an entry to be looked at; processes with few of them come first, those
    beyond are left out. vague: exits whose end is known only roughly. endpoint: what is asked for at a row, 0 where it
    is not known.
    Also returned: how many wanted exits with an entry to look at were left out for the budget.
    """
    if not wanted.any():
        return None, 0
    process = processes(columns)
    known = (parent >= 0) & (columns.kind == Kind.EXIT) & ~wanted & entries[parent] & (process[parent] == process)
    placed = process != 0
    both = np.intersect1d(process[wanted & placed], process[entries & placed])
    rows = np.flatnonzero((entries | known | wanted) & np.isin(process, both))
    if not both.size or not rows.size:
        return None, 0
    found, skipped = _within_budget(_sorted(columns, rows, process, both, entries, wanted), budget)
    if not found.wanted.any():
        return None, skipped
    roughly = np.zeros(len(columns), np.bool_) if vague is None else vague
    return _scene(columns, parent, found, roughly, endpoint), skipped


def processes(columns: SpanColumns) -> U64Array:
    """A key per process, 0 where it is not known: sender and pid, or sender and service where there is no pid."""
    known = columns.pid != 0
    key = combine((columns.sender, np.where(known, columns.pid, ~columns.service)))
    return np.where(known | (columns.service != 0), np.maximum(key, np.uint64(1)), np.uint64(0))


def _sorted(
    columns: SpanColumns, rows: I64Array, process: U64Array, known: U64Array, entries: Mask, wanted: Mask
) -> _Rows:
    """Rows by begin: ktime in a process whose rows all have one, start elsewhere; those that have none are left out."""
    number = np.searchsorted(known, process[rows])
    without = np.bincount(number[columns.ktime[rows] <= 0], minlength=known.size) > 0
    at = np.where(without[number], columns.start_ns[rows], columns.ktime[rows])
    order = np.lexsort((columns.digest[rows], columns.span_id[rows], at, number))
    order = order[at[order] > 0]
    rows, number, at = rows[order], number[order], at[order]
    end = ends(at, columns.start_ns[rows], columns.end_ns[rows])
    return _Rows(rows, number, at, end, entries[rows] & ~wanted[rows], wanted[rows])


def _within_budget(found: _Rows, budget: int) -> tuple[_Rows, int]:
    candidates = np.minimum(open_entries(found.process, found.at, found.end, found.entry), ACTIVE)
    looked_at = found.wanted & (candidates > 0)
    if not looked_at.any():
        return found.take(looked_at), 0
    work = np.bincount(found.process[looked_at], candidates[looked_at], int(found.process[-1]) + 1)
    cheapest = np.argsort(work, kind="stable")
    within = np.zeros(work.size, np.bool_)
    within[cheapest] = (np.cumsum(work[cheapest]) <= budget) & (work[cheapest] > 0)
    return found.take(within[found.process]), int(np.count_nonzero(looked_at & ~within[found.process]))


def open_entries(process: I64Array, at: I64Array, end: I64Array, entry: Mask) -> I64Array:
    """For each row how many entries of its process are open when it begins (itself included, if it is one).

    Rows are sorted by process. An entry is open from its begin to its end, both included.
    """
    n, closing = at.size, np.flatnonzero(entry)
    times = np.concatenate([at[closing], at, end[closing]])
    kind = np.repeat([0, 1, 2], [closing.size, n, closing.size])
    order = np.lexsort((kind, times, np.concatenate([process[closing], process, process[closing]])))
    change = np.repeat([1, 0, -1], [closing.size, n, closing.size])[order]
    count = np.empty(order.size, np.int64)
    count[order] = np.cumsum(change)
    return count[closing.size : closing.size + n]


def _scene(columns: SpanColumns, parent: I64Array, found: _Rows, vague: Mask, endpoint: U64Array | None) -> Scene:
    e = np.flatnonzero(found.entry)
    entry_at = np.full(len(columns), -1, np.int64)
    entry_at[found.rows[e]] = np.arange(e.size)
    owner = np.where(found.wanted, -1, entry_at[parent[found.rows]])
    # an exit that does not begin in the time of the entry it is known to belong to says nothing about the others
    inside = (owner >= 0) & (found.at >= found.at[e][owner]) & (found.at <= found.end[e][owner])
    x = np.flatnonzero(found.wanted | (~found.entry & inside))
    asked, called = _operations(columns, parent, found.rows[e], found.rows[x], endpoint)
    threads = _threads(columns, found.rows)
    numbers, process = np.unique(found.process, return_inverse=True)
    bounds = np.arange(numbers.size + 1)
    return Scene(
        entries_of=np.searchsorted(process[e], bounds).astype(np.int32),
        exits_of=np.searchsorted(process[x], bounds).astype(np.int32),
        entry_start=found.at[e],
        entry_end=found.end[e],
        entry_operation=asked,
        entry_thread=np.where(threads[e] >= 0, threads[e], -1).astype(np.int32),
        entry_row=found.rows[e],
        exit_start=found.at[x],
        exit_end=found.end[x],
        exit_operation=called,
        exit_thread=np.where(threads[x] >= 0, threads[x], -2).astype(np.int32),
        exit_row=found.rows[x],
        vague=vague[found.rows[x]].astype(np.uint8),
        owner=owner[x].astype(np.int32),
        fixed=(~found.wanted[x]).astype(np.uint8),
    )


def _operations(
    columns: SpanColumns, parent: I64Array, entries: I64Array, exits: I64Array, endpoint: U64Array | None
) -> tuple[I32Array, I32Array]:
    """Numbers for what was asked of each entry (at which port, by whom) and what each exit called (which service)."""
    kind = np.where(columns.service != 0, columns.service, processes(columns))
    nothing = np.zeros(len(columns), np.uint64) if endpoint is None else endpoint
    port, caller = columns.src_port[entries].astype(np.uint64), _service_of(columns, parent[entries])
    asked = (kind[entries], port, caller, nothing[entries])
    called = (kind[exits], _called(columns, parent, exits), nothing[exits])
    _, numbers = np.unique(np.concatenate([combine(asked), ~combine(called)]), return_inverse=True)
    operations: I32Array = (numbers + 2).astype(np.int32)
    return operations[: entries.size], operations[entries.size :]


def _service_of(columns: SpanColumns, rows: I64Array) -> U64Array:
    return np.where(rows >= 0, columns.service[rows], np.uint64(0))


def _called(columns: SpanColumns, parent: I64Array, exits: I64Array) -> U64Array:
    """The service behind the address that each exit called, where an entry there is known; else the address."""
    address = combine((columns.dst_ip[exits], columns.dst_port[exits].astype(np.uint64)))
    callees = np.flatnonzero((columns.kind == Kind.ENTRY) & (parent >= 0) & (columns.service != 0))
    service = np.zeros(len(columns), np.uint64)
    np.maximum.at(service, parent[callees], columns.service[callees])
    mine = service[exits]
    known = np.flatnonzero(mine)
    if not known.size:
        return address
    order = known[np.lexsort((mine[known], address[known]))]
    addresses, first = np.unique(address[order], return_index=True)
    at = np.minimum(np.searchsorted(addresses, address), addresses.size - 1)
    return np.where(addresses[at] == address, mine[order][first][at], address)


def _threads(columns: SpanColumns, rows: I64Array) -> I64Array:
    """A number per thread, -1 where it is not known."""
    tid = np.where(columns.tid_usr[rows] != 0, columns.tid_usr[rows], columns.tid[rows])
    key = combine((columns.sender[rows], columns.pid[rows], columns.service[rows], tid))
    _, numbers = np.unique(key, return_inverse=True)
    return np.where(tid != 0, numbers, -1)
