"""Step 1 of docs/linking.md: incoming under outgoing, by net id."""

from itertools import permutations

from bridge.linker import LinkOptions
from bridge.spans import Direction, Kind, Method
from tests.support.link_scenes import client, net, scene, server

MS = 1_000_000
DAY = 1_700_000_000_000 * MS


def test_incoming_goes_under_outgoing() -> None:
    """The parent of an incoming span is the outgoing span with its net id."""
    found = scene(server(**net(1)), client(**net(1)))
    assert found.parents == [1, -1]
    assert found.methods == [Method.SEQ, Method.NONE]


def test_direction_decides_not_the_side() -> None:
    """Direction says which is which: the kinds may be unknown, and a client alone is no parent without it."""
    unknown = {"kind": Kind.UNKNOWN}
    assert scene(server(**net(1)) | unknown, client(**net(1)) | unknown).parents == [1, -1]
    assert scene(server(**net(1)), client(**net(1)) | {"direction": Direction.UNKNOWN}).parents == [-1, -1]


def test_zero_numbers_are_no_evidence() -> None:
    """(0, 0) joins nothing; a single 0 is a number like any other."""
    assert scene(server(), client()).parents == [-1, -1]
    assert scene(server(req_seq=7), client(req_seq=7)).parents == [1, -1]
    assert scene(server(resp_seq=7), client(resp_seq=7)).parents == [1, -1]


def test_halves_are_not_swapped() -> None:
    """(1, 2) and (2, 1) are different net ids."""
    assert scene(server(req_seq=1, resp_seq=2), client(req_seq=2, resp_seq=1)).parents == [-1, -1]


def test_single_candidate_needs_no_clock() -> None:
    """Numbers that match in full are taken whatever the times and endpoints say."""
    far = client(**net(1), sender=1, start_ns=DAY, end_ns=DAY + MS, src_ip=9, src_port=9)
    near = server(**net(1), sender=2, start_ns=2 * DAY, end_ns=2 * DAY + MS, dst_ip=8, dst_port=8)
    assert scene(near, far).parents == [1, -1]


def in_any_order(*rows: dict[str, int]) -> set[int]:
    """Span ids that row 0 gets as parent, over all orders of the rows."""
    named = [{**row, "span_id": i + 1, "digest": i + 1} for i, row in enumerate(rows)]
    found = set()
    for order in permutations(named):
        links = scene(*order).links
        found.add(int(links.decisions.parent_span_id[order.index(named[0])]))
    return found


def test_endpoint_goes_before_time() -> None:
    """Of several clients the one at the other end of the server's connection is taken, though another fits in time."""
    entry = server(**net(1), sender=1, start_ns=DAY, end_ns=DAY + MS, dst_ip=10, dst_port=4000)
    in_time = client(**net(1), sender=2, start_ns=DAY, end_ns=DAY + MS, src_ip=10, src_port=4001)
    at_port = client(**net(1), sender=3, start_ns=2 * DAY, end_ns=2 * DAY + MS, src_ip=10, src_port=4000)
    assert in_any_order(entry, in_time, at_port) == {3}


def test_port_zero_is_no_endpoint() -> None:
    """An unknown port matches nothing, not even another unknown port."""
    entry = server(**net(1), sender=1, start_ns=DAY, end_ns=DAY + MS)
    in_time = client(**net(1), sender=2, start_ns=DAY, end_ns=DAY + MS, src_ip=10, src_port=4001)
    portless = client(**net(1), sender=3, start_ns=2 * DAY, end_ns=2 * DAY + MS)
    assert in_any_order(entry, in_time, portless) == {2}


def test_time_decides_not_order() -> None:
    """Of several clients of other hosts that which holds the server's time is taken, give or take the clock slack."""
    entry = server(**net(1), sender=1, start_ns=DAY, end_ns=DAY + 10 * MS)
    holds = client(**net(1), sender=2, start_ns=DAY + 45 * MS, end_ns=DAY + 55 * MS)
    nearer_but_short = client(**net(1), sender=3, start_ns=DAY - 60 * MS, end_ns=DAY - 55 * MS)
    assert in_any_order(entry, nearer_but_short, holds) == {3}


def test_unknown_time_goes_before_wrong_time() -> None:
    """A client without times comes after one that holds the server's time and before one that does not."""
    entry = server(**net(1), sender=1, start_ns=DAY, end_ns=DAY + 10 * MS)
    unknown = client(**net(1), sender=2)
    wrong = client(**net(1), sender=2, start_ns=DAY - 900 * MS, end_ns=DAY - 800 * MS)
    holds = client(**net(1), sender=2, start_ns=DAY - 20 * MS, end_ns=DAY + 30 * MS)
    assert in_any_order(entry, wrong, unknown) == {3}
    assert in_any_order(entry, wrong, unknown, holds) == {4}


def test_one_sender_is_compared_by_kernel_time() -> None:
    """Inside one sender ktime decides, where starts, which lag, say the opposite; there is no slack."""
    entry = server(**net(1), sender=1, ktime=1000, start_ns=DAY, end_ns=DAY + 10)
    holds = client(**net(1), sender=1, ktime=990, start_ns=DAY + 9 * MS, end_ns=DAY + 9 * MS + 30)
    ended = client(**net(1), sender=1, ktime=900, start_ns=DAY, end_ns=DAY + 50)
    assert in_any_order(entry, ended, holds) == {3}


def test_nearest_start_to_the_nanosecond() -> None:
    """Of clients that fit equally well the nearest is taken; 100 ns in the days of 2023 are not lost in rounding."""
    entry = server(**net(1), sender=1, start_ns=DAY, end_ns=DAY + 10)
    nearest = client(**net(1), sender=2, start_ns=DAY - 99, end_ns=DAY + MS)
    near = client(**net(1), sender=2, start_ns=DAY - 100, end_ns=DAY + MS)
    assert in_any_order(entry, near, nearest) == {3}


def test_least_ids_break_ties() -> None:
    """Among equals the smaller span id is taken."""
    entry = server(**net(1), sender=1, start_ns=DAY, end_ns=DAY + 10)
    same = client(**net(1), sender=2, start_ns=DAY, end_ns=DAY + MS)
    assert in_any_order(entry, same, same, same) == {2}


def test_slack_is_an_option() -> None:
    """`clock_slack` is how far clocks of two hosts may be apart."""
    entry = server(**net(1), sender=1, start_ns=DAY, end_ns=DAY + MS)
    late = client(**net(1), sender=2, start_ns=DAY + 20 * MS, end_ns=DAY + 30 * MS)
    early = client(**net(1), sender=2, start_ns=DAY - 25 * MS, end_ns=DAY + 2 * MS)
    assert scene(entry, late, early).parents[0] == 1
    assert scene(entry, late, early, options=LinkOptions(clock_slack_ns=MS)).parents[0] == 2
