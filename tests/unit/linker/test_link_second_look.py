"""The second look in step 6 of docs/linking.md: what no key says is found among rows that wait, and held."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from bridge.linker import LinkOptions, WindowOptions, link, second_look
from bridge.spans import Kind, Method
from tests.support.assembling import Decision
from tests.support.link_scenes import KEEP_ALL, MS, NOON, Row, client, columns_of, net, server
from tests.support.link_traffic import Trouble, traffic
from tests.support.replaying import IN_PART, SECOND, replay, rows_of, score
from tests.support.timing_scenes import sequential

WINDOW = WindowOptions(window_ns=SECOND)
SHORT = WindowOptions(window_ns=SECOND // 2)


def ends(rows: list[Row]) -> list[int]:
    """When rows come: when they ended, in steps of 5 ms."""
    return [-(-row["end_ns"] // (5 * MS)) * 5 * MS for row in rows]


def parents(decided: list[Decision]) -> list[int]:
    return [int(d["ebpf_parent_id"]) for d in decided]


def numbered(rows: list[Row], first: int = 1) -> list[Row]:
    return [{"span_id": i, "sent_span_id": i, "digest": i, **row} for i, row in enumerate(rows, first)]


# --- inside a process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [{}, {"tid": 5}], ids=["no threads", "one thread"])
@pytest.mark.parametrize("window", [WINDOW, SHORT], ids=["one window", "many"])
def test_timing_finds_as_much_as_in_one_window(threads: dict[str, int], window: WindowOptions) -> None:
    """Exits of a process that serves several requests at once: no more than 0.02 are lost against all rows together."""
    process = sequential(300, every_us=4000, **threads)
    rows = rows_of(process.columns)
    truth = np.where(process.parent >= 0, process.columns.span_id[process.parent], 0).astype(np.uint64)
    _, decided, counts = replay(rows, ends(rows), window)
    recall, precision = score(decided, truth, process.exits)
    together = link(process.columns, IN_PART).decisions.ebpf_parent_id[process.exits] == truth[process.exits]
    assert recall >= together.mean() - 0.02
    assert precision >= together.mean() - 0.02
    assert counts["late_children"] == counts["late_parents"] == 0


def test_threads_that_tell_nothing_join_nothing() -> None:
    """Requests that share a thread do not wait for each other, so that none leaves before it was looked at."""
    process = sequential(200, every_us=4000, tid=5, thread_trace_id=9)
    rows = rows_of(process.columns)
    truth = np.where(process.parent >= 0, process.columns.span_id[process.parent], 0).astype(np.uint64)
    _, decided, counts = replay(rows, ends(rows), replace(SHORT, max_trace_spans=50))
    assert counts["groups_size"] == 0
    assert score(decided, truth, process.exits)[0] > 0.9


def test_rows_of_many_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is bounded: of the rows of a process those nearest in time are enough."""
    monkeypatch.setattr(second_look, "MAX_ROWS", 150)
    monkeypatch.setattr(second_look, "FEW_ROWS", 10)
    process = sequential(300, every_us=4000)
    rows = rows_of(process.columns)
    truth = np.where(process.parent >= 0, process.columns.span_id[process.parent], 0).astype(np.uint64)
    recall, precision = score(replay(rows, ends(rows), SHORT)[1], truth, process.exits)
    assert recall > 0.85
    assert precision > 0.9


def test_timing_over_budget_is_skipped_and_counted() -> None:
    """Exits stay without a parent, and the reason is told."""
    process = sequential(50, every_us=4000)
    rows = rows_of(process.columns)
    _, decided, counts = replay(rows, ends(rows), WINDOW, options=replace(IN_PART, timing_budget=0))
    assert not any(parents(decided))
    assert counts["timing_skipped"] == int(process.exits.sum())


def test_timing_looks_at_no_more_than_its_share() -> None:
    """What is allowed to timing for now is a share of its budget, which here takes half of it at most."""
    process = sequential(50, every_us=4000)
    rows = rows_of(process.columns)
    budget = replace(IN_PART, timing_budget=100_000)
    _, decided, counts = replay(rows, ends(rows), WINDOW, options=budget, effort=0.5)
    assert counts["timing_skipped"] == 0
    assert any(parents(decided))
    _, decided, counts = replay(rows, ends(rows), WINDOW, options=budget, effort=0.00001)
    assert not any(parents(decided))
    assert counts["timing_skipped"] == int(process.exits.sum())


def test_unsure_edges_are_none() -> None:
    """Below `min_confidence` a span stays without a parent; nothing is sure to 1.0."""
    process = sequential(50, every_us=4000)
    rows = rows_of(process.columns)
    assert not any(parents(replay(rows, ends(rows), WINDOW, options=replace(IN_PART, min_confidence=1.0))[1]))


def test_what_is_forced_out_was_looked_at() -> None:
    """Also before half a window has passed."""
    process = sequential(60, every_us=20_000)
    rows = rows_of(process.columns)
    truth = np.where(process.parent >= 0, process.columns.span_id[process.parent], 0).astype(np.uint64)
    run, decided, _ = replay(rows, ends(rows), WindowOptions(window_ns=60 * SECOND), force=True)
    assert run.ticks == 1
    assert score(decided, truth, process.exits)[0] > 0.98


# --- across processes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(zero=0.1, skew_ms=200),
        Trouble(half=0.2, skew_ms=200, late_ms=2),
        Trouble(loss=0.1, skew_ms=200),
        Trouble(zero=0.05, half=0.05, drop=0.02),
    ],
    ids=["zero", "half", "loss", "drop"],
)
def test_pairs_in_part_are_found_as_in_one_window(trouble: Trouble) -> None:
    """No more than 0.02 of the servers lose their client against all rows together, and no more get a wrong one."""
    calls = traffic(Random(3), connections=60, calls=25, trouble=trouble)
    rows = numbered(calls.rows)
    columns = columns_of(rows)
    entries = columns.kind == Kind.ENTRY
    truth = np.array([calls.truth.get(s, 0) for s in columns.span_id.tolist()], np.uint64)
    together = link(columns, KEEP_ALL).decisions.ebpf_parent_id
    right = np.count_nonzero((together == truth) & (truth != 0) & entries)
    _, decided, counts = replay(rows, ends(rows), WindowOptions(window_ns=4 * SECOND))
    recall, precision = score(decided, truth, entries)
    assert recall >= right / np.count_nonzero(truth) - 0.02
    assert precision >= right / np.count_nonzero(together[entries]) - 0.02
    assert counts["late_children"] == 0
    assert counts["pairs_by_one_number"] + counts["pairs_by_address"] > 0


def test_clients_and_servers_leave_together() -> None:
    """Rows that no key joins are one trace when their pair was found by address."""
    out = client(sender=1, start_ns=NOON, end_ns=NOON + 9 * MS, src_ip=1, src_port=5, dst_ip=2, dst_port=80)
    in_ = server(sender=2, start_ns=NOON + MS, end_ns=NOON + 8 * MS, src_ip=2, src_port=80, dst_ip=1, dst_port=5)
    rows = numbered([out, in_])
    for first, then in ((0, 300 * MS), (300 * MS, 0)):
        run, decided, _ = replay(rows, [NOON + first, NOON + then], WINDOW)
        assert parents(decided) == [0, 1]
        assert {left.at for left in run.left.values()} == {run.left[1, 0].at}
        assert decided[1]["method"] == Method.SEQ
        assert decided[1]["confidence"] == pytest.approx(0.9)


def test_a_partner_that_comes_in_time_goes_before_what_is_held() -> None:
    """Numbers in full are never overruled, also where the pair in part was found before they came."""
    where = {"src_ip": 1, "src_port": 5, "dst_ip": 2, "dst_port": 80}
    back = {"src_ip": 2, "src_port": 80, "dst_ip": 1, "dst_port": 5}
    rows = numbered(
        [
            client(sender=1, start_ns=NOON, end_ns=NOON + 9 * MS, **where),
            server(sender=2, start_ns=NOON + MS, end_ns=NOON + 8 * MS, **back, **net(1)),
            client(sender=1, start_ns=NOON, end_ns=NOON + 9 * MS, **where, **net(1)),
        ]
    )
    _, decided, counts = replay(rows, [NOON, NOON, NOON + 800 * MS], WINDOW)
    assert counts["pairs_by_address"] == 1
    assert parents(decided) == [0, 3, 0]


def test_request_ids_join_what_a_proxy_cut() -> None:
    """A proxy's exit goes under the entry with its request id, a server under the client with its own."""
    ids = {"request_id": 77, "ktime": 0}
    rows = numbered(
        [
            client(sender=1, pid=1, start_ns=NOON, end_ns=NOON + 20 * MS, **net(1), **ids),
            server(sender=1, pid=2, start_ns=NOON + MS, end_ns=NOON + 19 * MS, **net(1), **ids),
            client(sender=1, pid=2, start_ns=NOON + 2 * MS, end_ns=NOON + 18 * MS, **net(2), **ids),
            server(sender=1, pid=3, start_ns=NOON + 3 * MS, end_ns=NOON + 17 * MS, **net(3), **ids),
        ]
    )
    expected = link(columns_of(rows), KEEP_ALL).decisions
    _, decided, _ = replay(rows, ends(rows), WINDOW)
    assert parents(decided) == expected.ebpf_parent_id.tolist() == [0, 1, 2, 3]
    assert [d["method"] for d in decided] == expected.method.tolist()


# --- nothing open -----------------------------------------------------------------------------------------------------


def whole(traces: int) -> list[Row]:
    """Traces of which keys say everything: A calls B twice, with threads and numbers."""
    rows, start = list[Row](), NOON
    for trace in range(traces):
        start += 7 * MS
        numbers = 10 * trace
        rows.append(
            server(sender=1, pid=1, tid=trace % 3, start_ns=start, end_ns=start + 20 * MS, thread_trace_id=numbers + 1)
        )
        for call in (0, 1):
            at = start + (2 + 8 * call) * MS
            rows.append(
                client(sender=1, pid=1, tid=trace % 3, start_ns=at, end_ns=at + 6 * MS, thread_trace_id=numbers + 1)
                | net(numbers + call + 1)
            )
            rows.append(
                server(sender=2, pid=2, tid=4 + call, start_ns=at + MS, end_ns=at + 5 * MS, **net(numbers + call + 1))
            )
    for row in rows:
        row["ktime"] = row["start_ns"] - NOON + SECOND
    return numbered(rows)


@pytest.mark.parametrize("restarts", [(), (3, 20)])
def test_where_nothing_is_open_nothing_changes(restarts: tuple[int, ...]) -> None:
    """Every decision and when it was made are those without a second look."""
    rows = whole(200)
    looked, decided, _ = replay(rows, ends(rows), SHORT, restarts=restarts)
    plain, same, _ = replay(rows, ends(rows), SHORT, options=replace(IN_PART, timing=False))
    assert decided == same
    assert {place: left.at for place, left in looked.left.items()} == {p: left.at for p, left in plain.left.items()}
    assert parents(decided)[1:5] == [1, 2, 1, 4]


def test_where_threads_tell_an_exit_waits_for_its_entry() -> None:
    """Also one that takes longer than the exit can wait, and although others were open when it began."""
    rows = whole(100)
    calls = [r for r in rows if r["kind"] == Kind.EXIT and r["thread_trace_id"] % 90 == 1]
    for number, row in enumerate(calls):
        row |= {"tid": 50 + number, "thread_trace_id": 10_000 + number}
    _, decided, counts = replay(rows, ends(rows), WINDOW)
    found = {int(d["span_id"]): int(d["ebpf_parent_id"]) for d in decided}
    assert len(calls) > 10
    assert not any(found[row["span_id"]] for row in calls)
    assert not any(d["method"] == Method.TIMING for d in decided)
    assert counts["threads_doubted"] == 0


# --- threads that told nothing for a while ----------------------------------------------------------------------------


def served(number: int, start: int, *, tid: int) -> list[Row]:
    """A request that a process serves on one thread, the call that it makes, and who asked it."""
    ids = {"sender": 1, "pid": 1, "tid": tid, "thread_trace_id": number}
    rows = [
        server(start_ns=start, end_ns=start + 6 * MS, **net(2 * number), **ids),
        client(start_ns=start + MS, end_ns=start + 2 * MS, **net(2 * number + 1), **ids),
        client(start_ns=start - MS, end_ns=start + 7 * MS, sender=2, **net(2 * number)),
    ]
    return numbered([row | {"ktime": row["start_ns"] - NOON + SECOND} for row in rows], 10 * number)


CALLS = [served(n, NOON + 10 * n * MS, tid=n) for n in range(50, 54)]


def found_late(first: list[Row], at: int, waits: tuple[int, int, int]) -> list[int]:
    """Parents of the servers and then of the calls of CALLS.

    These came so many ms after the rows that came first, and each of the three so many ms after that.
    """
    came = [(row, NOON + (at + wait) * MS) for rows in CALLS for row, wait in zip(rows, waits, strict=True)]
    rows = [*first, *(row for row, _ in came)]
    _, decided, counts = replay(rows, [NOON] * len(first) + [ns for _, ns in came], WINDOW)
    assert counts["late_parents"] == 0
    there = parents(decided)[len(first) :]
    return there[::3] + there[1::3]


def test_copies_crowd_no_thread() -> None:
    """What a sender sends again does not overlap with itself: exits wait for an entry of their thread as ever."""
    once = [row for n in range(1, 40) for row in served(n, NOON + 10 * n * MS, tid=n)]
    assert found_late(once + once, 300, (800, 0, 900)) == [502, 512, 522, 532, 500, 510, 520, 530]


@pytest.mark.parametrize("wait", [0, 100])
@pytest.mark.parametrize("at", [300, 600, 950])
def test_who_came_while_threads_told_nothing_finds_its_entry_afterwards(at: int, wait: int) -> None:
    """Rows that their thread did not join when they came are joined when they are looked at, whatever is thought of the
    threads by then. Who asked comes last, so that traces leave later than what is not known to be part of them."""
    crowd = [row for n in range(1, 5) for row in served(n, NOON + n * MS, tid=1)]
    assert found_late(crowd, at, (0, wait, 500)) == [502, 512, 522, 532, 500, 510, 520, 530]


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [1, 9, 15])
def test_a_restart_finds_again_what_was_held(before: int) -> None:
    """Rows that still wait when the bridge starts again are looked at as if it had not stopped."""
    process = sequential(40, every_us=4000)
    rows = rows_of(process.columns)
    without = replay(rows, ends(rows), WINDOW)[1]
    assert replay(rows, ends(rows), WINDOW, restarts=(before,))[1] == without


@pytest.mark.parametrize("every", [3, 10])
def test_restarts_cost_little(every: int) -> None:
    """What left is context no longer, but little of what is to be found depends on it."""
    process = sequential(300, every_us=4000)
    rows = rows_of(process.columns)
    truth = np.where(process.parent >= 0, process.columns.span_id[process.parent], 0).astype(np.uint64)
    recall, precision = score(replay(rows, ends(rows), SHORT, restarts=range(0, 100, every))[1], truth, process.exits)
    assert recall > 0.95
    assert precision > 0.95


def test_no_second_look_without_the_option() -> None:
    """Then rows that share no key are no trace."""
    process = sequential(20, every_us=4000)
    rows = rows_of(process.columns)
    assert not any(parents(replay(rows, ends(rows), WINDOW, options=LinkOptions(sampling_rate=1.0))[1]))
