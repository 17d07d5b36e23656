"""Step 3 of docs/linking.md: no span is its own ancestor."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bridge.linker.forest import break_loops, roots, united
from bridge.spans import Method
from tests.support.link_scenes import Row, client, net, scene, server


def test_entry_and_exit_that_name_each_other() -> None:
    """The body that ends the reference: an entry and an exit with one thread id and the same numbers. The exit's edge,
    by thread, is the weaker one."""
    found = scene(server(thread_trace_id=9, **net(1)), client(thread_trace_id=9, **net(1)))
    assert found.parents == [1, -1]
    assert found.methods == [Method.SEQ, Method.NONE]
    assert found.links.root.tolist() == [1, 1]
    assert found.count("loops_broken") == 1


def test_few_spans_without_numbers() -> None:
    """Spans with seq (0, 0) on one thread id make no loop: zeros join nothing."""
    rows = [server(thread_trace_id=9), client(thread_trace_id=9), client(thread_trace_id=9), server()]
    found = scene(*rows)
    assert found.parents == [-1, 0, 0, -1]
    assert found.count("loops_broken") == 0


def ring(n: int, *, by_timeline: int = -1) -> list[Row]:
    """n entries and exits, each under the other in a ring; one edge is found by the thread's timeline."""
    rows = []
    for i in range(n):
        place = {"sender": 1, "pid": 1, "tid": i + 1, "ktime": 100}
        ids = {"thread_trace_id": i + 1} if i != by_timeline else {}
        rows += [server(**place, **ids, **net(i)), client(**place, **ids, **net((i + 1) % n))]
    return rows


def test_loop_is_cut_at_its_weakest_edge() -> None:
    """By timeline before by thread id before by numbers."""
    found = scene(*ring(4, by_timeline=2))
    assert found.parents[2 * 2 + 1] == -1
    assert found.parents.count(-1) == 1
    assert found.count("loops_broken") == 1


def test_equally_weak_edges_are_told_apart_by_time() -> None:
    """Of equal edges that of the earliest span is cut, in any order of rows."""
    rows = [{**row, "start_ns": 1000 - i} for i, row in enumerate(ring(4))]
    assert scene(*rows).parents.index(-1) == 7
    assert scene(*rows[::-1]).parents.index(-1) == 0


def test_loops_do_not_hide_each_other() -> None:
    """Every loop is cut once, and what hangs below it stays."""
    tail = client(thread_trace_id=1)
    far = [{**row, "req_seq": row["req_seq"] + 50, "thread_trace_id": row["thread_trace_id"] + 50} for row in ring(3)]
    found = scene(*ring(2), tail, *far)
    assert found.count("loops_broken") == 2
    assert found.parents[4] == 0
    assert len(set(found.links.root.tolist())) == 2


forests = st.integers(0, 25).flatmap(
    lambda n: st.lists(st.integers(-1, max(n - 1, 0)), min_size=n, max_size=n).map(
        lambda parents: [p if p != i else -1 for i, p in enumerate(parents)]
    )
)


def loops_of(parent: list[int]) -> list[set[int]]:
    """The sets of rows that lie on loops."""
    found: list[set[int]] = []
    for row in range(len(parent)):
        seen: list[int] = []
        while row >= 0 and row not in seen:
            seen.append(row)
            row = parent[row]
        if row >= 0 and set(seen[seen.index(row) :]) not in found:
            found.append(set(seen[seen.index(row) :]))
    return found


@given(forests, st.data())
def test_break_loops_cuts_the_least_of_each(parent: list[int], data: st.DataObject) -> None:
    """One row of each loop: the least by strength, then by tie; then `roots` finds every topmost ancestor."""
    n = len(parent)
    strength = data.draw(st.lists(st.integers(1, 2), min_size=n, max_size=n))
    tie = data.draw(st.permutations(range(n)))
    cut = break_loops(np.array(parent, np.int64), np.array(strength, np.uint8), (np.array(tie, np.int64),))
    want = [min(loop, key=lambda row: (strength[row], tie[row])) for loop in loops_of(parent)]
    assert sorted(cut.tolist()) == sorted(want)
    tree = [-1 if row in want else above for row, above in enumerate(parent)]
    tops = []
    for row in range(n):
        while tree[row] >= 0:
            row = tree[row]
        tops.append(row)
    assert roots(np.array(tree, np.int64)).tolist() == tops


@given(st.integers(1, 20), st.data())
def test_united_labels_connected_nodes(n: int, data: st.DataObject) -> None:
    """Two nodes have one label if and only if edges connect them; it is their least node."""
    node = st.integers(0, n - 1)
    edges = data.draw(st.lists(st.tuples(node, node), max_size=25))
    want = list(range(n))
    for _ in range(n):
        for a, b in edges:
            want[a] = want[b] = min(want[a], want[b])
    a, b = (np.array([edge[i] for edge in edges], np.int64) for i in range(2))
    assert united(n, a, b).tolist() == want
