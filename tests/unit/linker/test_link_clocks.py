"""Clocks in docs/linking.md: how far hosts are apart, learnt from pairs."""

from random import Random

import numpy as np
import pytest

from bridge.linker import LinkOptions, link
from bridge.linker import offsets as module
from bridge.linker.offsets import Clocks, PairTimes, clocks_of, times_of_pairs
from bridge.spans import SpanColumns
from tests.support.link_scenes import KEEP_ALL, MS, NOON, Row, client, columns_of, server
from tests.support.link_traffic import Trouble, traffic

SLACK = 50 * MS


def call(
    number: int, hosts: tuple[int, int], ahead_ms: float, *, before_ms: float = 1.0, after_ms: float = 1.0
) -> list[Row]:
    """A call of 10 ms from one host to another whose clock is ahead, both with numbers."""
    start = NOON + number * 50 * MS
    begin = start + int((ahead_ms + before_ms) * MS)
    numbers = {"req_seq": number + 1, "resp_seq": number + 1000}
    out = client(sender=hosts[0], start_ns=start, end_ns=start + 10 * MS, **numbers)
    length = int((10 - before_ms - after_ms) * MS)
    return [server(sender=hosts[1], start_ns=begin, end_ns=begin + length, **numbers), out]


def clocks(*calls: list[Row], options: LinkOptions = KEEP_ALL) -> Clocks:
    return link(columns_of([row for one in calls for row in one]), options).clocks


def ahead(found: Clocks) -> dict[int, tuple[int, int]]:
    """(offset, uncertainty) of each host, in ns."""
    hosts = found.hosts
    return dict(
        zip(
            hosts.sender.tolist(),
            zip(hosts.offset_ns.tolist(), hosts.uncertainty_ns.tolist(), strict=True),
            strict=True,
        )
    )


@pytest.mark.parametrize("hosts", [(1, 2), (2, 1)])
def test_a_pair_bounds_the_offset(hosts: tuple[int, int]) -> None:
    """The server's time lies in the client's: in its middle, give or take what is left on either side."""
    found = ahead(clocks(call(0, hosts, 200.0, before_ms=1.0, after_ms=3.0)))
    sign = 1 if hosts == (1, 2) else -1
    assert found == {1: (0, 0), 2: (sign * 199 * MS, 2 * MS)}


def test_pairs_narrow_each_other() -> None:
    """The offset lies where the bounds of all agree."""
    found = clocks(call(0, (1, 2), 5.0, before_ms=0.5, after_ms=4.0), call(1, (1, 2), 5.0, before_ms=4.0, after_ms=0.5))
    assert ahead(found)[2] == (5 * MS, MS // 2)


def test_pairs_of_both_ways_narrow_each_other() -> None:
    """A call back bounds the other way round."""
    found = clocks(
        call(0, (1, 2), 5.0, before_ms=0.5, after_ms=4.0), call(1, (2, 1), -5.0, before_ms=0.5, after_ms=4.0)
    )
    assert ahead(found)[2] == (5 * MS, MS // 2)


def test_outliers_are_outvoted() -> None:
    """One pair that numbers joined by chance does not move the clock."""
    found = clocks(*(call(i, (1, 2), 7.0) for i in range(4)), call(9, (1, 2), 3000.0))
    assert ahead(found)[2] == (7 * MS, MS)


def test_bounds_of_which_half_agree_say_nothing() -> None:
    """Two opinions are none."""
    found = clocks(call(0, (1, 2), 7.0), call(1, (1, 2), 3000.0))
    assert not found.related(np.array([1], np.uint64), np.array([2], np.uint64)).any()


def test_offsets_follow_along_other_hosts() -> None:
    """Hosts that never called each other are compared by way of one that both called."""
    found = clocks(call(0, (1, 2), 10.0), call(1, (2, 3), 100.0), call(2, (8, 9), 4.0))
    assert ahead(found)[3] == (110 * MS, 2 * MS)
    assert found.tolerance(np.array([1, 3, 2, 1], np.uint64), np.array([3, 3, 3, 9], np.uint64)).tolist() == [
        2 * MS,
        0,
        3 * MS,
        SLACK,
    ]


def test_late_starts_are_seen_through() -> None:
    """Where ktime is there a start that was noted late does not widen or move anything."""
    rows = []
    for i in range(40):
        for row in call(i, (1, 2), 30.0):
            row["ktime"] = row["start_ns"] - NOON + 10**9 * row["sender"]
            late = (i * 7 % 20) * MS if i % 3 else 0
            rows.append(row | {"start_ns": row["start_ns"] + late, "end_ns": row["end_ns"] + late})
    assert ahead(clocks(rows))[2] == (30 * MS, MS)


def test_noise_is_what_most_pairs_keep() -> None:
    """Servers that outlive their clients, here one in ten by 9 ms, make comparisons less exact."""
    calls = [call(i, (1, 1), 0.0) for i in range(18)]
    assert clocks(*calls).noise_ns == MS
    calls += [call(i, (1, 1), 0.0, after_ms=-9.0) for i in range(18, 20)]
    assert clocks(*calls).noise_ns == 9 * MS
    assert clocks(*calls, options=LinkOptions(clock_slack_ns=5 * MS)).noise_ns == 5 * MS


def test_no_pairs_no_clocks() -> None:
    """Without pairs nothing is known: hosts are compared as they are."""
    found = clocks([])
    assert (len(found.hosts), found.noise_ns) == (0, MS)
    columns = columns_of([client(sender=1, start_ns=NOON, end_ns=NOON + 1), client(sender=1)])
    at, end = found.moments(columns, np.arange(2))
    assert (at.tolist(), end.tolist()) == ([NOON, module.NEVER], [NOON + 1, module.OPEN_END])


def test_times_beyond_all_bounds_do_no_harm() -> None:
    """Extreme times neither run over nor spoil what others say."""
    extreme = [0, 1, 2**62, 2**63 - 2]
    odd = []
    for i, start in enumerate(extreme):
        numbers = {"req_seq": 500 + i, "resp_seq": 600 + i}
        odd += [server(sender=2, start_ns=start, end_ns=2**63 - 1, ktime=2**63 - 1, **numbers)]
        odd += [client(sender=1, start_ns=extreme[-1 - i], end_ns=2**63 - 1, ktime=1, **numbers)]
    found = clocks(*(call(i, (1, 2), 7.0) for i in range(9)), odd)
    assert ahead(found)[2] == (7 * MS, MS)


def test_a_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many pairs some are looked at, the same ones in whatever order rows stand."""
    monkeypatch.setattr(module, "MAX_PAIRS", 50)
    monkeypatch.setattr(module, "MAX_PAIRS_OF_HOSTS", 20)
    made = traffic(Random(4), 40, 10, Trouble(skew_ms=200))
    rows = made.rows
    one, two = (link(columns_of(order), KEEP_ALL) for order in (rows, rows[::-1]))
    assert len(one.times) == 50
    assert ahead(one.clocks) == ahead(two.clocks)
    for host, (offset, give) in ahead(one.clocks).items():
        assert abs(offset - (made.skew_ns[host] - made.skew_ns[1])) <= give


def test_earlier_windows_teach() -> None:
    """`seen` takes the place of pairs of this window."""
    before = link(columns_of([row for i in range(3) for row in call(i, (1, 2), 500.0)]), KEEP_ALL)
    start = NOON + 10**12
    ends = {"src_ip": 1, "src_port": 4000}, {"dst_ip": 1, "dst_port": 4000}
    asked = [
        client(sender=1, start_ns=start + i * 20 * MS, end_ns=start + (i * 20 + 10) * MS, **ends[0]) for i in range(3)
    ]
    begin = start + 502 * MS
    columns = columns_of([*asked, server(sender=2, start_ns=begin, end_ns=begin + 5 * MS, **ends[1])])
    assert link(columns, KEEP_ALL).parent.tolist() == [-1] * 4
    assert link(columns, KEEP_ALL, seen=before.times).parent.tolist() == [-1, -1, -1, 0]


def test_hosts_without_numbers_are_known_by_order() -> None:
    """No span has a number and clocks are 200 ms apart: as many came in as went out, so the first is the first."""
    made = traffic(Random(1), 10, 10, Trouble(skew_ms=200, zero=1.0))
    columns = columns_of(made.rows)
    links = link(columns, KEEP_ALL)
    found = {int(columns.span_id[i]): int(columns.span_id[p]) for i, p in enumerate(links.parent.tolist()) if p >= 0}
    assert found == made.truth


@pytest.mark.parametrize("n", [0, 1])
def test_few_pairs(n: int) -> None:
    """None and one are input like any other."""
    columns = SpanColumns.from_columns(2, start_ns=[5, 6], end_ns=[10, 9], sender=[1, 2], digest=[1, 2])
    pairs = times_of_pairs(columns, np.zeros(n, np.int64), np.ones(n, np.int64))
    assert len(pairs) == n
    assert len(clocks_of(pairs, slack_ns=SLACK).hosts) == 2 * n
    assert len(clocks_of(PairTimes.zeros(n), slack_ns=SLACK).hosts) == 0
