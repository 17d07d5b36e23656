"""Step 2 of docs/linking.md: exit under entry, by thread trace id and by thread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.linker.assigning import latest_open
from bridge.spans import Kind, Method
from tests.support.link_scenes import client, net, scene, server

ON_THREAD = {"sender": 1, "pid": 5, "tid": 7}
START = 1_000_000


def span_at(ktime: int, length: int) -> dict[str, int]:
    """The columns of a time; a length of 0 is not known."""
    return {"ktime": ktime, "start_ns": START, "end_ns": START + length} if length else {"ktime": ktime}


def test_exit_goes_under_the_entry_of_its_thread_trace_id() -> None:
    """The entry with the exit's thread trace id is its parent; 0 joins nothing."""
    found = scene(client(thread_trace_id=9), server(thread_trace_id=9))
    assert (found.parents, found.methods) == ([1, -1], [Method.THREAD, Method.NONE])
    assert scene(client(thread_trace_id=0), server(thread_trace_id=0)).parents == [-1, -1]


def test_entries_have_no_in_process_parent() -> None:
    """An entry is nobody's child by thread trace id, any other span is."""
    assert scene(server(thread_trace_id=9), server(thread_trace_id=9)).parents == [-1, -1]
    assert scene({"kind": Kind.UNKNOWN, "thread_trace_id": 9}, server(thread_trace_id=9)).parents == [1, -1]


def test_seq_goes_before_thread() -> None:
    """A span found by net id keeps that parent."""
    found = scene({**client(thread_trace_id=9, **net(1)), "direction": 1}, server(thread_trace_id=9), client(**net(1)))
    assert found.parents == [2, -1, -1]


def test_same_process_goes_before_others() -> None:
    """Of several entries with one thread trace id that of the exit's own process is taken."""
    exit_, entry = (make(thread_trace_id=9, sender=1, pid=5) for make in (client, server))
    assert scene(exit_, entry | {"sender": 2}, entry).parents[0] == 2
    assert scene(exit_, entry | {"pid": 6}, entry).parents[0] == 2
    assert scene(exit_ | {"pid": 0}, entry | {"pid": 0}, entry).parents[0] == 1


def test_entry_that_was_open_goes_before_one_that_had_ended() -> None:
    """Of several entries of the process the one whose time holds the exit's begin is taken."""
    exit_ = client(thread_trace_id=9, sender=1, pid=5, **span_at(200, 50))
    ended = server(thread_trace_id=9, sender=1, pid=5, **span_at(190, 5))
    open_ = server(thread_trace_id=9, sender=1, pid=5, **span_at(100, 120))
    assert scene(exit_, ended, open_).parents[0] == 2


def test_random_thread_trace_ids_fall_back_on_the_timeline() -> None:
    """An exit whose thread trace id no entry has goes under the latest open entry of its thread."""
    exit_ = client(**ON_THREAD, thread_trace_id=12345, **span_at(200, 5))
    first = server(**ON_THREAD, thread_trace_id=1, **span_at(100, 500))
    latest = server(**ON_THREAD, thread_trace_id=2, **span_at(150, 100))
    after = server(**ON_THREAD, thread_trace_id=3, **span_at(201, 100))
    found = scene(exit_, after, latest, first)
    assert (found.parents[0], found.methods[0]) == (2, Method.THREAD)


def test_ended_entries_are_passed_over() -> None:
    """An entry that had ended is no parent; one that ends with the exit's begin, or whose end is not known, is."""
    exit_ = client(**ON_THREAD, **span_at(200, 5))
    around = server(**ON_THREAD, **span_at(100, 500))
    assert scene(exit_, around, server(**ON_THREAD, **span_at(150, 49))).parents[0] == 1
    assert scene(exit_, around, server(**ON_THREAD, **span_at(150, 50))).parents[0] == 2
    assert scene(exit_, around, server(**ON_THREAD, **span_at(150, 0))).parents[0] == 2


def test_largest_span_id_of_one_ktime() -> None:
    """Entries that begin at one ktime are told apart by span id, not by order."""
    exit_ = client(**ON_THREAD, **span_at(200, 5))
    entries = [server(**ON_THREAD, **span_at(100, 500), span_id=number) for number in (70, 90, 80)]
    assert scene(exit_, *entries).links.decisions.parent_span_id[0] == 90


@pytest.mark.parametrize(
    "elsewhere",
    [{"sender": 2}, {"pid": 6}, {"tid": 8}, {"tid_usr": 1}, {"ktime": 0}, {"tid": 0}, {"kind": Kind.UNKNOWN}],
    ids=str,
)
def test_only_the_own_thread_counts(elsewhere: dict[str, int]) -> None:
    """Another sender, process or thread, a missing time or thread, or a span that is no entry is no parent."""
    exit_ = client(**ON_THREAD, **span_at(200, 5))
    entry = server(**ON_THREAD, **span_at(100, 500))
    assert scene(exit_, entry).parents[0] == 1
    assert scene(exit_, entry | elsewhere).parents[0] == -1


def test_user_thread_goes_before_kernel_thread() -> None:
    """Goroutines are told apart on one kernel thread, and found on two."""
    exit_ = client(sender=1, pid=5, tid=7, tid_usr=40, **span_at(200, 5))
    same = server(sender=1, pid=5, tid=8, tid_usr=40, **span_at(100, 500))
    other = server(sender=1, pid=5, tid=7, tid_usr=41, **span_at(150, 500))
    assert scene(exit_, other, same).parents[0] == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=30), st.data())
def test_latest_open_is_a_plain_search(entries: list[tuple[int, int]], data: st.DataObject) -> None:
    """latest_open finds what a loop from `place` down to `low` finds."""
    ends_at = np.array([end for _, end in entries], np.int64)
    n = ends_at.size
    asked = data.draw(st.lists(st.tuples(st.integers(-1, n - 1), st.integers(0, n), st.integers(0, 22)), max_size=8))
    asked = [(place, low, at) for place, low, at in asked if n or place < 0]
    if not n:
        asked = []
    want = [next((p for p in range(place, low - 1, -1) if ends_at[p] >= at), -1) for place, low, at in asked]
    columns = [np.array([a[i] for a in asked], np.int64) for i in range(3)]
    assert latest_open(ends_at, columns[0], columns[1], columns[2]).tolist() == want
