"""Step 1 of docs/linking.md where numbers do not match in full: one number, addresses, a neighbour's response."""

import numpy as np
import pytest

from bridge.linker import LinkOptions
from bridge.spans import Method
from tests.support.link_scenes import KEEP_ALL, MS, NOON, Row, Scene, client, scene, scene_after, server


def asking(at_ms: float, length_ms: float, **columns: int) -> Row:
    """A client on host 1, port 4000, that asks a service's virtual ip."""
    start = NOON + int(at_ms * MS)
    own = {"sender": 1, "pid": 1, "src_ip": 1, "src_port": 4000, "dst_ip": 100, "dst_port": 80}
    return client(**{**own, "start_ns": start, "end_ns": start + int(length_ms * MS), **columns})


def answering(at_ms: float, length_ms: float, **columns: int) -> Row:
    """A server on host 2 at the other end of that connection."""
    start = NOON + int(at_ms * MS)
    own = {"sender": 2, "pid": 2, "src_ip": 2, "src_port": 8080, "dst_ip": 1, "dst_port": 4000}
    return server(**{**own, "start_ns": start, "end_ns": start + int(length_ms * MS), **columns})


def confidences(found: Scene) -> list[float]:
    return [round(float(c), 2) for c in found.links.decisions.confidence]


# By one number


def test_request_number_stands_for_both() -> None:
    """A pair whose response numbers differ is made by the request's, the connection and time."""
    found = scene(answering(1, 5, req_seq=7, resp_seq=8), asking(0, 10, req_seq=7, resp_seq=9))
    assert (found.parents, found.methods[0]) == ([1, -1], Method.SEQ)
    assert found.count("pairs_by_one_number") == 1
    assert 0.9 < confidences(found)[0] < 1.0


@pytest.mark.parametrize(
    "other",
    [
        {"src_port": 4001},
        {"src_ip": 3},
        {"src_port": 0},
        {"start_ns": NOON + 60_000 * MS, "end_ns": NOON + 61_000 * MS},
    ],
)
def test_one_number_needs_connection_and_time(other: dict[str, int]) -> None:
    """32 bits meet by chance: another connection, an unknown one or another time is another request."""
    found = scene(answering(1, 5, req_seq=7, resp_seq=8), asking(0, 10, req_seq=7, resp_seq=9) | other)
    assert found.parents == [-1, -1]


def test_one_number_needs_a_start() -> None:
    """Without a start there is no time to compare."""
    timeless = {"start_ns": 0, "end_ns": 0}
    assert scene(answering(1, 5, req_seq=7), asking(0, 10, req_seq=7, resp_seq=9) | timeless).parents == [-1, -1]


@pytest.mark.parametrize(("asked", "answered"), [(0, 7), (7, 0), (0, 0)])
def test_response_number_stands_in_for_a_missed_request(asked: int, answered: int) -> None:
    """The response's number is enough where one side has none of the request."""
    found = scene(answering(1, 5, req_seq=answered, resp_seq=8), asking(0, 10, req_seq=asked, resp_seq=8))
    assert found.parents == [1, -1]


def test_response_number_does_not_stand_against_the_request_number() -> None:
    """A client with a request number of its own that has this response took it for its own: it asked something else."""
    found = scene(answering(1, 5, req_seq=7, resp_seq=8), asking(0, 10, req_seq=6, resp_seq=8))
    assert found.parents == [-1, -1]


def test_response_number_stands_in_for_a_neighbours_request() -> None:
    """A client that has the number of a request that another client made missed its own."""
    before = answering(-20, 5, req_seq=6, resp_seq=5), asking(-21, 10, req_seq=6, resp_seq=5)
    found = scene(answering(1, 5, req_seq=7, resp_seq=8), asking(0, 10, req_seq=6, resp_seq=8), *before)
    assert found.parents == [1, -1, 3, -1]


def test_two_clients_of_one_number_are_not_told_apart() -> None:
    """Both fit: neither is taken."""
    clients = asking(0, 10, req_seq=7, resp_seq=9), asking(0, 11, req_seq=7, resp_seq=10)
    assert scene(answering(1, 5, req_seq=7, resp_seq=8), *clients).parents == [-1, -1, -1]


def test_full_pairs_go_first() -> None:
    """A client whose numbers match another server's in full is no candidate."""
    whole = answering(2, 4, req_seq=7, resp_seq=9)
    found = scene(answering(1, 5, req_seq=7, resp_seq=8), whole, asking(0, 10, req_seq=7, resp_seq=9))
    assert found.parents == [-1, 2, -1]


# A neighbour's response


def test_neighbours_response_is_repaired() -> None:
    """A client that took the next response goes with its own server, and so does the next; both are right."""
    one = answering(1, 5, req_seq=10, resp_seq=20), asking(0, 30, req_seq=10, resp_seq=21)
    two = answering(21, 5, req_seq=11, resp_seq=21), asking(20, 10, req_seq=11, resp_seq=21)
    found = scene(*one, *two)
    assert found.parents == [1, -1, 3, -1]
    assert found.count("responses_repaired") == 1


def test_runs_of_neighbours_responses() -> None:
    """Several in a row, the last of which waits for a response that nobody saw: only plain ones count as repaired."""
    rows: list[Row] = []
    for i in range(4):
        rows += [
            answering(30 * i + 1, 5, req_seq=10 + i, resp_seq=20 + i),
            asking(30 * i, 40, req_seq=10 + i, resp_seq=21 + i),
        ]
    found = scene(*rows)
    assert found.parents == [1, -1, 3, -1, 5, -1, 7, -1]
    assert found.count("responses_repaired") == 3


def test_repair_changes_nothing_that_is_exported() -> None:
    """Columns stay as they came."""
    found = scene(
        answering(1, 5, req_seq=10, resp_seq=20),
        asking(0, 30, req_seq=10, resp_seq=21),
        answering(21, 5, req_seq=11, resp_seq=21),
    )
    assert found.count("responses_repaired") == 1
    assert found.columns.end_ns[1] == NOON + 30 * MS


# By address


def test_addresses_and_time_stand_for_numbers() -> None:
    """(0, 0) on both sides, one call at a time: the mirrored address and time tell the pairs."""
    calls = [row for at in (0, 100, 200) for row in (answering(at + 1, 5), asking(at, 10))]
    found = scene(*calls, options=LinkOptions(sampling_rate=1.0, clock_slack_ns=MS))
    assert found.parents == [1, -1, 3, -1, 5, -1]
    assert found.count("pairs_by_address") == 3


def test_a_number_that_one_side_has_does_not_stand_in_the_way() -> None:
    """Numbers count as missing where one side has none."""
    assert scene(answering(1, 5, req_seq=7, resp_seq=8), asking(0, 10)).parents == [1, -1]
    assert scene(answering(1, 5, req_seq=7), asking(0, 10, resp_seq=8)).parents == [1, -1]


def test_different_numbers_stand_in_the_way() -> None:
    """Two numbers of two requests."""
    assert scene(answering(1, 5, req_seq=7, resp_seq=8), asking(0, 10, req_seq=6)).parents == [-1, -1]
    assert scene(answering(1, 5, resp_seq=8), asking(0, 10, resp_seq=9)).parents == [-1, -1]


def test_two_answers_that_are_close_are_none() -> None:
    """Two calls at one time on one connection, none of them in order: neither is paired, and both are counted."""
    found = scene(answering(1, 5), answering(2, 5), asking(0, 10), asking(0.5, 10))
    assert found.parents == [-1] * 4
    assert found.count("pairs_ambiguous") == 2


def test_requests_of_a_connection_keep_their_order() -> None:
    """Clocks of which nothing is known leave two pairings in time, and order one."""
    found = scene(answering(3, 4), answering(13, 4), asking(0, 8), asking(10, 8))
    assert found.parents == [2, 3, -1, -1]
    assert found.links.decisions.method[:2].tolist() == [Method.SEQ, Method.SEQ]


def test_order_says_nothing_where_one_is_missing() -> None:
    """Two calls and one client that is in time for both."""
    found = scene(answering(3, 4), answering(13, 4), asking(8, 8), options=LinkOptions(sampling_rate=1.0))
    assert found.parents == [-1, -1, -1]
    assert found.count("pairs_ambiguous") == 2


def test_streams_tell_requests_of_one_connection_apart() -> None:
    """HTTP/2: calls at one time, each with its stream."""
    rows = [answering(1, 5, stream_id=1), answering(1, 5, stream_id=3), asking(0, 10, stream_id=3)]
    assert scene(*rows, asking(0, 10, stream_id=1)).parents == [3, 2, -1, -1]


def test_stream_is_part_of_the_net_id() -> None:
    """One segment may begin two requests: equal numbers and two streams are two requests."""
    numbers = {"req_seq": 7, "resp_seq": 8}
    rows = [answering(1, 5, stream_id=1, **numbers), answering(1, 5, stream_id=3, **numbers)]
    found = scene(*rows, asking(0, 10, stream_id=3, **numbers), asking(0, 10, stream_id=1, **numbers))
    assert found.parents == [3, 2, -1, -1]
    assert confidences(found)[:2] == [1.0, 1.0]


def test_stream_that_one_side_does_not_report_is_no_contradiction() -> None:
    """Equal numbers, and a stream on one side."""
    numbers = {"req_seq": 7, "resp_seq": 8}
    assert scene(answering(1, 5, stream_id=1, **numbers), asking(0, 10, **numbers)).parents == [1, -1]


@pytest.mark.parametrize(("here", "there", "parent"), [(5, 5, 1), (5, 0, 1), (5, 6, -1)])
def test_headers_tell_requests_apart(here: int, there: int, parent: int) -> None:
    """Both sides of a request see one trace id in its headers."""
    found = scene(answering(1, 5, app_trace_lo=here), asking(0, 10, app_trace_lo=there))
    assert found.parents[0] == parent


def test_known_way_goes_before_unknown_one() -> None:
    """One client's port, two services at one time: each server's clients came by its service's virtual ip before."""
    full = {"req_seq": 7, "resp_seq": 8}, {"req_seq": 17, "resp_seq": 18}
    other = {"sender": 3, "pid": 3, "src_ip": 3}
    taught = [
        answering(-99, 5, **full[0]),
        asking(-100, 10, **full[0]),
        answering(-49, 5, **full[1]) | other,
        asking(-50, 10, **full[1], dst_ip=101),
    ]
    found = scene(*taught, answering(1, 5), answering(1, 5) | other, asking(0, 10), asking(0, 10, dst_ip=101))
    assert found.parents[4:] == [6, 7, -1, -1]


def test_same_port_of_another_host_is_another_connection() -> None:
    """The whole endpoint counts."""
    assert scene(answering(1, 5), asking(0, 10, src_ip=9)).parents == [-1, -1]


def test_what_left_in_a_pair_is_no_candidate() -> None:
    """A client whose server left with it is not taken for a late server's."""
    left = [answering(1, 5), asking(0, 10)]
    found = scene_after(left, now=[answering(2, 5)])
    assert found.parents == [-1, -1, -1]


def test_late_server_finds_its_client() -> None:
    """A client that left alone is a parent still."""
    found = scene_after([asking(0, 10)], now=[answering(1, 5)])
    assert found.parents == [-1, 0]
    assert found.count("late_children") == 1


def test_order_of_rows_means_nothing() -> None:
    """Pairs by order are those of the spans' times."""
    rows = [answering(3, 4), answering(13, 4), asking(0, 8), asking(10, 8)]
    named = [row | {"span_id": i + 1, "digest": i + 1} for i, row in enumerate(rows)]
    for order in ([3, 1, 2, 0], [2, 0, 3, 1], [1, 0, 3, 2]):
        found = scene(*(named[i] for i in order), options=KEEP_ALL)
        parent = dict(zip(found.columns.span_id.tolist(), found.exported_parents, strict=True))
        assert parent == {1: 3, 2: 4, 3: 0, 4: 0}


# Contradictions


def test_pairs_against_time_are_counted_and_stay() -> None:
    """Numbers in full need no clock, but a server that began a minute before its client is told."""
    rows = [answering(-60_000, 5, req_seq=7, resp_seq=8), asking(0, 10, req_seq=7, resp_seq=8)]
    more = [
        row
        for i in range(1, 4)
        for row in (
            answering(100 * i + 1, 5, req_seq=7 + i, resp_seq=18 + i),
            asking(100 * i, 10, req_seq=7 + i, resp_seq=18 + i),
        )
    ]
    found = scene(*rows, *more)
    assert found.parents[0] == 1
    assert found.count("seq_against_time") == 1


def test_pairs_against_headers_are_counted() -> None:
    """Numbers say one request, headers say two traces."""
    numbers = {"req_seq": 7, "resp_seq": 8}
    found = scene(answering(1, 5, app_trace_lo=5, **numbers), asking(0, 10, app_trace_lo=6, **numbers))
    assert found.parents == [1, -1]
    assert found.count("seq_against_header") == 1


def test_nothing_is_counted_where_nothing_is_odd() -> None:
    """An ordinary pair is no event."""
    numbers = {"req_seq": 7, "resp_seq": 8, "app_trace_lo": 5}
    found = scene(answering(1, 5, **numbers), asking(0, 10, **numbers))
    assert not any(found.links.counts.values())


def test_faulty_spans_are_in_no_pair() -> None:
    """They take part in nothing."""
    assert scene(answering(1, 5, faults=4), asking(0, 10)).parents == [-1, -1]
    assert np.all(scene(answering(1, 5), asking(0, 10, faults=4)).links.parent == -1)
