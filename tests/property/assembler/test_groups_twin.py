"""The compiled index and its plain twin give the same answers to any sequence of calls."""

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.linker.groups import ENTRY, EXIT, INCOMING, LEFT, NAMED, OUTGOING, PlainGroups
from bridge.linker.keys import LANES, NET, THREAD, TRACE

compiled = pytest.importorskip("bridge.linker._groups", reason="no C compiler was there")

NET_KEYS = [0xD6E8FEB86659FD93 * k % 2**64 for k in range(1, 4)]
"""Keys of this lane are those of no other: the compiled index keeps in one place what it knows of either."""
KEYS = [0x9E3779B97F4A7C15 * k % 2**64 for k in range(1, 7)]
LINES = [0xC2B2AE3D27D4EB4F * k % 2**64 for k in range(1, 4)]
WINDOW, MAX_SIZE = 10, 6

key = st.sampled_from([0, 0, 0, *KEYS])
row = st.fixed_dictionaries(
    {
        "keys": st.builds(
            lambda net, others: [net, *others],
            st.sampled_from([0, *NET_KEYS]),
            st.lists(key, min_size=LANES - 1, max_size=LANES - 1),
        ),
        "entry": st.booleans(),
        "about": st.sampled_from([0, INCOMING, INCOMING, OUTGOING, OUTGOING | NAMED]),
        "line": st.sampled_from([0, *LINES]),
        "at": st.integers(1, 12),
        "length": st.one_of(st.integers(0, 6), st.just(1 << 60)),
    }
)


class MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    )


class Twins(RuleBasedStateMachine):
    """Rows come, are looked at, leave group by group, and are forgotten, in both indexes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.both = (PlainGroups(), compiled.Groups())
        self.now = 0
        self.rows: dict[int, dict[str, Any]] = {}
        self.free: list[int] = []
        self.fresh = self.fresh_left = 0
        self.free_left: list[int] = []
        self.ticks: list[tuple[list[int], int]] = []

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The twin's answer, after the compiled index gave the same one."""
        plain, fast = (getattr(groups, name)(*args, **kwargs) for groups in self.both)
        if plain is not None and not isinstance(plain, tuple):
            assert sorted(plain.tolist()) == sorted(fast.tolist()), name
        return plain, fast

    def column(self, slots: list[int], name: str, dtype: Any) -> Any:
        shape = (0, LANES) if name == "keys" else (0,)
        return np.asarray([self.rows[s][name] for s in slots], dtype) if slots else np.empty(shape, dtype)

    def slots(self, *, entry: bool | None = None) -> list[int]:
        return [s for s, r in self.rows.items() if entry is None or r["entry"] == entry]

    @rule(rows=st.lists(row, min_size=1, max_size=8), wait=st.integers(0, 4))
    def come(self, rows: list[dict[str, Any]], wait: int) -> None:
        self.now += wait
        slots = []
        for r in rows:
            self.fresh += not self.free
            slot = self.free.pop() if self.free else self.fresh - 1
            self.rows[slot] = r
            slots.append(slot)
        at = np.asarray(slots, np.int32)
        arrivals = np.full(len(slots), self.now, np.int64)
        kinds = np.where(self.column(slots, "entry", np.bool_), ENTRY, EXIT).astype(np.uint8)
        kinds |= self.column(slots, "about", np.uint8)
        self.call("add", at, self.column(slots, "keys", np.uint64), kinds, arrivals, MAX_SIZE)
        entries = [s for s in slots if self.rows[s]["entry"]]
        self.open(np.asarray(entries, np.int32), entries)
        exits = [s for s in slots if not self.rows[s]["entry"]]
        self.call(
            "hold",
            np.asarray(exits, np.int32),
            self.column(exits, "line", np.uint64),
            self.column(exits, "at", np.int64),
        )

    def open(self, refs: Any, slots: list[int]) -> None:
        at = self.column(slots, "at", np.int64)
        self.call("open", refs, self.column(slots, "line", np.uint64), at, at + self.column(slots, "length", np.int64))

    @rule(some=st.integers(1, 3), held=st.booleans())
    def look(self, some: int, held: bool) -> None:
        exits, entries = self.slots(entry=False)[::some], self.slots(entry=True)[::some]
        threads = np.ascontiguousarray(self.column(exits, "keys", np.uint64)[:, THREAD])
        lines, at = self.column(exits, "line", np.uint64), self.column(exits, "at", np.int64)
        self.call("resolve", np.asarray(exits, np.int32), lines, at, threads)
        self.call("claim", np.asarray(entries, np.int32), held=held)

    @rule(a=st.integers(0, 40), b=st.integers(0, 40), marked=st.sampled_from([None, True, True, False]))
    def meet(self, a: int, b: int, marked: bool | None) -> None:
        """Rows that nothing else joins are united, and marked."""
        slots = self.slots()
        if slots:
            pair = [np.asarray([slots[i % len(slots)]], np.int32) for i in (a, b)]
            self.call("unite", *pair)
            if marked is not None:
                self.call("set_open", pair[0], marked)

    @invariant()
    def marked_alike(self) -> None:
        slots = np.asarray(self.slots(), np.int32)
        keys = np.ascontiguousarray(self.column(self.slots(), "keys", np.uint64)[:, NET])
        for name, asked in (("marks", slots), ("met", keys), ("met", np.asarray(NET_KEYS, np.uint64))):
            plain, fast = (getattr(groups, name)(asked) for groups in self.both)
            assert plain.tolist() == fast.tolist(), name

    @rule(wait=st.integers(0, 12), some=st.integers(1, 3), force=st.booleans(), alone=st.integers(0, 2))
    def leave(self, wait: int, some: int, force: bool, alone: int) -> None:
        self.now += wait
        asked = np.asarray(self.slots()[::some], np.int32)
        self.free += self.call("checked", asked)[0].tolist()
        plain, fast = self.call("due", asked, self.now, WINDOW, 3 * WINDOW, MAX_SIZE, force=force)
        assert _groups(*plain) == _groups(*fast)
        self.go(plain[0].tolist(), alone)

    @rule(alone=st.integers(0, 2))
    def leave_by_size(self, alone: int) -> None:
        plain, fast = (groups.oversize() for groups in self.both)
        assert set(plain.tolist()) <= set(self.rows) >= set(fast.tolist())
        asked = zip(self.both, (plain, fast), strict=True)
        found = [g.due(s, self.now, 1 << 40, 1 << 40, MAX_SIZE, force=False) for g, s in asked]
        assert _groups(*found[0]) == _groups(*found[1])
        self.go(found[0][0].tolist(), alone)

    def go(self, slots: list[int], alone: int) -> None:
        leaving = np.asarray(slots, np.int32)
        keys = self.column(slots, "keys", np.uint64)
        self.call("context", leaving, keys)
        lines, at = self.column(slots, "line", np.uint64), self.column(slots, "at", np.int64)
        self.call("parents", keys, lines, at)
        self.free += self.call("depart", leaving, keys)[0].tolist()
        left = []
        for number, _ in enumerate(slots):
            if number % 4 == 3:  # a folded copy
                left.append(-1)
                continue
            self.fresh_left += not self.free_left
            left.append(self.free_left.pop() if self.free_left else self.fresh_left - 1)
        entry, line = self.column(slots, "entry", np.uint8), self.column(slots, "line", np.uint64)
        parentless = np.where((entry == 0) & (line != 0), np.arange(len(slots)) % 3 < alone, 0).astype(np.uint8)
        at = self.column(slots, "at", np.int64)
        self.call("settle", leaving, np.asarray(left, np.int32), keys, entry, line, at, parentless)
        self.ticks.append(([s for s in left if s >= 0], self.both[0].mark))
        for slot in slots:
            del self.rows[slot]

    @rule(rows=st.lists(row, min_size=1, max_size=4))
    def find_again(self, rows: list[dict[str, Any]]) -> None:
        """Rows that left before a restart are settled without having waited here."""
        base = 1 << 20
        slots = list(range(base, base + len(rows)))
        self.rows.update(zip(slots, rows, strict=True))
        left = np.arange(self.fresh_left, self.fresh_left + len(rows), dtype=np.int32)
        self.fresh_left += len(rows)
        entry, line = self.column(slots, "entry", np.uint8), self.column(slots, "line", np.uint64)
        alone = ((entry == 0) & (line != 0)).astype(np.uint8)
        keys, at = self.column(slots, "keys", np.uint64), self.column(slots, "at", np.int64)
        self.call("settle", np.full(len(rows), -1, np.int32), left, keys, entry, line, at, alone)
        entries = [i for i, s in enumerate(slots) if self.rows[s]["entry"]]
        self.open(left[entries] | LEFT, [slots[i] for i in entries])
        self.ticks.append((left.tolist(), self.both[0].mark))
        for slot in slots:
            del self.rows[slot]

    @rule()
    def compact(self) -> None:
        for groups in self.both:
            groups.compact()

    @rule()
    def forget(self) -> None:
        if self.ticks:
            left, mark = self.ticks.pop(0)
            self.call("forget", np.asarray(left, np.int32), mark)
            self.free_left += left

    @invariant()
    def count_alike(self) -> None:
        for name in ("mark", "fragments_capped", "context_capped"):
            assert getattr(self.both[0], name) == getattr(self.both[1], name)


def _groups(members: Any, sizes: Any, reasons: Any) -> set[tuple[frozenset[int], int]]:
    parts = np.split(members, np.cumsum(sizes)[:-1]) if sizes.size else []
    return {(frozenset(p.tolist()), int(r)) for p, r in zip(parts, reasons, strict=True)}


TestTwins = Twins.TestCase
TestTwins.settings = settings(deadline=None)


def test_slots_out_of_bounds_are_refused() -> None:
    """A slot that does not exist raises IndexError before anything is written."""
    groups = compiled.Groups()
    for slots in ([5000], [-2]):
        with pytest.raises(IndexError):
            groups.claim(np.asarray(slots, np.int32), held=False)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("order", ["in order", "backwards", "at random", "few times"])
def test_long_timelines_are_alike(order: str, compacted: bool) -> None:
    """Both indexes find the same earlier entries and exits on lines of hundreds of rows, in whatever order these came,
    when most of them have been forgotten, and when their memory is put in order meanwhile."""
    random = np.random.default_rng(3)
    n = 1_500
    at = np.sort(random.integers(1, 60 if order == "few times" else 5_000, n))
    at = at[::-1].copy() if order == "backwards" else random.permutation(at) if order == "at random" else at
    ends = at + (10 ** (3.3 * random.random(n))).astype(np.int64)
    line, rows = random.integers(1, 3, n).astype(np.uint64), np.arange(n, dtype=np.int32)
    none, entry = np.zeros((n, LANES), np.uint64), random.random(n) < 0.6
    both, live, found_any = (PlainGroups(), compiled.Groups()), np.zeros(n, np.bool_), 0
    waiting = np.array([0, 1], np.int32), np.array([1, 2], np.uint64), np.array([1, 2_500]), np.array([2_000, 6_000])
    for groups in both:
        groups.add(waiting[0], none[:2], np.ones(2, np.uint8), np.ones(2, np.int64), 1 << 20)
        groups.open(*waiting)
    for start in [*range(0, n, 100), n]:
        came = rows[start : start + 100]
        entries, alone = came[entry[came]], (~entry[came]).view(np.uint8)
        live[came] = True
        gone = rows[live & (random.random(n) < (0.05 if start < n // 2 else 0.3))]
        live[gone] = False
        for groups in both:
            nowhere = np.full(came.size, -1, np.int32)
            groups.settle(nowhere, came, none[came], alone ^ 1, line[came], at[came], alone)
            groups.open(entries | LEFT, line[entries], at[entries], ends[entries])
            groups.forget(gone, 0)
            if compacted:
                groups.compact()
        assert len({tuple(groups.context(waiting[0], none[:2]).tolist()) for groups in both}) == 1
        for time in random.integers(0, at.max() + 50, 300):
            asked = none[:1], np.full(1, 1 + time % 2, np.uint64), np.full(1, time)
            found = [groups.parents(*asked).tolist() for groups in both]
            assert found[0] == found[1]
            found_any += len(found[0])
    assert found_any > 100


def test_what_timelines_grew_out_of_is_given_back() -> None:
    """Thousands of lines that grow row by row take what blocks of their rows take, and half as much again, once rows
    leave; the next blocks go where there is room."""
    groups, lines, rows_each = compiled.Groups(), 20_000, 16
    line = np.arange(1, lines + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    nobody = np.empty(0, np.int32), np.empty(0, np.int32), np.empty((0, LANES), np.uint64), np.empty(0, np.uint8)
    grown = []
    for round_ in range(2):
        for number in range(rows_each):
            refs = np.arange(lines, dtype=np.int32) + np.int32(lines * (round_ * rows_each + number))
            at = np.full(lines, 10 * number + 1)
            groups.open(refs | LEFT, line + np.uint64(round_), at, at + 5)
        before = groups.nbytes
        for _ in range(2):  # free now, and still free a tick later
            groups.settle(*nobody, np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.uint8))
        grown.append((before, groups.nbytes))
    rows, of_left = lines * rows_each, 4
    for round_, (before, after) in enumerate(grown, 1):
        assert after < 1.5 * rows * round_ * (20 + of_left) < before
    asked = np.zeros((1, LANES), np.uint64), line[:1], np.full(1, 10 * rows_each - 7)
    assert groups.parents(*asked).tolist() == [lines * (rows_each - 1)]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library does not tell")
def test_index_takes_next_to_nothing_from_the_heap() -> None:
    """It grows for hours between blocks that come and go: what it grew out of there would fit nobody else."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = MallocInfo
    rows = 100_000
    slots, keys = np.arange(rows, dtype=np.int32), np.zeros((rows, LANES), np.uint64)
    keys[:, THREAD] = np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    kinds, at, line = np.ones(rows, np.uint8), np.arange(rows, dtype=np.int64), keys[:, THREAD].copy()

    def in_use() -> int:
        told = libc.mallinfo2()
        return int(told.hblkhd + told.uordblks)  # blocks that are mapped, and all others

    groups, before = compiled.Groups(), in_use()
    groups.add(slots, keys, kinds, at, MAX_SIZE)
    groups.open(slots, line, at, at)
    groups.depart(slots, keys)
    groups.settle(slots, slots, keys, kinds, line, at, np.zeros(rows, np.uint8))
    assert in_use() - before < groups.nbytes / 10


def test_what_is_soon_filled_again_is_not_given_back() -> None:
    """Where each tick forgets a sixth of all rows, what is free between that and the next rows is left alone."""
    groups, rows, kept, none = compiled.Groups(), 5_000, 6, np.zeros((5_000, LANES), np.uint64)
    nowhere, nothing = np.full(rows, -1, np.int32), np.zeros(rows, np.uint8)
    before = 0
    for number in range(3 * kept):
        left = np.arange(rows, dtype=np.int32) + np.int32(rows * (number % (kept + 1)))
        line = np.arange(rows * number, rows * (number + 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        at = np.full(rows, number)
        groups.open(left | LEFT, line, at, at)
        if number >= kept:
            groups.forget((left + rows) % (rows * (kept + 1)), 0)
        before = groups.nbytes
        groups.settle(nowhere, left, none, nothing, line, at, nothing)
        assert number < 2 * kept or groups.nbytes >= before


def test_rows_that_leave_without_their_group_do_no_harm() -> None:
    """Nobody does so; but a slot that is used again while others of its group wait ends no call, and breaks nothing."""
    groups = compiled.Groups()
    keys, one, at = np.zeros((2, LANES), np.uint64), np.ones(1, np.uint8), np.ones(2, np.int64)
    keys[:, THREAD], keys[1, TRACE] = KEYS[0], KEYS[1]
    others = np.zeros((1, LANES), np.uint64)
    others[0, TRACE] = KEYS[1]
    both, first = np.array([0, 1], np.int32), np.array([0], np.int32)
    groups.add(both, keys, np.ones(2, np.uint8), at, MAX_SIZE)
    for _ in range(3):
        groups.depart(first, np.zeros((1, LANES), np.uint64))
        groups.checked(first)
        groups.add(first, others, one, at[:1], MAX_SIZE)
    members, sizes, _ = groups.due(both, 100, 1, 1, MAX_SIZE, force=True)
    assert set(members.tolist()) <= {0, 1}
    assert sizes.sum() >= 1


@pytest.mark.parametrize(("at_first", "kept_rounds"), [(2, 2), (9, 9), (2, 9), (1, 12)])
def test_log_of_rows_that_left_wraps_and_grows_alike(at_first: int, kept_rounds: int) -> None:
    """Both indexes find the same earlier rows while thousands leave and are forgotten, which the compiled one keeps in
    a ring that wraps (few rounds kept) and grows (many kept), also after it wrapped."""
    random = np.random.default_rng(7)
    both = (PlainGroups(), compiled.Groups())
    rows, ticks, largest = 300, [], 0
    for number in range(30):
        keys = random.integers(1, 2_000, (rows, LANES), np.uint64) * (random.random((rows, LANES)) < 0.6)
        slots = np.arange(rows, dtype=np.int32)
        left = np.arange(rows, dtype=np.int32) + np.int32(rows * (number % (kept_rounds + 1)))
        entry = (random.random(rows) < 0.5).view(np.uint8)
        nothing = np.zeros(rows, np.uint64), np.zeros(rows, np.int64), np.zeros(rows, np.uint8)
        found = []
        for groups in both:
            groups.add(slots, keys, entry, np.full(rows, number), 1 << 20)
            found.append(sorted(groups.context(slots, keys).tolist()))
            groups.checked(slots)
            groups.depart(slots, keys)
            groups.settle(slots, left, keys, entry, *nothing)
        assert found[0] == found[1]
        largest = max(largest, len(found[0]))
        ticks.append((left, both[0].mark))
        while len(ticks) > (at_first if number < 15 else kept_rounds):
            for groups in both:
                groups.forget(*ticks[0])
            del ticks[0]
    assert largest > rows
