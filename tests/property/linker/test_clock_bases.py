"""What ktime is behind the clock at each host, and clocks whatever the order of pairs: beside plain loops."""

import numpy as np
import pytest

from bridge.linker.offsets import PairTimes, clocks_of

SLACK_NS = 50_000_000
SECOND_NS = 10**9


def _pairs(hosts: int, n: int, lots: int) -> PairTimes:
    """Pairs of random hosts, whose spans came up to a millisecond late; every tenth ktime is not known."""
    draw = np.random.default_rng(hosts * n + lots)
    client, server = draw.integers(1, hosts + 1, n), draw.integers(1, hosts + 1, n)
    at = draw.integers(SECOND_NS, 100 * SECOND_NS, n)

    def ktime(host: np.ndarray) -> np.ndarray:
        return np.where(draw.integers(0, 10, n) == 0, 0, at + host * SECOND_NS)

    return PairTimes.from_columns(
        n,
        client=client,
        client_ktime=ktime(client),
        client_start=at + 200 * SECOND_NS + draw.integers(0, 10**6, n),
        client_length=draw.integers(5 * 10**6, 10**7, n),
        server=server,
        server_ktime=ktime(server),
        server_start=at + 200 * SECOND_NS + draw.integers(10**6, 2 * 10**6, n),
        server_length=draw.integers(10**6, 2 * 10**6, n),
        lot=draw.integers(0, lots, n),
    )


def _base(pairs: PairTimes, host: int) -> int:
    """By a loop over spans."""
    sides = (
        (pairs.client, pairs.client_ktime, pairs.client_start),
        (pairs.server, pairs.server_ktime, pairs.server_start),
    )
    ahead = sorted(
        int(s - k)
        for hosts, ktimes, starts in sides
        for h, k, s in zip(hosts, ktimes, starts, strict=True)
        if h == host and k > 0
    )
    return ahead[5 * (len(ahead) - 1) // 100] if ahead else 0


@pytest.mark.parametrize("hosts", [1, 2, 5, 64, 65, 300])
def test_base_is_what_a_twentieth_of_a_host_s_spans_is_ahead_by_at_most(hosts: int) -> None:
    """However many hosts there are, each has the twentieth part of its own spans' leads below its base."""
    pairs = _pairs(hosts, 1500, 1 << 60)
    found = clocks_of(pairs, slack_ns=SLACK_NS).hosts
    assert found.base_ns.tolist() == [_base(pairs, host) for host in found.sender.tolist()]


@pytest.mark.parametrize("lots", [1, 7, 1 << 60])
@pytest.mark.parametrize("hosts", [2, 5, 300])
def test_clocks_do_not_depend_on_the_order_of_pairs(hosts: int, lots: int) -> None:
    """Also where more pairs than are looked at have one lot: what tells them apart is what they say."""
    pairs = _pairs(hosts, 4000, lots)
    one = clocks_of(pairs, slack_ns=SLACK_NS)
    for order in (np.arange(4000)[::-1], np.random.default_rng(1).permutation(4000)):
        other = clocks_of(pairs.take(order), slack_ns=SLACK_NS)
        assert other.noise_ns == one.noise_ns
        for name, column in one.hosts.items():
            assert np.array_equal(column, getattr(other.hosts, name)), name
