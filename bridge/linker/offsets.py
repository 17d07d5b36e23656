"""How far the clocks of hosts are apart, learnt from pairs of spans that numbers joined in full.

A server works while its client waits: client.start <= server.start and server.end <= client.end, so that each pair
bounds how far one clock is ahead of the other. The interval in which most bounds of two hosts agree is Marzullo's
(1984), which NTP uses, too. Offsets of hosts that share no pair follow along a spanning tree of the narrowest
intervals. docs/linking.md, Clocks, has the rules.

Work is bounded by `MAX_PAIRS`, whatever the window holds, and its result does not depend on the order of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.times import OPEN_END, Rows
from bridge.spans import SpanColumns, Table
from bridge.spans.columns import I64, U64
from bridge.spans.ids import combine

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]

MAX_PAIRS: Final = 16_384
"""Pairs that are looked at, of all hosts together."""
MAX_PAIRS_OF_HOSTS: Final = 1_000
"""Pairs that are looked at of two hosts."""
LEAST_GUESSES: Final = 3
"""A guess that stands alone always agrees with itself."""
LEAST_NOISE_NS: Final = 1_000_000
"""So inexact is any comparison of two spans' times at least."""
NEVER: Final = np.iinfo(np.int64).min
"""The moment of a span whose start is not known."""
_MAX_LATENESS_NS: Final = 1_000_000_000
"""A span whose start is further from where its ktime puts it has the ktime of another clock."""
_LAST_NS: Final = 1 << 62
"""The moment of a later span is this one, so that no sum of ours runs over."""
_FAR_NS: Final = 1 << 60
"""No span is longer."""
_FAR_AHEAD_NS: Final = 1 << 61
"""No clock is further ahead: 73 years, for there are machines that wake up in 1970. Hosts further apart stay apart."""
_MAX_UNCERTAINTY_NS: Final = 1 << 58
_KEYED_NS: Final = 1 << 62
"""Twice a lesser bound, and one, is in 64 bits."""
_FEW_HOSTS: Final = 64
"""Of so many at most each one's spans are looked at by themselves; those of more are sorted."""
_SCRAMBLE: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairTimes(Table):
    """Some pairs that numbers joined in full: what is learnt about clocks, and about ways."""

    client: U64
    """Sender of the client's span."""
    client_ktime: I64
    client_start: I64
    client_length: I64
    """Ns; 0 where it is not known."""
    server: U64
    server_ktime: I64
    server_start: I64
    server_length: I64
    asked: U64
    """The address that the client asked, as a key (`asked_by`)."""
    way: U64
    """That address and the server's own, as a key (`way_of`)."""
    lot: U64
    """Scrambled digest of the server's span: those with the least are looked at where there are too many pairs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostClocks(Table):
    """Clocks of the hosts that were in pairs, by ascending sender."""

    sender: U64
    reference: U64
    """The host whose clock this one is compared with: one for all that pairs connect. It may be the host itself."""
    offset_ns: I64
    """How far this clock is ahead of that of `reference`."""
    uncertainty_ns: I64
    """Give or take."""
    base_ns: I64
    """What ktime is behind the clock; 0 where it is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Clocks:
    """Clocks of hosts, and how to compare times of two with them."""

    hosts: HostClocks
    noise_ns: int
    """By so much 95 of 100 pairs at most break causality, all offsets considered."""
    slack_ns: int
    """Takes the place of the offset of hosts that no pairs connect."""

    def host_of(self, sender: U64Array) -> I64Array:
        """Position of each sender in `hosts`, -1 for hosts without a clock."""
        return _position(self.hosts.sender, sender)

    def related(self, a: U64Array, b: U64Array) -> Mask:
        """Whether the clocks of two hosts, given as senders, can be compared: they are one, or connected by pairs."""
        first, second = self.host_of(a), self.host_of(b)
        if not len(self.hosts):
            same: Mask = a == b
            return same
        reference = self.hosts.reference
        both: Mask = (first >= 0) & (second >= 0) & (reference[first] == reference[second])
        both |= a == b
        return both

    def tolerance(self, a: U64Array, b: U64Array) -> I64Array:
        """How far the moments of two hosts, given as senders, may be off, noise apart."""
        if not len(self.hosts):
            return np.where(a == b, 0, self.slack_ns)
        uncertain = self.hosts.uncertainty_ns
        both = uncertain[self.host_of(a)] + uncertain[self.host_of(b)]
        return np.where(a == b, 0, np.where(self.related(a, b), both, self.slack_ns))

    def moments(self, columns: SpanColumns, rows: Rows) -> tuple[I64Array, I64Array]:
        """When these spans began and ended, on the clock of their host's reference; `NEVER` where that is not known.

        The end of a span of unknown length is `OPEN_END`.
        """
        start, length = columns.start_ns[rows], lengths(columns, rows)
        host = self.host_of(columns.sender[rows])
        at = np.minimum(start, _LAST_NS)
        if len(self.hosts):
            base = np.where(host >= 0, self.hosts.base_ns[host], 0)
            at = _moments(columns.ktime[rows], at, base)
            at = np.where(host >= 0, at - self.hosts.offset_ns[host], at)
        end = np.where(length > 0, at + np.minimum(length, _FAR_NS), OPEN_END)
        return np.where(start > 0, at, NEVER), end


def lengths(columns: SpanColumns, rows: Rows) -> I64Array:
    """How long these spans took, 0 where that is not known."""
    start, end = columns.start_ns[rows], columns.end_ns[rows]
    return np.where((start > 0) & (end > start), end - start, 0)


def asked_by(columns: SpanColumns, clients: Rows) -> U64Array:
    """Keys of the addresses that these outgoing spans went to: where one is virtual, not that of the server."""
    return combine((columns.dst_ip[clients], columns.dst_port[clients].astype(np.uint64)))


def way_of(columns: SpanColumns, clients: Rows, servers: Rows) -> U64Array:
    """Keys of (address asked, the server's own) of pairs of rows."""
    return _way(asked_by(columns, clients), columns, servers)


def _way(asked: U64Array, columns: SpanColumns, servers: Rows) -> U64Array:
    return combine((asked, columns.src_ip[servers], columns.src_port[servers].astype(np.uint64)))


def times_of_pairs(columns: SpanColumns, clients: Rows, servers: Rows) -> PairTimes:
    """What these pairs of rows say, or `MAX_PAIRS` of them."""
    lot = columns.digest[servers] * _SCRAMBLE
    if lot.size > MAX_PAIRS:
        some = _least(lot)
        clients, servers, lot = clients[some], servers[some], lot[some]
    asked = asked_by(columns, clients)
    return PairTimes(
        client=columns.sender[clients],
        client_ktime=columns.ktime[clients],
        client_start=columns.start_ns[clients],
        client_length=lengths(columns, clients),
        server=columns.sender[servers],
        server_ktime=columns.ktime[servers],
        server_start=columns.start_ns[servers],
        server_length=lengths(columns, servers),
        asked=asked,
        way=_way(asked, columns, servers),
        lot=lot,
    )


def _least(lot: U64Array) -> I64Array:
    """Positions of the `MAX_PAIRS` least, without a look at most of the others where lots are spread as they should."""
    some = np.flatnonzero(lot < np.uint64((3 * MAX_PAIRS << 63) // lot.size)) if lot.size > 3 * MAX_PAIRS else None
    if some is None or some.size < MAX_PAIRS:
        some = np.arange(lot.size)
    order = np.argsort(lot[some])  # much faster than the stable sort that equal lots need
    if not _distinct(lot[some[order]]):
        order = np.argsort(lot[some], kind="stable")
    least: I64Array = some[order[:MAX_PAIRS]]
    return least


def _distinct(ascending: U64Array) -> bool:
    return bool((ascending[1:] != ascending[:-1]).all())


def clocks_of(pairs: PairTimes, *, slack_ns: int, guesses: PairTimes | None = None) -> Clocks:
    """Estimate clocks. Pairs of which a length or a start is not known say nothing, nor do those of one host about
    offsets.

    guesses: pairs that may be wrong, of hosts that `pairs` do not connect. Of two such hosts `LEAST_GUESSES` have to
    agree.
    """
    sure = len(pairs)
    if guesses is not None:
        pairs = PairTimes.concatenate([pairs, guesses])
    guessed = np.arange(len(pairs)) >= sure
    known = (pairs.client_length > 0) & (pairs.server_length > 0)
    known &= (pairs.client_start < _LAST_NS) & (pairs.server_start < _LAST_NS)
    known &= (pairs.client_length < _FAR_NS) & (pairs.server_length < _FAR_NS)
    if not known.all():
        pairs, guessed = pairs.take(known), guessed[known]
    senders, host = _numbered(np.concatenate([pairs.client, pairs.server]))
    base = _bases(pairs, host, senders.size)
    client, server = host[: len(pairs)], host[len(pairs) :]
    client_at = _moments(pairs.client_ktime, pairs.client_start, base[client])
    server_at = _moments(pairs.server_ktime, pairs.server_start, base[server])
    upper = server_at - client_at
    lower = upper + pairs.server_length - pairs.client_length
    tree = _Tree(senders.size)
    for a, b, low, high in _intervals(client, server, lower, upper, pairs.lot, guessed):
        tree.join(a, b, low, high)
    reference, offset, uncertainty = tree.offsets()
    hosts = HostClocks(
        sender=senders,
        reference=senders[reference],
        offset_ns=offset,
        uncertainty_ns=uncertainty,
        base_ns=base,
    )
    ahead = np.where(reference[client] == reference[server], offset[server] - offset[client], 0)
    broken = np.maximum(np.maximum(ahead - upper, lower - ahead), 0)[~guessed]
    return Clocks(hosts, min(max(_at_share(broken, 95), LEAST_NOISE_NS), slack_ns), slack_ns)


def _position(ascending: U64Array, values: U64Array) -> I64Array:
    if not ascending.size:
        return np.full(values.shape, -1, np.int64)
    at = np.minimum(np.searchsorted(ascending, values), ascending.size - 1)
    return np.where(ascending[at] == values, at, -1)


def _moments(ktime: I64Array, start: I64Array, base: I64Array) -> I64Array:
    """ktime on the clock that `base` puts it on, or start where that is far from it."""
    by_ktime = np.minimum(ktime, _LAST_NS) + base
    near = (ktime > 0) & (base != 0) & (np.abs(by_ktime - start) <= _MAX_LATENESS_NS)
    return np.where(near, by_ktime, start)


def _at_share(values: I64Array, percent: int) -> int:
    """The value that so many of 100 are at most."""
    at = percent * (values.size - 1) // 100
    return int(np.partition(values, at)[at]) if values.size else 0


def _numbered(senders: U64Array) -> tuple[U64Array, I64Array]:
    """The distinct ones, ascending, and the position of each there. Most stand beside others of theirs."""
    first = np.ones(senders.size, np.bool_)
    first[1:] = senders[1:] != senders[:-1]
    starts = np.flatnonzero(first)
    distinct = np.unique(senders[starts])
    number = np.searchsorted(distinct, senders[starts])
    return distinct, np.repeat(number, np.diff(starts, append=senders.size))


def _together(order: I64Array, number: I64Array, numbers: int) -> I64Array:
    """The order, but all rows of a number together. Numbers of 16 bits are sorted in time linear to their count."""
    keys = number[order].astype(np.uint16) if numbers <= 1 << 16 else number[order]
    together: I64Array = order[np.argsort(keys, kind="stable")]
    return together


def _bases(pairs: PairTimes, host: I64Array, hosts: int) -> I64Array:
    """What start is ahead of ktime at each host, lateness aside: 5 of 100 spans have less. 0 where none has both.

    host: numbers of the clients' hosts, then those of the servers'.
    """
    ktime = np.concatenate([pairs.client_ktime, pairs.server_ktime])
    start = np.concatenate([pairs.client_start, pairs.server_start])
    both = (ktime > 0) & (ktime < _LAST_NS)
    host, ahead = host[both], (start - ktime)[both]
    counts = np.bincount(host, minlength=hosts)
    some = np.flatnonzero(counts)
    start_of, least = (np.cumsum(counts) - counts)[some], (5 * (counts - 1) // 100)[some]
    base = np.zeros(hosts, np.int64)
    if some.size > _FEW_HOSTS:
        base[some] = ahead[np.lexsort((ahead, host))][start_of + least]
        return base
    ahead = ahead[_together(np.arange(host.size), host, hosts)]
    for number, begin, count, at in zip(*(x.tolist() for x in (some, start_of, counts[some], least)), strict=True):
        base[number] = np.partition(ahead[begin : begin + count], at)[at]
    return base


def _intervals(
    client: I64Array, server: I64Array, lower: I64Array, upper: I64Array, lot: U64Array, guessed: Mask
) -> Iterator[tuple[int, int, int, int]]:
    """(a, b, least, most) that the clock of host b, a < b, is ahead of that of a; the narrowest first.

    Left out are hosts of which no more than half of the bounds agree.
    """
    apart = client != server
    client, server, lower, upper, lot = (c[apart] for c in (client, server, lower, upper, lot))
    guessed = guessed[apart]
    forth = client < server
    first, second = np.where(forth, client, server), np.where(forth, server, client)
    lower, upper = np.where(forth, lower, -upper), np.where(forth, upper, -lower)
    # a server that took longer than its client: its bounds have changed places
    low, high = np.minimum(lower, upper), np.maximum(lower, upper)
    order = np.argsort(lot)
    if _distinct(lot[order]):
        hosts = int(second.max(initial=0)) + 1
        order = _together(order, first * hosts + second, hosts * hosts)
    else:
        order = np.lexsort((high, low, lot, second, first))
    first, second, low, high = first[order], second[order], low[order], high[order]
    new = np.ones(first.size, np.bool_)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    starts = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    few = np.arange(first.size) - starts[group] < MAX_PAIRS_OF_HOSTS if first.size else new
    group, low, high = group[few], low[few], high[few]
    needed = np.where(guessed[order][starts], LEAST_GUESSES, 1)
    found, least, most = _agreed(group, low, high, needed)
    hosts_a, hosts_b = first[starts[found]], second[starts[found]]
    by = np.lexsort((hosts_b, hosts_a, most - least))
    yield from zip(*(column[by].tolist() for column in (hosts_a, hosts_b, least, most)), strict=True)


def _agreed(group: I64Array, low: I64Array, high: I64Array, needed: I64Array) -> tuple[I64Array, I64Array, I64Array]:
    """Groups, numbered from 0 and ascending, with the first interval in which most agree.

    Left out are groups in which these are no more than half, or fewer than needed.
    """
    n = group.size
    if not n:
        return group, low, high
    value = np.concatenate([low, high])
    closes = np.repeat(np.array([0, 1], np.int8), n)
    of = np.concatenate([group, group])
    order = _together(_ascending(value, closes), of, int(group[-1]) + 1)
    value, closes, of = value[order], closes[order], of[order]
    depth = np.cumsum(1 - 2 * closes.astype(np.int64))  # 0 where a group begins
    size = np.bincount(group)
    deepest = np.maximum.reduceat(depth, np.cumsum(2 * size) - 2 * size)
    at = np.flatnonzero(depth == deepest[of])
    _, one = np.unique(of[at], return_index=True)
    at = at[one]
    agreed = (2 * deepest > size) & (deepest >= needed)
    at = at[agreed]
    return np.flatnonzero(agreed), value[at], value[at + 1]


def _ascending(value: I64Array, closes: NDArray[np.int8]) -> I64Array:
    """Positions of the bounds, ascending; where some are equal, intervals open before others close."""
    if max(int(value.max()), -int(value.min())) < _KEYED_NS:
        return np.argsort(2 * value + closes)  # equal keys are equal bounds: no need for the stable sort, much slower
    return np.argsort(value, kind="stable")  # those that open stand first


class _Tree:
    """Hosts joined by intervals, the narrowest first, as Kruskal (1956) does; the work is per pair of hosts."""

    def __init__(self, hosts: int) -> None:
        self._part = list(range(hosts))
        self._beside: list[list[tuple[int, int, int]]] = [[] for _ in range(hosts)]

    def join(self, a: int, b: int, low: int, high: int) -> None:
        """Host b is ahead of host a by `low` to `high`. Passed over if they are connected already."""
        first, second = self._top(a), self._top(b)
        middle, half = (low + high) // 2, (high - low + 1) // 2
        if first == second or abs(middle) > _FAR_AHEAD_NS:
            return
        self._part[max(first, second)] = min(first, second)
        self._beside[a].append((b, middle, half))
        self._beside[b].append((a, -middle, half))

    def _top(self, host: int) -> int:
        while self._part[host] != host:
            self._part[host] = self._part[self._part[host]]
            host = self._part[host]
        return host

    def offsets(self) -> tuple[I64Array, I64Array, I64Array]:
        """Of each host the least host it is connected to, how far it is ahead of that, and how inexact that is."""
        n = len(self._part)
        reference, offset, uncertainty = [-1] * n, [0] * n, [0] * n
        for top in range(n):
            if reference[top] >= 0:
                continue
            reference[top], open_ = top, [top]
            while open_:
                a = open_.pop()
                for b, middle, half in self._beside[a]:
                    if reference[b] < 0:
                        reference[b], offset[b] = top, max(-_FAR_AHEAD_NS, min(_FAR_AHEAD_NS, offset[a] + middle))
                        uncertainty[b] = min(_MAX_UNCERTAINTY_NS, uncertainty[a] + half)
                        open_.append(b)
        return tuple(np.array(column, np.int64) for column in (reference, offset, uncertainty))  # type: ignore[return-value]  # three of them
