"""Times that no clock shows: nothing falls, nobody else's links change, and what clocks do not decide stays right."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.linker import LinkOptions, WindowOptions, link
from tests.support.assembling import Run
from tests.support.link_rows import Row, columns_of, random_rows
from tests.support.link_scenes import KEEP_ALL, NOON
from tests.support.link_scenes import columns_of as scene_columns
from tests.support.link_traffic import Trouble, traffic

LAST = 2**63 - 1
DAYS = 3 * 86_400 * 10**9
TIMES = (0, 1, NOON - DAYS, NOON, NOON + DAYS, LAST // 2, LAST - 1, LAST)
"""All that decoders let through: what is negative or needs 64 bits they read as 0."""
WINDOW = 100
SECOND = 10**9
LATE_NS = 3_000_000
"""How late starts are noted: what clocks without a ktime are inexact by."""

CLOCKS = {
    "days ahead": lambda row: {"start_ns": row["start_ns"] + DAYS, "end_ns": row["end_ns"] + DAYS},
    "days behind": lambda row: {"start_ns": row["start_ns"] - DAYS, "end_ns": row["end_ns"] - DAYS},
    "1970": lambda row: {"start_ns": row["start_ns"] - NOON + 1, "end_ns": row["end_ns"] - NOON + 1},
    "none": lambda _: {"start_ns": 0, "end_ns": 0},
    "2116": lambda row: {"start_ns": 2**62 - 10**9, "end_ns": 2**62 - 10**9 + row["end_ns"] - row["start_ns"]},
    "last": lambda _: {"start_ns": LAST, "end_ns": LAST},
    "for ever": lambda _: {"start_ns": 1, "end_ns": LAST},
    "end before start": lambda row: {"start_ns": row["end_ns"], "end_ns": row["start_ns"]},
    "ktime last": lambda _: {"ktime": LAST},
}


def extreme(row: Row, random: Random) -> Row:
    """The row with a time or two that are absurd."""
    some = {name: random.choice(TIMES) for name in ("start_ns", "end_ns", "ktime") if random.random() < 0.7}
    return row | some


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), timing=st.booleans())
def test_any_times_are_linked(seed: int, timing: bool) -> None:
    """One row a span, parents among them, no loops; numpy's warnings are errors."""
    random = Random(seed)
    rows = [extreme(row, random) for row in random_rows(random, random.randint(1, 40))]
    links = link(columns_of(rows), LinkOptions(sampling_rate=1.0, timing=timing))
    parent = links.parent
    assert parent.shape == (len(rows),)
    assert ((parent >= -1) & (parent < len(rows))).all()
    at = np.arange(len(rows))
    for _ in rows:
        at = np.where(at >= 0, parent[at], -1)
    assert (at == -1).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), timing=st.booleans())
def test_what_waits_leaves_by_when_it_came_whatever_times_it_has(seed: int, timing: bool) -> None:
    """Two windows after the last row came all have left, each once."""
    random = Random(seed)
    run = Run(LinkOptions(sampling_rate=1.0, timing=timing), WindowOptions(WINDOW * SECOND))
    at = NOON
    for _ in range(random.randint(1, 4)):
        at += random.randint(1, WINDOW) * SECOND // 4
        run.add([extreme(row, random) for row in random_rows(random, random.randint(1, 15))], at)
        run.tick(at)
    assert run.waiting or run.left
    for step in range(1, 9):
        run.tick(at + step * WINDOW * SECOND // 4)
    assert not run.waiting


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("seed", range(3))
def test_a_host_with_an_absurd_clock_shifts_nobody(name: str, seed: int) -> None:
    """Numbers join its spans as ever; of all others every parent and clock is what it would be without it."""
    sent = traffic(Random(seed), 30, 5, Trouble(late_ms=LATE_NS // 10**6, skew_ms=40), hosts=4)
    change = CLOCKS[name]
    rows = [row | change(row) if row["sender"] == 1 else row for row in sent.rows]
    found = link(scene_columns(rows), KEEP_ALL)
    ids = [row["span_id"] for row in rows]
    parents = {ids[i]: ids[p] for i, p in enumerate(found.parent.tolist()) if p >= 0}
    assert {i: parents.get(i) for i in sent.truth} == sent.truth

    apart = [row for row in sent.rows if row["sender"] != 1]
    alone = link(scene_columns(apart), KEEP_ALL).clocks.hosts
    others = found.clocks.hosts

    def ahead(hosts: object, sender: int) -> int:
        """How far a host is ahead of host 2."""
        offsets = dict(zip(hosts.sender.tolist(), hosts.offset_ns.tolist(), strict=True))  # type: ignore[attr-defined]
        return int(offsets[sender] - offsets[2])

    for sender in (3, 4):
        true = sent.skew_ns[sender] - sent.skew_ns[2]
        assert abs(ahead(others, sender) - true) <= abs(ahead(alone, sender) - true) + 2 * LATE_NS
