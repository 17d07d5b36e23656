"""Calls over keep-alive connections between hosts with clocks of their own, seen from both sides."""

from dataclasses import dataclass, field
from random import Random

from tests.support.link_scenes import MS, NOON, Row, client, server

VIRTUAL = 100
"""IPs of services begin here; hosts have their own number as IP."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What goes wrong, as shares of calls."""

    skew_ms: int = 0
    zero: float = 0.0
    half: float = 0.0
    """One of the two numbers is missing on one side."""
    loss: float = 0.0
    """The client takes the next response on the connection for its own."""
    drop: float = 0.0
    """Of spans."""
    late_ms: int = 0
    """How late the start may be noted, against ktime."""


@dataclass
class Traffic:
    """Rows, and the span id of the client's span for that of each server's whose client is there."""

    rows: list[Row] = field(default_factory=list)
    truth: dict[int, int] = field(default_factory=dict)
    skew_ns: dict[int, int] = field(default_factory=dict)
    """How far the clock of each host is ahead."""


def traffic(random: Random, connections: int, calls: int, trouble: Trouble, hosts: int = 3) -> Traffic:
    """Up to so many calls on each of so many connections."""
    skew = {host: random.randint(-trouble.skew_ms, trouble.skew_ms) * MS for host in range(1, hosts + 1)}
    boot = {host: random.randint(1, 10**6) * MS for host in skew}
    found = Traffic(skew_ns=skew)
    for number in range(connections):
        ends = random.sample(sorted(skew), 2)
        seen = _connection(random, number, ends, random.randint(1, calls), trouble)
        for out, in_ in seen:
            for row in (out, in_):
                late = random.randint(0, trouble.late_ms) * MS
                row["ktime"] = row["start_ns"] - NOON + boot[row["sender"]]
                row["start_ns"] += skew[row["sender"]] + late
                row["end_ns"] += skew[row["sender"]] + late
                row["span_id"] = row["digest"] = random.getrandbits(63) + 1
            there = random.random() >= trouble.drop
            if there:
                found.rows.append(out)
            if random.random() >= trouble.drop:
                found.rows.append(in_)
                if there:
                    found.truth[in_["span_id"]] = out["span_id"]
    return found


def _connection(random: Random, number: int, ends: list[int], calls: int, trouble: Trouble) -> list[tuple[Row, Row]]:
    asks, answers = ends
    request, response = random.getrandbits(31) + 1, random.getrandbits(31) + 1
    at = NOON + random.randint(0, 200) * MS
    seen = []
    for _ in range(calls):
        length = random.randint(2 * MS, 20 * MS)
        before, after = random.randint(MS // 10, MS), random.randint(MS // 10, MS)
        out = client(sender=asks, pid=asks, start_ns=at, end_ns=at + length)
        out |= {"src_ip": asks, "src_port": 1000 + number, "dst_ip": VIRTUAL + answers, "dst_port": 80}
        in_ = server(sender=answers, pid=answers, start_ns=at + before, end_ns=at + length - after)
        in_ |= {"src_ip": answers, "src_port": 8080, "dst_ip": asks, "dst_port": 1000 + number}
        for row in (out, in_):
            row |= {"req_seq": request, "resp_seq": response}
        seen.append((out, in_))
        request, response = request + random.randint(90, 900), response + random.randint(100, 9000)
        at += length + random.randint(MS // 10, 30 * MS)
    for (out, in_), following in zip(seen, [*seen[1:], None], strict=True):
        if following is not None and random.random() < trouble.loss:
            out |= {"resp_seq": following[0]["resp_seq"], "end_ns": following[0]["end_ns"]}
        if random.random() < trouble.half:
            random.choice((out, in_))[random.choice(("req_seq", "resp_seq"))] = 0
        if random.random() < trouble.zero:
            for row in (out, in_):
                row |= {"req_seq": 0, "resp_seq": 0}
    return seen
