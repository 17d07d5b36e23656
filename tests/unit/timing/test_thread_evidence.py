"""Threads count where a process's own rows bear them out, and only there."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from bridge.linker import LinkOptions, Links, link
from bridge.spans import Kind, Method, SpanColumns
from tests.support.link_scenes import MS, NOON, client, columns_of, server
from tests.support.timing_scenes import Process, sequential

ALL = LinkOptions(sampling_rate=1.0, timing=True)
PLAIN = LinkOptions(sampling_rate=1.0)


def with_threads(scene: Process, tid: Callable[[int], int], thread_trace_id: Callable[[int], int]) -> Links:
    """Links of a scene whose rows, by position, ran on these threads with these ids."""
    rows = range(len(scene.columns))
    told = {
        "tid": np.array([tid(r) for r in rows], np.uint64),
        "thread_trace_id": np.array([thread_trace_id(r) for r in rows], np.uint64),
    }
    return link(SpanColumns(**dict(scene.columns.items()) | told), ALL)


def request_of(scene: Process) -> Callable[[int], int]:
    """The entry that a row belongs to."""
    return lambda row: int(scene.parent[row]) if scene.parent[row] >= 0 else row


def test_a_thread_for_each_request_is_believed() -> None:
    """All edges are by thread, and right, however many requests there are at once."""
    scene = sequential(80, 800)
    of = request_of(scene)
    links = with_threads(scene, lambda r: 100 + of(r), lambda r: 0)
    assert scene.right(links.parent) == 1.0
    assert links.counts["threads_doubted"] == 0
    assert set(links.decisions.method[scene.exits].tolist()) == {Method.THREAD}


def test_ids_of_the_request_are_believed() -> None:
    """Also where no thread is told."""
    scene = sequential(80, 800)
    of = request_of(scene)
    links = with_threads(scene, lambda r: 0, lambda r: 1 + of(r))
    assert scene.right(links.parent) == 1.0
    assert links.counts["threads_doubted"] == 0


@pytest.mark.parametrize("by_id", [False, True], ids=["by thread", "by id"])
def test_an_event_loop_is_not(by_id: bool) -> None:
    """One thread serves all; an agent takes the entry that came last for that of every exit."""
    scene = sequential(120, 1500)
    entry = scene.columns.kind == Kind.ENTRY
    last = np.maximum.accumulate(np.where(entry, np.arange(entry.size), -1))
    links = with_threads(scene, lambda r: 100, lambda r: 1 + int(last[r]) if by_id else 0)
    assert (np.where(scene.exits, last, -1) == scene.parent)[scene.exits].mean() < 0.7
    assert scene.right(links.parent) > 0.95
    assert links.counts["threads_doubted"] > 0


def test_a_pool_is_not() -> None:
    """Calls run on whatever thread is free."""
    scene, random = sequential(120, 1500), Random(5)
    threads = [100 + random.randrange(8) for _ in range(len(scene.columns))]
    links = with_threads(scene, lambda r: threads[r], lambda r: 0)
    assert scene.right(links.parent) > 0.95


def test_threads_that_mostly_agree_weigh() -> None:
    """Entries that time hardly tells apart, a thread each; some calls are handed over, so that no edge is sure."""
    rows, random = [], Random(3)
    for i in range(60):
        at = NOON + i * 100 * MS
        for thread in (1, 2):
            rows.append(server(tid=thread, start_ns=at, end_ns=at + 10 * MS))
            ran = thread if random.random() < 0.7 else 9
            begun = at + MS + random.randrange(MS // 2)
            rows.append(client(tid=ran, start_ns=begun, end_ns=begun + MS))
    scene = columns_of([row | {"sender": 1, "pid": 7, "ktime": row["start_ns"]} for row in rows])
    links = link(scene, ALL)
    assert links.counts["threads_doubted"] > 0
    agreeing = np.flatnonzero((scene.kind == Kind.EXIT) & (scene.tid != 9))
    assert (links.parent[agreeing] == agreeing - 1).mean() > 0.9


def test_an_id_outside_its_entrys_time_is_given_up() -> None:
    """The entry had ended; another one of the process was open, and gets the exit."""
    over = server(thread_trace_id=5, start_ns=NOON, end_ns=NOON + MS)
    open_ = server(thread_trace_id=6, start_ns=NOON, end_ns=NOON + 9 * MS)
    late = client(thread_trace_id=5, start_ns=NOON + 2 * MS, end_ns=NOON + 3 * MS)
    rows = columns_of([row | {"sender": 1, "pid": 7, "ktime": row["start_ns"]} for row in (over, open_, late)])
    assert link(rows, PLAIN).parent.tolist() == [-1, -1, 0]
    links = link(rows, ALL)
    assert links.parent.tolist() == [-1, -1, 1]
    assert links.counts["threads_doubted"] == 1
