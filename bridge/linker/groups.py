"""Which rows belong together: keys, groups, and threads' timelines, kept up to date row by row.

`Groups` is the compiled index where it could be built and `PlainGroups`, its twin in plain Python, elsewhere: slower
and larger, but the same answers. What both promise is written at the methods of `PlainGroups`.

A waiting row is named by its slot; a row that left by its slot among those, with `LEFT` added where both may stand.
"""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.keys import LANES, NET, THREAD, TRACE

I32Array = NDArray[np.int32]
I64Array = NDArray[np.int64]
U64Array = NDArray[np.uint64]
U8Array = NDArray[np.uint8]

LEFT: Final = 1 << 30
"""Added to the slot of a row that left."""
MAX_CONTEXT: Final = 64
"""Rows that left are looked up by key up to this many, newest first."""
MAX_FRAGMENTS: Final = 128
"""Exits without a parent that one entry looks at, earliest first."""
MAX_TIES: Final = 16
"""Entries of one thread and ktime that an exit may belong to."""

QUIET: Final = 1
AGE: Final = 2
SIZE: Final = 3
FORCED: Final = 4

ENTRY: Final = 1
INCOMING: Final = 2
OUTGOING: Final = 4
EXIT: Final = 8
NAMED: Final = 16
"""What a row is, as bits: the first four by its kind and direction, NAMED if it has a request id."""
MET: Final = 32
"""Added by the index: a row of the other direction has the row's NET key."""
PARENTED: Final = 64
"""Added by the index: the exit's thread, or its thread trace id, names an entry in whose time it began."""
OPEN: Final = 128
"""For `set_open`: free for whoever asks."""

_Node = tuple[int, int, int, int]
"""(at, sequence, ref, end): a row on a timeline."""


class _Forest:
    """Timelines by key; each is sorted by time, and by order of insertion where times are equal."""

    def __init__(self) -> None:
        self._lines: dict[int, list[_Node]] = defaultdict(list)
        self._where: dict[int, tuple[int, _Node]] = {}
        self._sequence = 0

    def insert(self, line: int, at: int, end: int, ref: int) -> None:
        self._sequence += 1
        node = (at, self._sequence, ref, end)
        insort(self._lines[line], node)
        self._where[ref] = (line, node)

    def remove(self, ref: int) -> bool:
        found = self._where.pop(ref, None)
        if found is None:
            return False
        line, node = found
        nodes = self._lines[line]
        del nodes[bisect_left(nodes, node)]
        if not nodes:
            del self._lines[line]
        return True

    def rename(self, ref: int, new: int) -> None:
        line, node = self._where.pop(ref)
        nodes = self._lines[line]
        renamed = (node[0], node[1], new, node[3])
        nodes[bisect_left(nodes, node)] = renamed
        self._where[new] = (line, renamed)

    def place(self, ref: int) -> tuple[int, int]:
        """Timeline and time of a row."""
        line, node = self._where[ref]
        return line, node[0]

    def holds(self, ref: int, at: int) -> bool:
        """Whether this time lies in that of a row."""
        _, (begin, _, _, end) = self._where[ref]
        return begin <= at <= end

    def __contains__(self, ref: int) -> bool:
        return ref in self._where

    def latest(self, line: int, at: int) -> list[int]:
        """Refs of the latest rows that began at or before `at` and had not ended then, up to `MAX_TIES`."""
        nodes = self._lines.get(line, [])
        for node in reversed(nodes[: bisect_right(nodes, (at, self._sequence + 1))]):
            if node[3] >= at:
                start = bisect_left(nodes, (node[0], 0))
                ties = nodes[start : bisect_right(nodes, (node[0], self._sequence + 1))]
                return [t[2] for t in ties if t[3] >= at][:MAX_TIES]
        return []

    def between(self, ref: int, other: "_Forest") -> list[int]:
        """Refs of up to `MAX_FRAGMENTS` + 1 rows of the other forest within the time of this row, earliest first."""
        line, (low, _, _, high) = self._where[ref]
        nodes = other._lines.get(line, [])
        start = bisect_left(nodes, (low, 0))
        return [n[2] for n in nodes[start : start + MAX_FRAGMENTS + 1] if n[0] <= high]


class PlainGroups:
    """The index in plain Python."""

    def __init__(self) -> None:
        self._key: dict[int, int] = {}
        self._thread_entries: dict[int, int] = {}
        self._both_ways: set[int] = set()
        self._marks: dict[int, int] = {}
        self._members: dict[int, list[int]] = {}
        self._root: dict[int, int] = {}
        self._times: dict[int, tuple[int, int]] = {}
        self._waiting: set[int] = set()
        self._checked: set[int] = set()
        self._gone: set[int] = set()
        self._context: dict[int, int] = {}
        self._oversize: list[int] = []
        self._entries, self._exits = _Forest(), _Forest()
        self._held: set[int] = set()
        self._left: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)
        self._left_live: set[int] = set()
        self._max_size = 1 << 30
        self.mark = 0
        """How many keys of rows that left were indexed so far."""
        self._forgotten = 0
        self.fragments_capped = 0
        """Entries that had more exits without a parent to look at than `MAX_FRAGMENTS`."""
        self.context_capped = 0
        """Keys that more rows share, among those that left, than `MAX_CONTEXT`."""

    def add(self, slots: I32Array, keys: U64Array, kinds: U8Array, arrivals: I64Array, max_size: int) -> None:
        """Let n rows wait: each joins the group of every waiting row it shares a key with.

        keys: shape (n, LANES), 0 for none. kinds: bits from ENTRY to NAMED. A group that reaches `max_size` rows is
        listed by `oversize`.
        """
        self._max_size = max_size
        for slot, row, kind, arrival in _rows(slots, keys, kinds, arrivals):
            self._waiting.add(slot)
            self._marks[slot] = kind
            self._root[slot], self._members[slot], self._times[slot] = slot, [slot], (arrival, arrival)
            for lane, key in enumerate(row):
                if key:
                    first = self._key.setdefault(key, slot)
                    self._union(slot, first)
                    if lane == NET:
                        self._meet(slot, first, key)
                    if lane == THREAD and kind & ENTRY:
                        self._thread_entries.setdefault(key, slot)

    def _meet(self, slot: int, first: int, key: int) -> None:
        if key in self._both_ways:
            self._marks[slot] |= MET
        elif (self._marks[slot] | self._marks[first]) & (INCOMING | OUTGOING) == INCOMING | OUTGOING:
            self._both_ways.add(key)
            self._marks[slot] |= MET
            self._marks[first] |= MET

    def _union(self, a: int, b: int) -> None:
        a, b = self._root[a], self._root[b]
        if a == b:
            return
        if len(self._members[a]) < len(self._members[b]):
            a, b = b, a
        small = self._members.pop(b)
        before = len(self._members[a])
        for slot in small:
            self._root[slot] = a
        self._members[a].extend(small)
        (first_a, last_a), (first_b, last_b) = self._times[a], self._times.pop(b)
        self._times[a] = (min(first_a, first_b), max(last_a, last_b))
        if before < self._max_size <= len(self._members[a]):
            self._oversize.append(a)

    def unite(self, slots: I32Array, others: I32Array) -> None:
        """Join the groups of n pairs of rows, both of which wait; pairs that do not are passed over."""
        for a, b in _rows(slots, others):
            if a in self._waiting and b in self._waiting:
                self._union(a, b)

    def marks(self, slots: I32Array) -> U8Array:
        """What these rows are, as bits from ENTRY to OPEN; 0 for rows that do not wait.

        A row that waits and whose NET key rows of both directions have is not MET if it came before the second of them
        and was not the first: copies are. `met` knows better.
        """
        return np.asarray([self._marks[s] if s in self._waiting else 0 for s in slots.tolist()], np.uint8)

    def set_open(self, slots: I32Array, value: bool) -> None:
        """Set OPEN at these rows, those that wait, or take it away; it is gone when the slot is used again."""
        for slot in slots.tolist():
            if slot in self._waiting:
                self._marks[slot] = self._marks[slot] & ~OPEN | value * OPEN

    def met(self, keys: U64Array) -> U8Array:
        """1 for each NET key that waiting rows of both directions have, or a row that left."""
        return np.asarray([k in self._both_ways or any(self._newest(k, MAX_CONTEXT)) for k in keys.tolist()], np.uint8)

    def open(self, refs: I32Array, timelines: U64Array, at_ns: I64Array, end_ns: I64Array) -> None:
        """Put entries on their timelines; a row of timeline 0 is on none."""
        for ref, line, at, end in _rows(refs, timelines, at_ns, end_ns):
            if line:
                self._entries.insert(line, at, end, ref)

    def hold(self, slots: I32Array, timelines: U64Array, at_ns: I64Array) -> None:
        """Put exits that are to be looked at later on their timelines, for entries that leave before."""
        for slot, line, at in _rows(slots, timelines, at_ns):
            if line:
                self._exits.insert(line, at, at, slot)
                self._held.add(slot)

    def resolve(self, slots: I32Array, timelines: U64Array, at_ns: I64Array, threads: U64Array) -> None:
        """Look for the entry of exits that still wait: the latest of their thread that was open then.

        An exit whose THREAD key (`threads`) an entry has, waiting or left, needs none. An entry that waits joins
        groups with the exit, one that left becomes its context, and an exit that finds none is kept for `claim`.
        """
        for slot, line, at, thread in _rows(slots, timelines, at_ns, threads):
            if slot not in self._waiting or not line:
                continue
            self._resolve(slot, line, at, thread)

    def _resolve(self, slot: int, line: int, at: int, thread: int) -> None:
        self._held.discard(slot)
        known = thread != 0 and self._has_entry(thread)
        found = [] if known else self._entries.latest(line, at)
        self._marks[slot] &= ~PARENTED
        if found or (known and not self._outside(at, thread)):
            self._marks[slot] |= PARENTED
        if known or found:
            self._exits.remove(slot)
        elif slot not in self._exits:
            self._exits.insert(line, at, at, slot)
        for ref in found:
            if ref >= LEFT:
                self._context[slot] = ref - LEFT
            else:
                self._union(slot, ref)

    def _outside(self, at: int, thread: int) -> bool:
        """Whether the first waiting entry with this THREAD key was not open then, as far as is known."""
        entry = self._thread_entries.get(thread)
        return entry is not None and entry in self._entries and not self._entries.holds(entry, at)

    def _has_entry(self, thread: int) -> bool:
        return thread in self._thread_entries or any(e for _, _, e in self._newest(thread, MAX_CONTEXT))

    def claim(self, slots: I32Array, *, held: bool) -> None:
        """Join entries that still wait with the waiting exits within their time that have found no entry.

        held: exits that are on `hold` look for their entry now; else they are left to their time.
        """
        for slot in slots.tolist():
            if slot not in self._waiting or slot not in self._entries:
                continue
            found = self._entries.between(slot, self._exits)
            if len(found) > MAX_FRAGMENTS:
                self.fragments_capped += 1
            for ref in found[:MAX_FRAGMENTS]:
                if ref >= LEFT:
                    continue
                if ref not in self._held:
                    self._exits.remove(ref)
                    self._union(slot, ref)
                    self._marks[ref] |= PARENTED
                elif held:
                    self._resolve(ref, *self._exits.place(ref), 0)

    def oversize(self) -> I32Array:
        """One waiting row of each group that grew to `max_size`, listed once."""
        slots = [s for s in self._oversize if s in self._waiting]
        self._oversize = []
        return np.asarray(slots, np.int32)

    def due(
        self, slots: I32Array, now: int, window: int, max_age: int, max_size: int, *, force: bool
    ) -> tuple[I32Array, I64Array, U8Array]:
        """Groups of these rows that may leave now, each once: their members, one group after another, its size and why.

        QUIET: nothing joined for `window`; AGE: its first row came `max_age` ago; SIZE: it has `max_size` rows;
        FORCED: with `force`, every other. Changes nothing.
        """
        members: list[int] = []
        sizes: list[int] = []
        reasons: list[int] = []
        for root in dict.fromkeys(self._root[s] for s in slots.tolist() if s in self._waiting):
            first, last = self._times[root]
            size = len(self._members[root])
            reason = (
                QUIET if last + window <= now else AGE if now - first >= max_age else SIZE if size >= max_size else 0
            )
            if reason or force:
                members += self._members[root]
                sizes.append(size)
                reasons.append(reason or FORCED)
        return np.asarray(members, np.int32), np.asarray(sizes, np.int64), np.asarray(reasons, np.uint8)

    def context(self, slots: I32Array, keys: U64Array) -> I32Array:
        """Rows that left and that these waiting rows may be related to: their slots, sorted.

        By key, the newest `MAX_CONTEXT` (the newest one by the TRACE key); the entry that `resolve` found; and exits
        that left without a parent within the time of an entry.
        """
        found: set[int] = set()
        for slot, row in _rows(slots, keys):
            for lane, key in enumerate(row):
                newest = list(self._newest(key, 1 if lane == TRACE else MAX_CONTEXT + 1)) if key else []
                if len(newest) > MAX_CONTEXT:
                    self.context_capped += 1
                found.update(left for _, left, _ in newest[:MAX_CONTEXT])
            if self._context.get(slot) in self._left_live:
                found.add(self._context[slot])
            if slot in self._entries:
                near = self._entries.between(slot, self._exits)[:MAX_FRAGMENTS]
                found.update(ref - LEFT for ref in near if ref >= LEFT)
        return np.asarray(sorted(found), np.int32)

    def parents(self, keys: U64Array, timelines: U64Array, at_ns: I64Array) -> I32Array:
        """Rows that left and that may be parents of others that left: their slots, sorted.

        By NET and THREAD key, the newest `MAX_CONTEXT`; and the latest entries of a timeline (0: none) that were open.
        """
        found: set[int] = set()
        for row, line, at in _rows(keys, timelines, at_ns):
            for key in (row[NET], row[THREAD]):
                found.update(left for _, left, _ in self._newest(key, MAX_CONTEXT))
            if line:
                found.update(ref - LEFT for ref in self._entries.latest(line, at) if ref >= LEFT)
        return np.asarray(sorted(found), np.int32)

    def _newest(self, key: int, most: int) -> Iterator[tuple[int, int, bool]]:
        chain = self._left.get(key, [])
        return (e for e in reversed(chain[-most:]) if e[0] > self._forgotten)

    def depart(self, slots: I32Array, keys: U64Array) -> I32Array:
        """Let whole groups leave; return the slots that may be used again, namely those that were `checked`."""
        for slot, row in _rows(slots, keys):
            root = self._root.pop(slot)
            self._members.pop(root, None)
            self._times.pop(root, None)
            for key in row:
                self._key.pop(key, None)
                self._thread_entries.pop(key, None)
                self._both_ways.discard(key)
            self._waiting.remove(slot)
            del self._marks[slot]
            self._held.discard(slot)
            self._context.pop(slot, None)
            if slot not in self._checked:
                self._gone.add(slot)
        free = [s for s in slots.tolist() if s in self._checked]
        self._checked.difference_update(free)
        return np.asarray(free, np.int32)

    def checked(self, slots: I32Array) -> I32Array:
        """Note that these rows have waited for a window; return those that left before, whose slots are free now."""
        free = [s for s in slots.tolist() if s in self._gone]
        self._gone.difference_update(free)
        self._checked.update(s for s in slots.tolist() if s in self._waiting)
        return np.asarray(free, np.int32)

    def settle(
        self,
        slots: I32Array,
        left: I32Array,
        keys: U64Array,
        entry: U8Array,
        timelines: U64Array,
        at_ns: I64Array,
        parentless: U8Array,
    ) -> None:
        """Remember rows that departed under their slots among those that left, -1 for a row that is not remembered.

        slots: -1 for a row that did not wait here (after a restart). parentless: 1 for an exit without a parent, which
        stays to be found by entries.
        """
        rows = _rows(slots, left, keys, entry, timelines, at_ns, parentless)
        for slot, new, row, is_entry, line, at, alone in rows:
            keep = new >= 0
            if keep:
                self._left_live.add(new)
            for forest, stays in ((self._entries, keep), (self._exits, keep and alone)):
                if slot >= 0 and slot in forest:
                    if stays:
                        forest.rename(slot, new + LEFT)
                    else:
                        forest.remove(slot)
            if keep and alone and line and new + LEFT not in self._exits:
                self._exits.insert(line, at, at, new + LEFT)
            for lane in range(LANES if keep else 0):
                if row[lane]:
                    self.mark += 1
                    self._left[row[lane]].append((self.mark, new, bool(is_entry) and lane == THREAD))

    def compact(self) -> None:
        """Take as little memory as may be. An index does so by itself where it is worth the time; answers stay."""

    def forget(self, left: I32Array, mark: int) -> None:
        """Forget rows that left, and the keys indexed up to `mark`."""
        for slot in left.tolist():
            self._left_live.discard(slot)
            self._entries.remove(slot + LEFT)
            self._exits.remove(slot + LEFT)
        self._forgotten = mark
        for key in [k for k, chain in self._left.items() if chain[0][0] <= mark]:
            self._left[key] = [e for e in self._left[key] if e[0] > mark]
            if not self._left[key]:
                del self._left[key]


def _rows(*columns: NDArray[np.generic]) -> Iterable[tuple]:  # type: ignore[type-arg]  # one item per column
    return zip(*(c.tolist() for c in columns), strict=True)


if TYPE_CHECKING:
    Groups = PlainGroups
else:
    try:
        from bridge.linker._groups import Groups
    except ImportError:  # no C compiler was there when the bridge was installed
        Groups = PlainGroups
