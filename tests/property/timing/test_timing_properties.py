"""What timing promises of any rows: parents in time, no dependence on the order of rows, bounds held, twins equal."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bridge.linker.timing import assign_by_timing
from bridge.linker.timing.chains import PlainChains
from bridge.linker.timing.model import bins_of, table
from bridge.linker.timing.scene import Scene, open_entries, scene_of
from bridge.linker.timing.solving import solve
from bridge.spans import Kind, SpanColumns
from tests.support.link_scenes import NOON, Row, client, columns_of, server

randoms = st.randoms(use_true_random=False)


def any_row(random: Random) -> Row:
    """An entry or exit of one of few processes, at a time that others are likely to share."""
    one = random.choice
    start, length = one([0, NOON, *(NOON + random.randrange(400) * 1000 for _ in range(6))]), random.randrange(-9, 200)
    return one([server, client, client])(
        sender=one([1, 1, 2]), pid=one([0, 5, 5, 6]), service=one([0, 3, 4]),
        tid=one([0, 1, 2]), tid_usr=one([0, 0, 3]), src_port=one([80, 81]), dst_ip=one([1, 2]),
        start_ns=start, end_ns=start + length * 1000,
        ktime=one([0, start % 10**9 + 1, start % 10**9 + 1, (1 << 63) - 1]), span_id=random.getrandbits(63) + 1,
    )  # fmt: skip


def any_rows(random: Random, most: int = 60) -> tuple[SpanColumns, NDArray[np.int64], NDArray[np.bool_]]:
    """Rows, parents some of them are known to have, and exits whose parent is wanted."""
    columns = columns_of([any_row(random) for _ in range(random.randrange(most))])
    n = len(columns)
    entries = np.flatnonzero(columns.kind == Kind.ENTRY)
    parent = np.full(n, -1, np.int64)
    for row in range(n):
        if random.random() < 0.3:
            choice = entries if columns.kind[row] == Kind.EXIT else np.flatnonzero(columns.kind == Kind.EXIT)
            parent[row] = random.choice([-1, *choice.tolist()])
    return columns, parent, (columns.kind == Kind.EXIT) & (parent < 0)


@settings(deadline=None, max_examples=60)
@given(randoms)
def test_a_parent_is_open_when_its_child_begins(random: Random) -> None:
    """And of the same process, and an entry; rows that are not asked for get none."""
    columns, parent, wanted = any_rows(random)
    entries = columns.kind == Kind.ENTRY
    found = assign_by_timing(columns, parent, entries, wanted, budget=10**6)
    rows = np.flatnonzero(found.parent >= 0)
    above = found.parent[rows]
    assert wanted[rows].all()
    assert entries[above].all()
    assert (columns.sender[rows] == columns.sender[above]).all()
    assert (columns.pid[rows] == columns.pid[above]).all()
    assert ((found.confidence > 0) == (found.parent >= 0)).all()
    assert (found.confidence < 1).all()
    for row, entry in zip(rows.tolist(), above.tolist(), strict=True):
        assert any(_holds(clock.tolist(), columns, row, entry) for clock in (columns.ktime, columns.start_ns))


def _holds(clock: list[int], columns: SpanColumns, row: int, entry: int) -> bool:
    """Whether the row began in the time of the entry, by this clock."""
    start, end = int(columns.start_ns[entry]), int(columns.end_ns[entry])
    for_ever = start == 0 or end <= start
    return 0 < clock[entry] <= clock[row] and (for_ever or clock[row] <= clock[entry] + end - start)


@settings(deadline=None, max_examples=40)
@given(randoms)
def test_order_of_rows_means_nothing(random: Random) -> None:
    """The same rows in another order get the same parents, as sure as before."""
    columns, parent, wanted = any_rows(random)
    n = len(columns)
    order = np.array(random.sample(range(n), n), np.int64)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    moved = np.where(parent[order] >= 0, place[parent[order]], -1)
    one = assign_by_timing(columns, parent, columns.kind == Kind.ENTRY, wanted, budget=10**6)
    shuffled = columns.take(order)
    two = assign_by_timing(shuffled, moved, shuffled.kind == Kind.ENTRY, wanted[order], budget=10**6)
    assert np.where(two.parent >= 0, order[two.parent], -1).tolist() == one.parent[order].tolist()
    assert two.confidence.tolist() == one.confidence[order].tolist()


@settings(deadline=None, max_examples=60)
@given(randoms, st.integers(0, 200))
def test_pairs_looked_at_are_within_the_budget(random: Random, budget: int) -> None:
    """What is left out is counted: with those that were looked at it is what is looked at without a budget."""
    columns, parent, wanted = any_rows(random)
    entries = columns.kind == Kind.ENTRY
    every, none = scene_of(columns, parent, entries, wanted, budget=10**6)
    some, skipped = scene_of(columns, parent, entries, wanted, budget=budget)
    assert none == 0
    assert _pairs(some).sum() <= budget
    assert np.count_nonzero(_pairs(some)) + skipped == np.count_nonzero(_pairs(every))


def _pairs(scene: Scene | None) -> NDArray[np.int64]:
    """Open entries of each exit that is looked at, in plain Python."""
    if scene is None:
        return np.empty(0, np.int64)
    entries = list(zip(scene.entry_process, scene.entry_start, scene.entry_end, strict=True))
    exits = zip(scene.exit_process, scene.exit_start, scene.fixed, strict=True)
    return np.array(
        [sum(p == q and a <= t <= b for p, a, b in entries) for q, t, fixed in exits if not fixed], np.int64
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 5), st.booleans()), max_size=30))
def test_open_entries_are_counted(rows: list[tuple[int, int, int, bool]]) -> None:
    """As a loop over all of them counts."""
    rows = sorted(rows)
    process, at, length, entry = (np.array(c) for c in zip(*rows, strict=True)) if rows else (np.empty(0, int),) * 4
    found = open_entries(process, at, at + length, entry.astype(np.bool_))
    assert found.tolist() == [sum(e and q == p and b <= a <= b + n for q, b, n, e in rows) for p, a, _, _ in rows]


@settings(deadline=None, max_examples=25)
@given(randoms)
def test_twins_give_the_same_answers(random: Random) -> None:
    """Compiled and plain chains, bit for bit."""
    compiled = pytest.importorskip("bridge.linker.timing._chains", reason="no C compiler was there")
    columns, parent, wanted = any_rows(random, 40)
    scene, _ = scene_of(columns, parent, columns.kind == Kind.ENTRY, wanted, budget=10**6)
    if scene is None:
        return
    one, two = solve(scene, compiled.Chains), solve(scene, PlainChains)
    assert one.owner.tolist() == two.owner.tolist()
    assert one.confidence.tolist() == two.confidence.tolist()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_tables_hold_their_keys(keys: list[int]) -> None:
    """Each key is found where the search for it looks, and no other key is there."""
    keys = [*keys, *(k + 64 & 2**64 - 1 for k in keys[:10])]
    slots, stored = table(np.array(keys, np.uint64), np.arange(len(keys), dtype=np.float64))
    held: dict[int, Any] = {}
    for i, key in enumerate(keys):
        held.setdefault(key | 1, float(i))
    assert np.count_nonzero(slots) == len(held)
    for key, value in held.items():
        place = key & slots.size - 1
        while slots[place] not in (0, key):
            place = place + 1 & slots.size - 1
        assert (slots[place], stored[place]) == (key, value)


def test_bins_grow_with_the_delay() -> None:
    """Eight an octave, in order, none beyond the last."""
    delays = np.unique(np.geomspace(1, 2.0**62, 5000).astype(np.int64))
    bins = bins_of(delays)
    assert (np.diff(bins) >= 0).all()
    assert bins_of(np.array([-5, 0, 63, 64, 1024, 2048])).tolist() == [0, 0, 0, 1, 12, 18]
    assert bins[-1] == 255
