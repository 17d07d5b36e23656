"""Step 1 of docs/linking.md in plain Python: a part of the oracle (link_oracle.py), which shares no code with `link`.

Of the bounds on work only the eight candidates before and after a span are kept; scenes are smaller than the others.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from bridge.spans import Direction, Method

if TYPE_CHECKING:
    from tests.support.link_oracle import Span

REACH = 8
SECOND, MS = 10**9, 10**6
NOT_AT_ALL, BEGINS, LOOSELY, WHOLLY = range(4)


@dataclass
class Pair:
    """What an incoming span is paired with, and how."""

    client: "Span"
    method: int
    confidence: float


Pairing = dict["Span", Pair]
Edge = tuple["Span", "Span"]


@dataclass
class Clocks:
    """What is known about clocks: of each host its base, and what it is ahead of another, give or take."""

    slack: int
    base: dict[int, int] = field(default_factory=dict)
    reference: dict[int, int] = field(default_factory=dict)
    offset: dict[int, int] = field(default_factory=dict)
    uncertainty: dict[int, int] = field(default_factory=dict)
    noise: int = MS

    def own_moment(self, span: "Span") -> int:
        by_ktime = span.ktime + self.base.get(span.sender, 0)
        near = self.base.get(span.sender, 0) and span.ktime and abs(by_ktime - span.start_ns) <= SECOND
        return by_ktime if near else span.start_ns

    def moment(self, span: "Span") -> int:
        return self.own_moment(span) - self.offset.get(span.sender, 0)

    def known(self, a: "Span", b: "Span") -> bool:
        if a.sender == b.sender:
            return True
        return a.sender in self.reference and self.reference[a.sender] == self.reference.get(b.sender)

    def inexact(self, a: "Span", b: "Span") -> int:
        if a.sender == b.sender:
            return 0
        return self.uncertainty[a.sender] + self.uncertainty[b.sender] if self.known(a, b) else self.slack

    def fit(self, server: "Span", client: "Span") -> int:
        if not server.start_ns or not client.start_ns:
            return NOT_AT_ALL
        begin, opens = self.moment(server), self.moment(client)
        end = begin + (server.length or 0)
        closes = None if client.length is None else opens + client.length

        def within(moment: int, give: int) -> bool:
            return begin >= opens - give and (closes is None or moment <= closes + give)

        exact, loose = self.inexact(server, client), self.inexact(server, client) + self.noise
        if not within(begin, loose):
            return NOT_AT_ALL
        if not within(end, loose):
            return BEGINS
        return WHOLLY if within(end, exact) and self.known(server, client) else LOOSELY


def find_pairs(
    part: list["Span"], in_full: dict["Span", "Span"], slack: int, counts: Counter[str]
) -> tuple[Pairing, Clocks]:
    """All pairs, those of spans that left included, and the clocks that requests are looked at with."""
    pairing = {server: Pair(client, Method.SEQ, 1.0) for server, client in in_full.items()}
    clocks = learn(list(in_full.items()), [], slack)
    for server, client in in_full.items():
        counts["seq_against_time"] += server.is_new and _breaks_causality(server, client, clocks)
    guesses: list[Edge] = []
    clocks = _by_number(part, pairing, in_full, guesses, clocks, "req_seq", counts)
    repaired = {s: pair.client for s, pair in pairing.items() if _took_a_neighbours(s, pair, part, clocks)}
    ends = {client: _answered(server, client, clocks) for server, client in repaired.items()}
    counts["responses_repaired"] += sum(server.is_new for server in repaired)
    clocks = _by_number(part, pairing, in_full, guesses, clocks, "resp_seq", counts)
    clocks = _learn_from_order(*_left(part, pairing), client_end, in_full, guesses, clocks)
    _by_address(part, pairing, in_full, clocks, counts)
    _by_request(part, pairing, clocks)
    for client, end_ns in ends.items():
        client.says["end_ns"] = end_ns
    return pairing, clocks


# Clocks


def learn(sure: Iterable[Edge], guesses: list[Edge], slack: int) -> Clocks:
    """Clocks as these (server, client) pairs teach them; of two hosts pairs are sure or guesses."""
    sure = [(s, c) for s, c in sure if s.length and c.length]
    pairs = [*sure, *((s, c) for s, c in guesses if s.length and c.length)]
    guessed = {frozenset((s.sender, c.sender)) for s, c in guesses}
    clocks = Clocks(slack)
    hosts = sorted({span.sender for pair in pairs for span in pair})
    for host in hosts:
        ahead = sorted(s.start_ns - s.ktime for pair in pairs for s in pair if s.sender == host and s.ktime)
        clocks.base[host] = ahead[(len(ahead) - 1) * 5 // 100] if ahead else 0
    bounds: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for server, client in pairs:
        most = clocks.own_moment(server) - clocks.own_moment(client)
        least = most + (server.length or 0) - (client.length or 0)
        if client.sender < server.sender:
            bounds[client.sender, server.sender].append((min(least, most), max(least, most)))
        elif client.sender > server.sender:
            bounds[server.sender, client.sender].append((min(-least, -most), max(-least, -most)))
    edges = [
        (high - low, a, b, low, high)
        for (a, b), all_ in bounds.items()
        for low, high in _agreed(all_, 3 if frozenset((a, b)) in guessed else 1)
    ]
    part = {host: {host} for host in hosts}
    beside: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for width, a, b, low, high in sorted(edges):
        if b not in part[a]:
            for host in part[a] | part[b]:
                part[host] = part[a] | part[b]
            beside[a].append((b, (low + high) // 2, (width + 1) // 2))
            beside[b].append((a, -((low + high) // 2), (width + 1) // 2))
    for host in hosts:
        clocks.reference[host] = min(part[host])
        if host == min(part[host]):
            _walk(clocks, beside, host, 0, 0)
    broken = sorted(_broken(clocks, server, client) for server, client in sure)
    found = broken[(len(broken) - 1) * 95 // 100] if broken else 0
    clocks.noise = min(max(found, MS), slack)
    return clocks


def _agreed(bounds: list[tuple[int, int]], least: int) -> list[tuple[int, int]]:
    """The first interval in which most agree, if more than half do, and at least so many."""
    depth = {low: sum(a <= low <= b for a, b in bounds) for low, _ in bounds}
    most = max(depth.values())
    low = min(at for at, deep in depth.items() if deep == most)
    return [(low, min(b for a, b in bounds if a <= low <= b))] if 2 * most > len(bounds) and most >= least else []


def _walk(clocks: Clocks, beside: dict[int, list[tuple[int, int, int]]], host: int, offset: int, off: int) -> None:
    clocks.offset[host], clocks.uncertainty[host] = offset, off
    for other, middle, half in beside[host]:
        if other not in clocks.offset:
            _walk(clocks, beside, other, offset + middle, off + half)


def _broken(clocks: Clocks, server: "Span", client: "Span") -> int:
    begin, opens = clocks.own_moment(server), clocks.own_moment(client)
    if clocks.known(server, client):
        begin, opens = begin - clocks.offset[server.sender], opens - clocks.offset[client.sender]
    return max(0, opens - begin, begin + (server.length or 0) - opens - (client.length or 0))


def _learn_from_order(
    ins: list["Span"],
    outs: list["Span"],
    key: "Callable[[Span], tuple[int, ...]]",
    in_full: dict["Span", "Span"],
    guesses: list[Edge],
    clocks: Clocks,
) -> Clocks:
    """Clocks after guesses that first goes with first, second with second; the guesses are added to those before."""
    at: dict[tuple[int, ...], tuple[list[Span], list[Span]]] = defaultdict(lambda: ([], []))
    for server in ins:
        at[key(server)][0].append(server)
    for client in outs:
        at[key(client)][1].append(client)

    def order(span: "Span") -> tuple[int, int, int]:
        return (span.ktime or span.start_ns, span.span_id, span.digest)

    found = [
        (server, client)
        for servers, clients in at.values()
        if len(servers) == len(clients)
        for server, client in zip(sorted(servers, key=order), sorted(clients, key=order), strict=True)
        if not clocks.known(server, client)
    ]
    guesses += found
    return learn(in_full.items(), guesses, clocks.slack) if found else clocks


def _breaks_causality(server: "Span", client: "Span", clocks: Clocks) -> bool:
    if not server.start_ns or not client.start_ns:
        return False
    after, slack = server.start_ns - client.start_ns, clocks.slack
    as_measured = after < -slack or (after > slack and server.start_ns > client.end_ns + slack)
    give = clocks.slack + clocks.inexact(server, client)
    begin, opens = clocks.moment(server), clocks.moment(client)
    late = client.length is not None and begin > opens + client.length + give
    return as_measured and (begin < opens - give or late)


# Stages


def client_end(span: "Span") -> tuple[int, int]:
    """Where the client's end of a span's connection is."""
    incoming = span.direction == Direction.INCOMING
    return (span.dst_ip, span.dst_port) if incoming else (span.src_ip, span.src_port)


def _left(part: list["Span"], pairing: Pairing) -> "tuple[list[Span], list[Span]]":
    """Spans in no pair yet, incoming and outgoing, that say where the client's end is and share it with another."""
    taken = {pair.client for pair in pairing.values()}
    ins = [s for s in part if s.direction == Direction.INCOMING and s not in pairing and s.dst_port]
    outs = [s for s in part if s.direction == Direction.OUTGOING and s not in taken and s.src_port]
    return ins, outs


def _one_request(server: "Span", client: "Span") -> bool:
    streams, traces = {server.stream_id, client.stream_id} - {0}, {server.app_trace, client.app_trace} - {(0, 0)}
    return len(streams) < 2 and len(traces) < 2


def _by_number(
    part: list["Span"],
    pairing: Pairing,
    in_full: dict["Span", "Span"],
    guesses: list[Edge],
    clocks: Clocks,
    number: str,
    counts: Counter[str],
) -> Clocks:
    def may(server: "Span", client: "Span") -> bool:
        return number == "req_seq" or _request_missed(server, client, part)

    def key(span: "Span") -> tuple[int, ...]:
        return (*client_end(span), span.says[number])

    ins, outs = ([s for s in side if s.says[number]] for side in _left(part, pairing))
    clocks = _learn_from_order(ins, outs, key, in_full, guesses, clocks)
    edges = _candidates(ins, outs, key, clocks, may)
    found = _settled(edges, clocks, in_order=False)
    _take(pairing, found, {WHOLLY: 0.99, LOOSELY: 0.98, BEGINS: 0.95}, "pairs_by_one_number", counts)
    return clocks


def _request_missed(server: "Span", client: "Span", part: list["Span"]) -> bool:
    if not server.req_seq or not client.req_seq:
        return True
    asked = (*client_end(client), client.req_seq)
    return any(s.direction == Direction.INCOMING and (*client_end(s), s.req_seq) == asked for s in part)


def _took_a_neighbours(server: "Span", pair: Pair, part: list["Span"], clocks: Clocks) -> bool:
    client = pair.client
    if pair.confidence == 1.0 or not server.resp_seq or not client.resp_seq or server.resp_seq == client.resp_seq:
        return False
    answered = (*client_end(client), client.resp_seq)
    neighbours = [s for s in part if s.direction == Direction.INCOMING and (*client_end(s), s.resp_seq) == answered]
    if not neighbours or server.length is None or client.length is None:
        return False
    return clocks.moment(server) + server.length < clocks.moment(client) + client.length


def _answered(server: "Span", client: "Span", clocks: Clocks) -> int:
    """When the client ended, going by its server."""
    return client.start_ns + max(clocks.moment(server) + (server.length or 0) - clocks.moment(client), 1)


def _by_address(
    part: list["Span"], pairing: Pairing, in_full: dict["Span", "Span"], clocks: Clocks, counts: Counter[str]
) -> None:
    def fine(server: "Span", client: "Span") -> bool:
        return all(len({server.says[n], client.says[n]} - {0}) < 2 for n in ("req_seq", "resp_seq"))

    def way(server: "Span", client: "Span") -> tuple[int, ...]:
        return (client.dst_ip, client.dst_port, server.src_ip, server.src_port)

    edges = _candidates(*_left(part, pairing), client_end, clocks, fine)
    ways = {way(*pair) for pair in in_full.items()}
    better = [edge for edge in edges if way(*edge) in ways]
    servers, clients = {s for s, _ in better}, {c for _, c in better}
    edges = [e for e in edges if e in better or (e[0] not in servers and e[1] not in clients)]
    found = _settled(edges, clocks, in_order=True)
    _take(pairing, found, {WHOLLY: 0.95, LOOSELY: 0.9, BEGINS: 0.8, NOT_AT_ALL: 0.8}, "pairs_by_address", counts)
    counts["pairs_ambiguous"] += len({s for s, _ in edges if s.is_new and s not in pairing})


def _candidates(
    ins: list["Span"],
    outs: list["Span"],
    key: "Callable[[Span], tuple[int, ...]]",
    clocks: Clocks,
    may: "Callable[[Span, Span], bool]",
    *,
    one_request: bool = True,
) -> list[Edge]:
    found = []
    for server in ins:
        if not server.start_ns:
            continue
        alike = sorted(
            (c for c in outs if c.start_ns and key(c) == key(server)),
            key=lambda c: (clocks.moment(c), c.span_id, c.digest),
        )
        before = [c for c in alike if clocks.moment(c) <= clocks.moment(server)]
        for client in [*before[-REACH:], *alike[len(before) :][:REACH]]:
            fine = clocks.fit(server, client) and may(server, client)
            if fine and (not one_request or _one_request(server, client)):
                found.append((server, client))
    return found


def _settled(edges: list[Edge], clocks: Clocks, *, in_order: bool) -> list[tuple[Edge, int]]:
    """Pairs, and how well they fit; those that only their order tells fit NOT_AT_ALL."""
    settled: list[tuple[Edge, int]] = []
    for _ in range(4):
        before = len(settled)
        for least in (WHOLLY, LOOSELY, BEGINS):
            fitting = [e for e in edges if clocks.fit(*e) >= least]
            times = Counter(span for e in fitting for span in e)
            settled += [(e, least) for e in fitting if times[e[0]] == times[e[1]] == 1]
            edges = _rest(edges, settled)
        if in_order:
            settled += [(e, NOT_AT_ALL) for e in _by_order([e for e in edges if clocks.fit(*e) >= LOOSELY], clocks)]
            edges = _rest(edges, settled)
        if len(settled) == before:
            break
    return settled


def _rest(edges: list[Edge], settled: list[tuple[Edge, int]]) -> list[Edge]:
    gone = {span for e, _ in settled for span in e}
    return [e for e in edges if e[0] not in gone and e[1] not in gone]


def _by_order(edges: list[Edge], clocks: Clocks) -> list[Edge]:
    parts: list[set[Span]] = []
    for edge in edges:
        touched = [p for p in parts if p & set(edge)]
        parts = [p for p in parts if p not in touched] + [set(edge).union(*touched)]
    found: list[Edge] = []
    for members in parts:
        ins, outs = (
            sorted((s for s in members if s in side), key=lambda s: (clocks.moment(s), s.span_id, s.digest))
            for side in ({e[0] for e in edges}, {e[1] for e in edges})
        )
        pairs = list(zip(ins, outs, strict=False))
        one_by_one = not _overlap(ins, clocks) and not _overlap(outs, clocks)
        if len(ins) == len(outs) and one_by_one and all(pair in edges for pair in pairs):
            found += pairs
    return found


def _overlap(spans: list["Span"], clocks: Clocks) -> bool:
    return any(
        one.length is None or clocks.moment(following) < clocks.moment(one) + one.length
        for one, following in pairwise(spans)
    )


def _take(
    pairing: Pairing, found: list[tuple[Edge, int]], confidence: dict[int, float], name: str, counts: Counter[str]
) -> None:
    for (server, client), fit in found:
        pairing[server] = Pair(client, Method.SEQ, confidence[fit])
        counts[name] += server.is_new


def _by_request(part: list["Span"], pairing: Pairing, clocks: Clocks) -> None:
    taken = {pair.client for pair in pairing.values()}
    ins = [s for s in part if s.direction == Direction.INCOMING and s not in pairing and s.request_id]
    outs = [s for s in part if s.direction == Direction.OUTGOING and s not in taken and s.request_id]

    def end(span: "Span") -> float:
        return float("inf") if span.length is None else clocks.moment(span) + span.length

    def elsewhere(server: "Span", client: "Span") -> bool:
        return (server.sender, server.pid) != (client.sender, client.pid) and clocks.fit(server, client) >= LOOSELY

    edges = _candidates(ins, outs, lambda s: (s.request_id,), clocks, elsewhere, one_request=False)
    takers: dict[Span, list[Span]] = defaultdict(list)
    for server in ins:
        clients = [c for s, c in edges if s is server]
        last = [
            c
            for c in clients
            if all(
                clocks.moment(o) < clocks.moment(c) and end(o) >= end(c) and (o.sender, o.pid) != (c.sender, c.pid)
                for o in clients
                if o is not c
            )
        ]
        for client in last:
            takers[client].append(server)
    for client, servers in takers.items():
        for server in servers:
            others = [s for s in servers if s is not server]
            if all(clocks.moment(o) > clocks.moment(server) and end(o) <= end(server) for o in others):
                pairing[server] = Pair(client, Method.REQUEST_ID, 0.9)


def entry_by_request(
    span: "Span", part: list["Span"], clocks: Clocks, kind: int, inside: Callable[..., bool]
) -> object:
    """Step 2, 0.: the one entry of the process of an outgoing span with its request id that was open."""
    if not span.request_id or not span.pid or span.direction != Direction.OUTGOING:
        return None
    entries = [s for s in part if s.kind == kind and s.pid]

    def key(s: "Span") -> tuple[int, ...]:
        return (s.request_id, s.sender, s.pid)

    edges = _candidates([span], entries, key, clocks, inside, one_request=False)
    return edges[0][1] if len(edges) == 1 else None
