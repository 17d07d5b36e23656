"""Request ids in docs/linking.md: from hop to hop where numbers say nothing, and through a proxy."""

import numpy as np

from bridge.linker import link
from bridge.linker.across import Held
from bridge.linker.link import link_by_keys
from bridge.spans import Method
from tests.support.link_scenes import KEEP_ALL, MS, NOON, Row, client, columns_of, scene, server


def out(host: int, at_ms: float, length_ms: float, **columns: int) -> Row:
    """A client's span of the one process of a host, with request id 7."""
    start = NOON + int(at_ms * MS)
    return client(
        **{
            "sender": host,
            "pid": 1,
            "request_id": 7,
            "start_ns": start,
            "end_ns": start + int(length_ms * MS),
            **columns,
        }
    )


def in_(host: int, at_ms: float, length_ms: float, **columns: int) -> Row:
    """A server's."""
    return server(**{**out(host, at_ms, length_ms), **server(), **columns})


def test_request_id_joins_processes() -> None:
    """A hop that no agent saw made new numbers and addresses; the id went on."""
    found = scene(in_(2, 1, 5), out(1, 0, 10))
    assert (found.parents, found.methods[0]) == ([1, -1], Method.REQUEST_ID)
    assert 0.5 < found.links.decisions.confidence[0] < 1.0


def test_request_id_needs_time_and_another_process() -> None:
    """Not after the client ended, not inside one process, not another id, not none."""
    assert scene(in_(2, 500, 5), out(1, 0, 10)).parents == [-1, -1]
    assert scene(in_(1, 5, 3), out(1, 0, 10)).parents == [-1, -1]
    assert scene(in_(2, 1, 5, request_id=8), out(1, 0, 10)).parents == [-1, -1]
    assert scene(in_(2, 1, 5, request_id=0), out(1, 0, 10, request_id=0)).parents == [-1, -1]


def test_numbers_go_first() -> None:
    """A client in a pair is no candidate."""
    numbers = {"req_seq": 5, "resp_seq": 6}
    found = scene(in_(2, 1, 5, **numbers), in_(3, 1, 5), out(1, 0, 10, **numbers))
    assert found.parents == [2, -1, -1]


def test_id_goes_from_hop_to_hop() -> None:
    """Host 2 called on: its server goes under the outer client, host 3's under the inner one."""
    found = scene(in_(2, 10, 80), in_(3, 30, 40), out(1, 0, 100), out(2, 20, 60))
    assert found.parents == [2, 3, -1, 0]
    assert found.methods == [Method.REQUEST_ID, Method.REQUEST_ID, Method.NONE, Method.REQUEST_ID]


def test_calls_of_one_process_at_one_time_are_not_told_apart() -> None:
    """Two clients of host 1 with one id, each in time for the server."""
    assert scene(in_(2, 10, 20), out(1, 0, 100), out(1, 5, 90)).parents == [-1, -1, -1]


def test_calls_one_after_another_are_told_apart() -> None:
    """A retry: each server lies in the time of one client only."""
    found = scene(in_(2, 1, 5), in_(2, 201, 5), out(1, 0, 10), out(1, 200, 10))
    assert found.parents == [2, 3, -1, -1]


def test_proxy_hands_on() -> None:
    """An exit's parent is the entry of its process with its id, on whatever thread."""
    entry, leaving = in_(1, 0, 100, tid=1, ktime=1000), out(1, 10, 50, tid=2, ktime=1000 + 10 * MS)
    found = scene(leaving, entry, in_(1, 1, 90, request_id=8, tid=2, ktime=1000 + MS))
    assert (found.parents[0], found.methods[0]) == (1, Method.REQUEST_ID)


def test_proxy_hands_on_in_its_entrys_time_only() -> None:
    """An exit after the entry's end belongs to something else, and so does one of another process."""
    assert scene(out(1, 20, 5, ktime=20 * MS), in_(1, 1, 9, ktime=MS)).parents == [-1, -1]
    assert scene(out(1, 2, 5, pid=2), in_(1, 1, 9)).parents == [-1, -1]


def test_process_that_is_called_again_cannot_tell() -> None:
    """Two entries of one id are open."""
    assert scene(out(1, 10, 5), in_(1, 0, 50), in_(1, 5, 50)).parents == [-1, -1, -1]


def test_held_pairs_take_the_place_of_a_search() -> None:
    """What is held stays, unless numbers say otherwise, and nothing else than numbers in full is looked for."""
    numbers = {"req_seq": 5, "resp_seq": 6}
    rows = [in_(2, 1, 5), out(1, 0, 10), in_(3, 1, 5, **numbers), out(1, 0, 10, request_id=0, **numbers)]
    columns = columns_of(rows)
    assert link(columns, KEEP_ALL).parent.tolist() == [1, -1, 3, -1]
    assert link_by_keys(columns, KEEP_ALL).parent.tolist() == [-1, -1, 3, -1]
    held = Held.from_columns(
        2, row=np.array([0, 2]), parent=np.array([1, 1]), method=np.array([4, 4]), confidence=np.array([0.7, 0.7])
    )
    links = link(columns, KEEP_ALL, held=held)
    assert links.parent.tolist() == [1, -1, 3, -1]
    assert [round(c, 2) for c in links.decisions.confidence.tolist()] == [0.7, 0.0, 1.0, 0.0]
