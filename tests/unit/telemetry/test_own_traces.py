"""Traces of the bridge's own work: what is recorded, and what is not."""

import pytest

from bridge.telemetry import Instruments
from bridge.telemetry.own_traces import MAX_KEPT, UNTRACED, Tracer


def test_off_hands_out_one_object_that_records_nothing() -> None:
    """Whatever is done with it."""
    tracer = Instruments().tracer
    with tracer.begin("request") as trace:
        trace.mark("receive")
        trace.note(spans=1)
        trace.name_tick(1)
    assert trace is UNTRACED
    assert tracer.follow(1, "delivery") is UNTRACED
    assert tracer.take() == []


def test_stages_follow_each_other_and_lie_within_their_root() -> None:
    """Each begins where the one before ended."""
    tracer = Tracer(1.0)
    with tracer.begin("request", receiver="otlp_grpc") as trace:
        trace.mark("receive")
        trace.mark("decode")
        trace.note(spans=3)
    root, first, second = tracer.take()
    assert (root.name, first.name, second.name) == ("request", "receive", "decode")
    assert root.start_ns == first.start_ns <= first.end_ns == second.start_ns <= second.end_ns <= root.end_ns
    assert first.parent_id == second.parent_id == root.span_id != b""
    assert root.parent_id == b""
    assert len({span.span_id for span in (root, first, second)}) == 3
    assert dict(root.attributes) == {"receiver": "otlp_grpc", "spans": 3}
    assert tracer.take() == [], "taken once"


def test_an_error_is_told_by_its_kind_alone() -> None:
    """Its text may hold what a sender wrote."""
    tracer = Tracer(1.0)
    with pytest.raises(ValueError, match="secret"), tracer.begin("request"):
        raise ValueError("secret")
    assert [span.error for span in tracer.take()] == ["ValueError"]


def test_what_is_discarded_is_not_kept() -> None:
    """A tick in which nothing left."""
    tracer = Tracer(1.0)
    with tracer.begin("tick") as trace:
        trace.mark("link")
        trace.discard()
    assert tracer.take() == []


def test_a_delivery_is_traced_where_its_tick_is_and_links_to_it() -> None:
    """Whatever the sampling rate: half a story is none."""
    tracer = Tracer(1.0)
    with tracer.begin("tick") as tick:
        tick.name_tick(7)
    tracer.follow(7, "delivery", exporter="backend").end()
    tracer.follow(8, "delivery").end()
    root, delivery = tracer.take()
    assert delivery.links == ((root.trace_id, root.span_id),)
    assert delivery.trace_id != root.trace_id
    assert dict(delivery.attributes) == {"tick": 7, "exporter": "backend"}


def test_about_as_many_are_recorded_as_the_rate_says() -> None:
    """A quarter of 4000 is 1000, give or take six deviations."""
    tracer = Tracer(0.25)
    recorded = sum(tracer.begin("request") is not UNTRACED for _ in range(4000))
    assert 1000 - 165 < recorded < 1000 + 165


def test_traces_for_which_there_is_no_room_are_dropped_whole_and_counted() -> None:
    """Memory is bounded where nobody takes them."""
    instruments = Instruments(None, 1.0)
    tracer = instruments.tracer
    for _ in range(MAX_KEPT):
        with tracer.begin("request") as trace:
            trace.mark("receive")
            trace.mark("decode")
    kept = tracer.take()
    assert MAX_KEPT - 3 < len(kept) <= MAX_KEPT
    assert len(kept) % 3 == 0
    assert instruments.dropped_own_spans.take() == {(("reason", "too_many"),): 3 * MAX_KEPT - len(kept)}
