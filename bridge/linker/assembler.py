"""Which rows leave when: the state between ticks. No I/O, no clock: times are arguments, in ns on the bridge's clock.

A row that waits is in a group with every waiting row it shares a key with; exits and entries without a common key meet
on the timeline of their thread, half a window after they came and again right before their group leaves, when entries
look at exits that came since, too. A group leaves as a whole, when nothing has joined it for a window or when it is too
old or too big. Rows that left stay known for `late_window_ns`: late rows find them as context and take over their
trace.

What rows do not share as keys is found by a second look (`second_look`), where the options ask for it (`timing`): it
holds edges of rows that wait, and unites their groups.

What is decided depends on rows, their times of arrival, the times of ticks and what is allowed to timing
(`limit_timing`) alone, not on how rows are cut into calls of `add`, nor on a restart in between (`restore`).
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bridge.linker.across import Held
from bridge.linker.departing import (
    Departed,
    Leaving,
    by_trace,
    departure,
    joined,
    moved_edges,
    moved_links,
    pass_through,
    tail,
    together,
)
from bridge.linker.groups import AGE, FORCED, LEFT, QUIET, SIZE, Groups, PlainGroups
from bridge.linker.keys import THREAD, RowKeys, row_keys
from bridge.linker.link import Decided, Links, link_by_keys
from bridge.linker.offsets import HostClocks
from bridge.linker.options import LinkOptions
from bridge.linker.remembered import Remembered
from bridge.linker.second_look import SecondLook, kinds_of
from bridge.linker.slots import I32Array
from bridge.linker.waiting import Arrived, Checks, Holds, Received, WaitingRows
from bridge.spans import Decisions, Kind, Outcome, SpanColumns, SpanLinks

Link = Callable[[SpanColumns, LinkOptions, Decided | None, Held | None], Links]

_FLUSH_ROWS = 1 << 16
"""Rows that were added are worked into the state when there are so many: as they came they take twice the memory."""
_REASONS = {QUIET: "groups_quiet", AGE: "groups_age", SIZE: "groups_size", FORCED: "groups_forced"}


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """When traces leave, and how long they are known afterwards."""

    window_ns: int
    late_window_ns: int | None = None
    """None: three windows."""
    max_trace_age_ns: int = 600 * 10**9
    max_trace_spans: int = 20_000
    max_retained_spans: int = 6_000_000
    """Rows that wait are never fewer for it; those that left longest ago are forgotten before their time."""

    @property
    def late_ns(self) -> int:
        """`late_window_ns`, or its default."""
        return 3 * self.window_ns if self.late_window_ns is None else self.late_window_ns


@dataclass(frozen=True, slots=True, eq=False)
class _Left:
    """Rows of one stored batch that left before a restart, in their slots."""

    rows: I32Array
    traces: I32Array
    left_ns: NDArray[np.int64]


class Assembler:
    """Takes rows as they come, lets them go as decided traces."""

    def __init__(
        self,
        link_options: LinkOptions,
        window_options: WindowOptions,
        *,
        link: Link = link_by_keys,
        groups: PlainGroups | None = None,
    ) -> None:
        # timing needs all rows of a process, and so the second look: rows that leave are not that
        self._options, self._window, self._link = replace(link_options, timing=False), window_options, link
        self._groups = Groups() if groups is None else groups
        self._rows, self._left = WaitingRows(), Remembered()
        self._holds, self._checks = Holds(window_options.window_ns), Checks()
        self._second: SecondLook | None = None
        if link_options.timing:
            self._second = SecondLook(self._rows, self._groups, link_options, window_options.window_ns)
        self._pending: list[Arrived] = []
        self._ordinary: list[Received] = []
        self._restored: list[Arrived] = []
        self._restored_left: list[_Left] = []
        self._hosts: HostClocks | None = None
        self._waiting = self._queued = 0
        self._most_left: int | None = None
        self._early = 0
        """Rows forgotten before their time, not counted yet."""
        self._arrival_ns = self._now_ns = 0

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return self._waiting

    @property
    def retained(self) -> int:
        """How many rows are kept, those that left included."""
        return self._waiting + len(self._left)

    @property
    def remembered(self) -> int:
        """How many rows that left are kept."""
        return len(self._left)

    def remember_at_most(self, rows: int) -> None:
        """Of rows that left keep no more than these from the next tick on; those that left longest ago go first."""
        self._most_left = rows

    def limit_timing(self, effort: float) -> None:
        """Let timing look at this share, of 0 to 1, of `timing_budget` from now on."""
        if self._second is not None:
            self._second.limit_timing(effort)

    def add(self, batch: int, columns: SpanColumns, arrival_ns: int) -> None:
        """Take the rows of a stored batch, which arrived at this time."""
        self._finish_restore(arrival_ns)
        self._take(Arrived(batch, columns, arrival_ns))

    def restore(
        self,
        batch: int,
        columns: SpanColumns,
        arrival_ns: int,
        left_rows: NDArray[np.uint32],
        left_ns: NDArray[np.int64],
        decisions: Decisions,
    ) -> None:
        """Take back a stored batch after a restart, in order of number, before anything is added.

        left_rows: positions of rows that left; left_ns: when; decisions: what was decided on them.
        """
        wait = np.ones(len(columns), np.bool_)
        wait[left_rows] = False
        rows = np.flatnonzero(wait)
        self._waiting += rows.size
        self._restored.append(Arrived(batch, columns.take(rows), arrival_ns, rows.astype(np.uint32)))
        # a copy that was folded tells late rows nothing: the span it is a copy of does
        kept = np.flatnonzero(decisions.outcome != Outcome.FOLDED)
        left_ns = left_ns[kept]
        slots, traces = self._left.put(columns.take(left_rows), decisions, left_ns, kept)
        self._restored_left.append(_Left(slots, traces, left_ns))

    def tick(self, now_ns: int, *, leave: bool = True, force: bool = False, most: int | None = None) -> Departed:
        """Let go what may leave at this time.

        leave: False lets nothing go (right after a start). force: everything that waits leaves. most: about so many
        rows leave: groups whose last row is among the first so many that are due, and as many ordinary ones, in whole
        batches; the rest may at the next tick, which then is due at once (`Departed.more`).
        """
        self._finish_restore(now_ns)
        now = self._now_ns = max(now_ns, self._now_ns)
        self._beat_until(now)
        self._flush()
        self._forget(now - self._window.late_ns)
        if not (leave or force):
            return Departed(joined([]), {})
        counts: Counter[str] = Counter()
        if self._second is not None:
            if force:
                self._second.beat(now, last=True)
            counts.update(self._second.counts)
            self._second.counts.clear()
        parts = [*self._let_ordinary_go(now, most), *self._let_groups_go(now, force, most, counts)]
        counts["forgotten_early"], self._early = self._early, 0
        for name in ("fragments_capped", "context_capped"):
            counts[name] += getattr(self._groups, name)
            setattr(self._groups, name, 0)
        more = bool(self._ordinary) or self._checks.has(self._due_until(now, force))
        return Departed(joined(parts, self._hosts), counts, more=more)

    # --- in --------------------------------------------------------------------------------------------------------

    def _take(self, arrived: Arrived) -> None:
        """Queue rows; they are worked into the state at the next beat or tick."""
        n = len(arrived)
        if not n:
            return
        self._arrival_ns = max(arrived.arrival_ns, self._arrival_ns)
        self._beat_until(self._arrival_ns - 1)
        if arrived.arrival_ns < self._arrival_ns:
            arrived = replace(arrived, arrival_ns=self._arrival_ns)
        self._pending.append(arrived)
        self._waiting += n
        self._queued += n
        if self._queued >= _FLUSH_ROWS:
            self._flush()

    def _beat_until(self, until_ns: int) -> None:
        """Look, beat by beat, at rows whose hold has passed; each beat sees what had come by then."""
        beats = self._holds if self._second is None else self._second
        while True:
            if self._pending and beats.beat_of(self._pending[0].arrival_ns) <= until_ns:
                self._flush()
            at_ns = min((t for t in (self._holds.next_ns, beats.next_ns) if t is not None), default=None)
            if at_ns is None or at_ns > until_ns:
                return
            self._flush()
            if at_ns == self._holds.next_ns:
                self._look(*self._holds.pop())
            elif self._second is not None:
                self._second.beat(at_ns)

    def _flush(self) -> None:
        """Work queued rows into the state."""
        if not self._pending:
            return
        received, self._pending, self._queued = Received.of(self._pending), [], 0
        ordinary = received.columns.kind == Kind.ORDINARY
        if ordinary.any():
            self._ordinary.append(received.take(ordinary))
            received = received.take(~ordinary)
        columns, arrival_ns = received.columns, received.arrival_ns
        slots, entry = self._rows.put(received), columns.kind == Kind.ENTRY
        kinds = entry.view(np.uint8) if self._second is None else kinds_of(columns)
        keys, lines, ends = row_keys(columns)
        if self._second is not None:
            self._second.push(arrival_ns, slots)
            self._second.note_crowds(self._arrival_ns, columns, lines, ends)
            astray = self._second.astray(columns)
            keys[astray, THREAD], lines[astray] = 0, 0
        self._groups.add(slots, keys, kinds, arrival_ns, self._window.max_trace_spans)
        on = np.flatnonzero(lines)
        entries, exits = on[entry[on]], on[~entry[on]]
        self._groups.open(slots[entries], lines[entries], columns.ktime[entries], ends[entries])
        self._groups.hold(slots[exits], lines[exits], columns.ktime[exits])
        self._holds.push(arrival_ns[on], slots[on], entry[on])
        self._checks.push(arrival_ns, slots)

    def _look(self, exits: I32Array, entries: I32Array) -> None:
        """Let exits look for their entry, and entries for exits that found none."""
        places = self._rows.exit_places(exits)
        self._groups.resolve(exits, places.timelines, places.at_ns, places.threads)
        self._groups.claim(entries, held=False)

    # --- out -------------------------------------------------------------------------------------------------------

    def _let_ordinary_go(self, now: int, most: int | None) -> list[Leaving]:
        if not self._ordinary:
            return []
        n, rows = 0, 0
        while n < len(self._ordinary) and (most is None or rows < most):
            n, rows = n + 1, rows + len(self._ordinary[n])
        received, self._ordinary = _concatenated(self._ordinary[:n]), self._ordinary[n:]
        received = received.take(by_trace(received.columns))
        decisions = pass_through(received.columns)
        self._waiting -= len(received)
        nowhere = np.full(len(received), -1, np.int32)
        self._remember(now, received.columns, decisions, nowhere, row_keys(received.columns))
        return [departure(received, decisions, SpanLinks.zeros(0), np.arange(len(received)))]

    def _let_groups_go(self, now: int, force: bool, most: int | None, counts: Counter[str]) -> list[Leaving]:
        due = self._due(now, force, most)
        if not due.size:
            return []
        slots, reasons, received, keys = self._leaving(due, now, force)
        if not slots.size:
            return []
        for reason, name in _REASONS.items():
            counts[name] += int((reasons == reason).sum())
        columns, waited, held = received.columns, keys[0], None
        if self._second is not None:
            held, astray = self._second.held(slots), self._second.astray(columns)
            if astray.size:
                keys = (waited.copy(), *keys[1:])
                keys[0][astray, THREAD] = 0
                held = held.staying(astray)
        links = self._linked(*self._context(slots, keys[0]), columns, held)
        counts.update(links.counts)
        self._hosts = links.clocks.hosts
        self._rows.release(self._groups.depart(slots, waited))
        self._waiting -= slots.size
        start = len(links.root) - slots.size
        decisions = tail(links.decisions, start)
        order = together(links.root[start:], len(links.root))
        self._remember(now, columns, decisions, slots, keys, order)
        return [departure(received, decisions, moved_links(links.span_links, start, order), order)]

    def _context(self, slots: I32Array, keys: NDArray[np.uint64]) -> tuple[SpanColumns, Decisions, NDArray[np.int64]]:
        """Rows that left and that these may be related to, with the parents that roots among them would have.

        Without those a late row could be taken for the parent of a root that has a better one.
        """
        near = self._groups.context(slots, keys)
        columns, decisions, order = self._left.take(near)
        tops = columns.take((decisions.ebpf_parent_id == 0) & (columns.kind != Kind.ORDINARY))
        if not len(tops):
            return columns, decisions, order
        entry = tops.kind == Kind.ENTRY
        keys, lines, _ = row_keys(tops)
        keys[entry, THREAD] = 0
        lines[entry] = 0
        parents = self._groups.parents(keys, lines, tops.ktime)
        return self._left.take(np.union1d(near, parents))

    def _linked(
        self,
        known: SpanColumns,
        decisions: Decisions,
        left_order: NDArray[np.int64],
        columns: SpanColumns,
        held: Held | None,
    ) -> Links:
        """Link rows that leave, in order of receipt, behind rows that left, in an order that restarts do not change."""
        if not len(known):
            return self._link(columns, self._options, None, held)
        by = np.lexsort((known.digest, known.span_id, left_order))
        decided = Decided(np.arange(len(known)), decisions.take(by), left_order[by])
        held = None if held is None else moved_edges(held, len(known))
        return self._link(SpanColumns.concatenate([known.take(by), columns]), self._options, decided, held)

    def _due_until(self, now: int, force: bool) -> int | None:
        """Rows that came by then may have to leave now; None: all."""
        return None if force else now - self._window.window_ns

    def _due(self, now: int, force: bool, most: int | None) -> I32Array:
        """Rows of groups that may have to leave now."""
        slots = self._checks.pop(self._due_until(now, force), most)
        self._rows.release(self._groups.checked(slots))
        if force:
            self._holds.clear()
        return np.concatenate([slots, self._groups.oversize()])

    def _leaving(self, due: I32Array, now: int, force: bool) -> tuple[I32Array, NDArray[np.uint8], Received, RowKeys]:
        """Groups of these rows that leave: slots and rows in order of receipt, why each group leaves, keys of rows."""
        those = np.sort(self._due_groups(due, now, force)[0])
        slots = self._rows.in_order(those)
        received = self._rows.take(slots)
        keys = self._keys_of(received.columns)
        self._look_at_last(slots, received.columns, keys)
        members, _, reasons = self._due_groups(slots, now, force)
        members = np.sort(members)
        if not np.array_equal(members, those):
            slots = self._rows.in_order(members)
            received = self._rows.take(slots)
            keys = self._keys_of(received.columns)
        return slots, reasons, received, keys

    def _keys_of(self, columns: SpanColumns) -> RowKeys:
        """Keys of rows that wait; those whose threads tell nothing are on no timeline."""
        keys = row_keys(columns)
        if self._second is not None:
            keys[1][self._second.astray(columns)] = 0
        return keys

    def _look_at_last(self, slots: I32Array, columns: SpanColumns, keys: RowKeys) -> None:
        """Let rows that are to leave look once more, their entries also for exits that did not look yet."""
        group_keys, lines, _ = keys
        on, entry = lines != 0, columns.kind == Kind.ENTRY
        exits = np.flatnonzero(on & ~entry)
        threads = np.ascontiguousarray(group_keys[exits, THREAD])
        self._groups.resolve(slots[exits], lines[exits], columns.ktime[exits], threads)
        self._groups.claim(slots[on & entry], held=True)

    def _due_groups(
        self, slots: I32Array, now: int, force: bool
    ) -> tuple[I32Array, NDArray[np.int64], NDArray[np.uint8]]:
        window = self._window
        return self._groups.due(
            slots, now, window.window_ns, window.max_trace_age_ns, window.max_trace_spans, force=force
        )

    def _remember(
        self,
        now: int,
        columns: SpanColumns,
        decisions: Decisions,
        slots: I32Array,
        keys: RowKeys,
        order: NDArray[np.intp] | None = None,
    ) -> None:
        """Keep rows that left, all but folded copies, and close the tick.

        order: positions that bring rows of one trace together; None: they stand together.
        """
        kept = np.arange(len(columns)) if order is None else order
        folded = decisions.outcome == Outcome.FOLDED
        if folded.any():
            kept = kept[~folded[kept]]
        left = np.full(len(columns), -1, np.int32)
        left[kept], traces = self._left.put(columns, decisions, np.full(kept.size, now), kept)
        self._settle(columns, decisions, slots, left, keys)
        self._left.close_tick(now, left[kept], traces, self._groups.mark)

    def _settle(
        self, columns: SpanColumns, decisions: Decisions, slots: I32Array, left: I32Array, keys: RowKeys
    ) -> None:
        entry = columns.kind == Kind.ENTRY
        alone = (keys[1] != 0) & ~entry & (decisions.ebpf_parent_id == 0)
        self._groups.settle(slots, left, keys[0], entry.view(np.uint8), keys[1], columns.ktime, alone.view(np.uint8))

    def _forget(self, before_ns: int) -> None:
        most = max(0, self._window.max_retained_spans - self._waiting)
        if self._most_left is not None:
            most = min(most, self._most_left)
        forgotten = self._left.forget(before_ns, most)
        if forgotten is not None:
            rows, mark, early = forgotten
            self._groups.forget(rows, mark)
            self._early += early

    # --- restart ---------------------------------------------------------------------------------------------------

    def _finish_restore(self, now: int) -> None:
        """Work restored rows into the state: those that left first, then those that wait, as they came."""
        if not self._restored:
            return
        restored, self._restored = deque(self._restored), []
        self._restore_left(now)
        while restored:  # rows are freed as they are worked in
            arrived = restored.popleft()
            self._waiting -= len(arrived)
            self._take(replace(arrived, arrival_ns=min(arrived.arrival_ns, now)))

    def _restore_left(self, now: int) -> None:
        left, self._restored_left = self._restored_left, []
        left_ns = np.minimum(np.concatenate([x.left_ns for x in left]), now)
        order = np.argsort(left_ns, kind="stable")
        rows = np.concatenate([x.rows for x in left])[order]
        traces = np.concatenate([x.traces for x in left])[order]
        bounds = [0, *(np.flatnonzero(np.diff(left_ns[order])) + 1).tolist(), order.size]
        for start, stop in pairwise(bounds):
            if start < stop:
                self._restore_tick(int(left_ns[order[start]]), rows[start:stop], traces[start:stop])

    def _restore_tick(self, left_ns: int, rows: I32Array, traces: I32Array) -> None:
        columns, decisions, _ = self._left.take(rows)
        nowhere = np.full(rows.size, -1, np.int32)
        keys = row_keys(columns)
        self._settle(columns, decisions, nowhere, rows, keys)
        _, lines, ends = keys
        entries = np.flatnonzero((lines != 0) & (columns.kind == Kind.ENTRY))
        self._groups.open(rows[entries] | LEFT, lines[entries], columns.ktime[entries], ends[entries])
        self._left.close_tick(left_ns, rows, traces, self._groups.mark)


def _concatenated(parts: list[Received]) -> Received:
    return Received(
        np.concatenate([p.batch for p in parts]),
        np.concatenate([p.row for p in parts]),
        SpanColumns.concatenate([p.columns for p in parts]),
        np.concatenate([p.arrival_ns for p in parts]),
    )
