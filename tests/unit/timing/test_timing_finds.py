"""Timing finds the entries of exits that say nothing about whose they are."""

import numpy as np
import pytest

from bridge.linker import LinkOptions, link
from bridge.spans import Kind, Method, SpanColumns
from tests.support.link_scenes import MS, NOON, client, server
from tests.support.timing_scenes import Process, process_of, sequential

ALL = LinkOptions(sampling_rate=1.0, timing=True)


def test_an_exit_in_the_time_of_one_entry_is_its_child() -> None:
    """There is nobody else."""
    entry = server(sender=1, pid=7, start_ns=NOON, end_ns=NOON + 10 * MS)
    exit_ = client(sender=1, pid=7, start_ns=NOON + MS, end_ns=NOON + 2 * MS)
    found = process_of([(entry, -1), (exit_, 0)]).timed()
    assert found.parent.tolist() == [-1, 0]
    assert found.confidence[1] > 0.9


@pytest.mark.parametrize(
    "row",
    [
        client(sender=1, pid=8, start_ns=NOON + MS, end_ns=NOON + 2 * MS),
        client(sender=2, pid=7, start_ns=NOON + MS, end_ns=NOON + 2 * MS),
        client(sender=1, start_ns=NOON + MS, end_ns=NOON + 2 * MS),
        client(sender=1, pid=7, start_ns=NOON + 11 * MS, end_ns=NOON + 12 * MS),
        client(sender=1, pid=7, start_ns=NOON - 1, end_ns=NOON + 2 * MS),
        client(sender=1, pid=7, start_ns=0, end_ns=NOON + 2 * MS),
    ],
    ids=["other process", "other host", "no process", "after its end", "before its begin", "no time"],
)
def test_an_exit_elsewhere_or_at_another_time_stays_alone(row: dict[str, int]) -> None:
    """A parent is an entry of the same process that was open when the exit began."""
    entry = server(sender=1, pid=7, start_ns=NOON, end_ns=NOON + 10 * MS)
    assert set(process_of([(entry, -1), (row, -1)]).timed().parent.tolist()) == {-1}


@pytest.mark.parametrize("every_us", [6000, 1500])
def test_chains_of_calls_are_told_apart(every_us: float) -> None:
    """Each call follows shortly after the one before has ended, whatever else goes on; up to five requests at once."""
    scene = sequential(150, every_us)
    assert scene.right(scene.timed().parent) > 0.95


def test_start_takes_the_place_of_ktime() -> None:
    """Where a process has rows without ktime."""
    scene = sequential(60, 3000)
    columns = scene.columns.take(np.arange(len(scene.columns)))
    ktime = columns.ktime.copy()
    ktime[::7] = 0
    without = SpanColumns(**dict(columns.items()) | {"ktime": ktime})
    assert Process(without, scene.parent).timed().parent.tolist() == scene.timed().parent.tolist()


def test_indistinguishable_entries_make_an_edge_unsure() -> None:
    """Two entries that begin and end together, one call: half of the samples say one, half the other."""
    rows = []
    for i in range(40):
        at = NOON + i * 100 * MS
        rows += [(server(sender=1, pid=7, start_ns=at, end_ns=at + 10 * MS), -1)] * 2
        rows += [(client(sender=1, pid=7, start_ns=at + MS, end_ns=at + 2 * MS), -1)]
    scene = process_of(rows)
    found = scene.timed()
    assert found.confidence[scene.exits].mean() < 0.8
    links = link(scene.columns, LinkOptions(sampling_rate=1.0, timing=True, min_confidence=0.9))
    assert links.counts["timing_unsure"] == np.count_nonzero(found.confidence[found.parent >= 0] < 0.9) > 0


def test_known_edges_stay_and_help() -> None:
    """Timing tells nothing about exits that it is told about, and learns from them."""
    scene = sequential(100, 1200, seed=3)
    known = scene.exits & (np.arange(len(scene.columns)) % 2 == 0)
    found = scene.timed(known=known)
    assert (found.parent[known] == -1).all()
    wanted = scene.exits & ~known
    assert (found.parent == scene.parent)[wanted].mean() > (scene.timed().parent == scene.parent)[wanted].mean() - 0.01


def test_what_is_over_budget_is_left_out_and_counted() -> None:
    """The process with fewer pairs goes first; the other one is skipped whole."""
    small, large = sequential(5, 9000), sequential(60, 1500, pid=8)
    columns = SpanColumns.concatenate([small.columns, large.columns])
    parent = np.full(len(columns), -1, np.int64)
    both = Process(columns, parent)
    assert both.timed(budget=0).skipped == np.count_nonzero(both.exits)
    found = both.timed(budget=100)
    assert found.skipped == np.count_nonzero(large.exits)
    inside = np.arange(len(columns)) < len(small.columns)
    assert (found.parent[inside & both.exits] >= 0).all()
    assert (found.parent[~inside] == -1).all()


def test_link_says_how_an_edge_was_found_and_how_sure_it_is() -> None:
    """Method timing, with the confidence that timing gave it; edges less sure than min_confidence are not made."""
    scene = sequential(80, 1200)
    links = link(scene.columns, ALL)
    exits = links.parent >= 0
    assert set(links.decisions.method[exits].tolist()) == {Method.TIMING}
    assert (links.decisions.confidence[exits] >= 0.5).all()
    assert links.decisions.confidence[~exits].tolist() == [0.0] * np.count_nonzero(~exits)
    surest = link(scene.columns, LinkOptions(sampling_rate=1.0, timing=True, min_confidence=0.95))
    assert np.count_nonzero(surest.parent >= 0) == np.count_nonzero(links.decisions.confidence >= 0.95)
    assert not (link(scene.columns, LinkOptions(sampling_rate=1.0)).parent >= 0).any()


def test_exits_that_belong_to_nobody_stay_alone() -> None:
    """A process of its own that only calls has no entries; nothing is looked at."""
    scene = sequential(20, 3000)
    exits = scene.columns.take(scene.exits)
    assert (link(exits, ALL).parent == -1).all()
    assert (exits.kind == Kind.EXIT).all()
