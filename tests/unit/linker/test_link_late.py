"""Step 6 of docs/linking.md: rows that come after others of their trace left."""

import numpy as np
import pytest

from bridge.linker import Decided, LinkOptions, link
from bridge.spans import Decisions, Encoding, Method, Outcome
from tests.support.link_scenes import KEEP_ALL, client, columns_of, net, scene, scene_after, server

KEEP_NONE = LinkOptions(sampling_rate=0.0)
W3C = {"app_trace_hi": 5, "app_trace_lo": 7, "app_encode": Encoding.HEX}


@pytest.mark.parametrize(("first", "then"), [(KEEP_ALL, KEEP_NONE), (KEEP_NONE, KEEP_ALL)])
def test_late_child_takes_trace_and_verdict(first: LinkOptions, then: LinkOptions) -> None:
    """Spans that come a window late join the trace that left, also where that was rejected."""
    head = [server(**net(1), thread_trace_id=1)]
    late = [client(**net(2), thread_trace_id=1), server(**net(2), app_flag=0)]
    found = scene_after(head, now=late, options=first, then=then)
    assert found.parents == [-1, 0, 1]
    assert len(set(found.traces)) == 1
    assert len(set(found.outcomes)) == 1
    assert found.count("late_children") == 1


def test_own_flags_come_too_late() -> None:
    """A keep in the tail of a rejected trace changes nothing."""
    late = client(**net(2), thread_trace_id=1, app_flag=1)
    found = scene_after([server(thread_trace_id=1)], now=[late], options=KEEP_NONE)
    assert found.outcomes == [Outcome.SAMPLED_OUT] * 2


def test_decisions_stay() -> None:
    """A row that left keeps what was decided, whatever comes."""
    alone = scene(server(**net(1)))
    found = scene_after([server(**net(1))], now=[client(**net(1), **W3C)])
    assert found.traces[0] == alone.traces[0]
    assert found.exported_parents[0] == 0


def test_late_parent_takes_over_the_first_fragment() -> None:
    """It takes the trace and verdict of the fragment that left first and carries a link to each of the others."""
    first, second = [server(**net(1))], [server(**net(1), start_ns=5)]
    found = scene_after(second, first, now=[client(**net(1))], options=KEEP_ALL)
    assert found.ebpf_traces[2] == found.ebpf_traces[0]
    assert found.count("late_parents") == 1
    assert found.span_links == set()  # both fragments were made of one net id and are one trace
    apart = scene_after(
        [client(thread_trace_id=3, **net(10))],
        [client(thread_trace_id=3, **net(20))],
        now=[server(thread_trace_id=3, **net(30))],
    )
    assert apart.traces[2] == apart.traces[0] != apart.traces[1]
    assert apart.span_links == {(2, apart.traces[1], 2)}
    assert (apart.exported_parents[2], apart.count("late_parents")) == (0, 1)


@pytest.mark.parametrize(("first", "then"), [(KEEP_ALL, KEEP_NONE), (KEEP_NONE, KEEP_ALL)])
def test_late_parent_takes_the_verdict(first: LinkOptions, then: LinkOptions) -> None:
    """The verdict on what left goes before the rate, and before flags."""
    flag = 1 if then is KEEP_NONE else -1
    late = server(thread_trace_id=3, app_flag=0), server(thread_trace_id=3, app_flag=flag)
    for row in late:
        found = scene_after([client(thread_trace_id=3, **net(10))], now=[row], options=first, then=then)
        assert found.outcomes[1] == found.outcomes[0]


def test_fragment_below_the_middle_gives_the_root_its_trace() -> None:
    """The late parent may itself have parents that came with it: all of them join."""
    found = scene_after(
        [server(**net(2))], now=[server(**net(1), thread_trace_id=1), client(**net(2), thread_trace_id=1)]
    )
    assert set(found.ebpf_traces) == {found.ebpf_traces[0]}
    assert found.parents == [-1, -1, 1]


def test_header_id_of_a_fragment_stays_downstream() -> None:
    """A fragment that exported a header's trace id gives its late parent the eBPF id only."""
    found = scene_after([server(**net(1), **W3C)], now=[client(**net(1))])
    assert found.traces == [(5, 7), found.ebpf_traces[0]]
    assert found.ebpf_traces[1] == found.ebpf_traces[0]


@pytest.mark.parametrize(("first", "then"), [(KEEP_ALL, KEEP_NONE), (KEEP_NONE, KEEP_ALL)])
def test_header_id_that_left_shares_its_verdict(first: LinkOptions, then: LinkOptions) -> None:
    """A trace that exports a header trace id that left before is kept or not as that one was."""
    found = scene_after([server(**net(1), **W3C)], now=[server(**net(2), **W3C)], options=first, then=then)
    assert found.outcomes[1] == found.outcomes[0]
    assert found.parents == [-1, -1]


def test_first_that_left_decides() -> None:
    """Of several verdicts on one header id that of the first that left counts."""
    kept, rejected = [server(**net(1), **W3C, app_flag=1)], [server(**net(2), **W3C, app_flag=-1)]
    assert scene_after(kept, rejected, now=[server(**net(3), **W3C)]).outcomes[2] == Outcome.EXPORT
    assert scene_after(rejected, kept, now=[server(**net(3), **W3C)]).outcomes[2] == Outcome.SAMPLED_OUT


def test_named_placeholder_that_left() -> None:
    """A span whose headers name one that left as a placeholder is in the trace that that one was exported under."""
    found = scene_after([server(**net(1), trace_lo=7)], now=[server(**net(2), trace_lo=7, parent_id=1)])
    assert found.traces[1] == found.traces[0] == found.ebpf_traces[0]
    assert (found.exported_parents[1], found.methods[1]) == (1, Method.HEADER)


def test_of_two_with_one_name_the_first_that_left() -> None:
    """Two spans may have left under one (trace id, span id): the first counts, wherever it stands."""
    twice = [[server(**net(number), trace_lo=7, span_id=50, digest=number)] for number in (1, 2)]
    child = server(**net(3), trace_lo=7, parent_id=50)
    assert (found := scene_after(*twice, now=[child])).traces[2] == found.traces[0]
    assert (found := scene_after(*twice[::-1], now=[child])).traces[2] == found.traces[0]


def test_late_copy_folds() -> None:
    """A copy of a span that left is not exported again; a copy of a copy neither, nor is it a parent."""
    row = server(**net(1), thread_trace_id=1, span_id=9, digest=9, sender=2)
    copies = [row, {**row, "sender": 1}]
    found = scene_after(copies, now=[{**row, "sender": 3}, client(thread_trace_id=1)])
    assert found.outcomes == [Outcome.FOLDED, Outcome.EXPORT, Outcome.FOLDED, Outcome.EXPORT]
    assert found.parents[3] == 1
    assert found.count("id_conflicts") == 0


def test_folded_copy_is_no_parent() -> None:
    """A row that left as a copy takes no part, also where the span it is a copy of is forgotten."""
    columns = columns_of([server(thread_trace_id=1), client(thread_trace_id=1)])
    folded = Decisions.from_columns(1, outcome=np.array([Outcome.FOLDED]), span_id=np.array([1]))
    links = link(columns, KEEP_ALL, Decided(np.array([0]), folded, np.array([1])))
    assert links.parent.tolist() == [-1, -1]
    assert links.decisions.outcome.tolist() == [Outcome.FOLDED, Outcome.EXPORT]


def test_conflicts_are_counted_once() -> None:
    """Spans with one id are counted when they come, not again when others come later."""
    left = [server(span_id=9, digest=1), server(span_id=9, digest=2)]
    assert scene_after(left, now=[server()]).count("id_conflicts") == 0
    assert scene_after(left, now=[server(span_id=9, digest=3)]).count("id_conflicts") == 1
