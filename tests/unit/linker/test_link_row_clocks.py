"""Clocks in docs/linking.md: what leaves with the rows of each host."""

import numpy as np
import pytest

from bridge.linker import link
from bridge.linker.row_clocks import row_clocks
from bridge.spans import ClockOffsets, RowClocks
from tests.support.clocks import Clock, clock_offsets
from tests.support.link_scenes import KEEP_ALL, MS, NOON, Row, client, columns_of, server


def call(number: int, hosts: tuple[int, int], ahead_ms: int) -> list[Row]:
    """A call of 10 ms from one host to another whose clock is ahead, with 1 ms on either way."""
    start, numbers = NOON + number * 50 * MS, {"req_seq": number + 1, "resp_seq": number + 1000}
    begin = start + (ahead_ms + 1) * MS
    return [
        server(sender=hosts[1], start_ns=begin, end_ns=begin + 8 * MS, **numbers),
        client(sender=hosts[0], start_ns=start, end_ns=start + 10 * MS, **numbers),
    ]


def told(*calls: list[Row]) -> list[tuple[int, ...] | None]:
    """Reference, offset and uncertainty of each row's clock."""
    columns = columns_of([row for one in calls for row in one])
    clocks = row_clocks(link(columns, KEEP_ALL).clocks.hosts, columns.sender)
    known = [None, *zip(*(column.tolist() for _, column in clocks.offsets.items()), strict=True)]
    return [known[n] for n in clocks.of_row.tolist()] if clocks.of_row.size else [None] * len(columns)


def test_every_row_has_the_clock_of_its_host() -> None:
    """The reference's own is 0, for certain."""
    ahead, reference = (3, 200 * MS, MS), (3, 0, 0)
    assert told(call(0, (3, 4), 200), call(1, (3, 4), 200)) == [ahead, reference] * 2


def test_a_host_that_was_compared_with_none_has_no_clock() -> None:
    """Also beside others that were, and where it talks to itself."""
    assert told(call(0, (7, 7), 0)) == [None, None]
    assert told(call(0, (3, 4), 5), call(1, (7, 7), 0))[2:] == [None, None]


def test_hosts_that_no_calls_connect_have_references_of_their_own() -> None:
    """So that nobody compares what was not."""
    found = told(call(0, (1, 2), 5), call(1, (8, 9), -5))
    assert found == [(1, 5 * MS, MS), (1, 0, 0), (8, -5 * MS, MS), (8, 0, 0)]


def test_no_rows_have_no_clocks() -> None:
    """Nor do rows without pairs."""
    assert told() == []
    assert told(call(0, (1, 2), 5)[:1]) == [None]


CLOCK: Clock = (1, 2, 3)


def test_clocks_of_parts_are_put_together() -> None:
    """Each part's rows name its own clocks; parts without any leave theirs unknown."""
    nothing = RowClocks(ClockOffsets.zeros(0), np.zeros(0, np.uint32))
    one = RowClocks(clock_offsets([CLOCK]), np.array([1, 0], np.uint32))
    two = RowClocks(clock_offsets([(4, 5, 6), (7, 8, 9)]), np.array([2], np.uint32))
    whole = RowClocks.concatenate([(one, 2), (nothing, 1), (two, 1)])
    assert whole.of_row.tolist() == [1, 0, 0, 3]
    assert whole.offsets.offset_ns.tolist() == [2, 5, 8]
    assert whole.take(np.array([3, 0])).of_row.tolist() == [3, 1]
    assert RowClocks.concatenate([(nothing, 4)]).of_row.tolist() == []


def test_a_row_cannot_name_a_clock_that_is_not_there() -> None:
    """Positions begin at 1; 0 is none."""
    with pytest.raises(ValueError, match="names clock 2 of 1"):
        RowClocks(clock_offsets([CLOCK]), np.array([2], np.uint32))
