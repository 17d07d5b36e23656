"""The second look over minutes: clocks that drift, and entries that come long after their exits."""

from random import Random

import pytest

from bridge.linker import LinkOptions, WindowOptions
from bridge.spans import Method, SpanColumns
from tests.support.assembling import Left, Row, Run
from tests.support.link_scenes import NOON, client, net, server

S = 10**9
OPTIONS = LinkOptions(sampling_rate=1.0, timing=True)
KTIME = 10**13


def whole(row: Row) -> Row:
    """The row with every column, and an id and a digest of its own."""
    row = {"sent_span_id": row["span_id"], "digest": row["span_id"], **row}
    return {name: int(row.get(name, 0)) for name in SpanColumns.dtypes()}


def played(arrivals: dict[int, list[Row]]) -> dict[int, Left]:
    """What leaves, by span id, of rows by their time of arrival, in ns since noon."""
    run = Run(OPTIONS, WindowOptions(20 * S))
    for at, rows in sorted(arrivals.items()):
        while run.ticks * S < at:
            run.tick(NOON + (run.ticks + 1) * S)
        run.add([whole(row) for row in rows], NOON + at)
    while run.waiting:
        run.tick(NOON + (run.ticks + 1) * S)
    return {left.row["span_id"]: left for left in run.left.values()}


@pytest.mark.parametrize(("ppm", "step_s"), [(0, 0), (20, 0), (50, 0), (0, 3)])
def test_clocks_that_drift_are_followed(ppm: int, step_s: int) -> None:
    """Calls whose numbers one side did not see are found by address all the time; also when a clock is set anew."""
    draw, arrivals, unseen = Random(ppm + step_s), dict[int, list[Row]](), list[int]()
    for number in range(1, 1000):
        at, length = number * S // 5, draw.randrange(3_000_000, 20_000_000)
        begin, end = draw.randrange(100_000, 600_000), draw.randrange(100_000, 600_000)
        drifted = 7200 * S + at * ppm // 10**6 + (step_s * S if at > 100 * S else 0)
        numbers = {"req_seq": number * 1000, "resp_seq": number * 1000 + 7}
        zero = number % 10 == 0
        out = client(**numbers, sender=1, pid=1, src_ip=1, src_port=1000 + number % 5, dst_ip=102, dst_port=80,
                     ktime=KTIME + at, start_ns=NOON + at, end_ns=NOON + at + length, span_id=number)  # fmt: skip
        start = NOON + at + begin + drifted
        seen = {"req_seq": 0, "resp_seq": 0} if zero else numbers
        into = server(**seen, sender=2, pid=2, src_ip=2, src_port=8080, dst_ip=1, dst_port=1000 + number % 5,
                      ktime=5 * KTIME + at + begin + drifted, start_ns=start, end_ns=start + length - begin - end,
                      span_id=10_000 + number)  # fmt: skip
        arrivals.setdefault(at + S, []).extend([out, into])
        if zero and not (step_s and 100 * S < at < 120 * S):
            unseen.append(number)
    left = played(arrivals)
    assert [n for n in unseen if left[10_000 + n].decision["ebpf_parent_id"] != n] == []


def test_an_entry_that_comes_late_is_still_the_parent() -> None:
    """Its exits came when it began, and when they were looked at there were other requests alone."""

    def entry(number: int, tid: int, begin: int, end: int) -> Row:
        return server(**net(number * 10), sender=1, pid=1, service=1, tid=tid, ktime=KTIME + begin,
                      start_ns=NOON + begin, end_ns=NOON + end, span_id=number, src_ip=1, src_port=80, dst_ip=5,
                      dst_port=number)  # fmt: skip

    def exit_of(number: int, tid: int, begin: int) -> Row:
        return client(**net(number * 10), sender=1, pid=1, service=1, tid=tid, ktime=KTIME + begin,
                      start_ns=NOON + begin, end_ns=NOON + begin + S // 100, span_id=number, src_ip=1,
                      src_port=number, dst_ip=9, dst_port=80)  # fmt: skip

    arrivals: dict[int, list[Row]] = {
        S // 20: [exit_of(1000, 1, S // 50)],
        S // 2: [entry(2, 2, 0, 2 * S // 5)],
        13 * S: [entry(1, 1, 0, 25 * S // 2)],
    }
    for k in range(10):
        arrivals[S * k + 3 * S // 5] = [entry(20 + k, 2, (k + 1) * S // 2, (k + 1) * S // 2 + S // 5)]
    left = played(arrivals)
    assert left[1000].decision["ebpf_parent_id"] == 1
    assert left[1000].decision["method"] == Method.THREAD
