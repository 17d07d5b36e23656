"""Traces of other lengths, and spans of other sizes, are as true as the shop's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.cli.call_tree import SHOP, call_tree
from bridge.cli.simulation import THREADS, Simulation, Traces
from bridge.cli.span_template import MIN_ATTRIBUTES
from bridge.codec.otlp_protobuf import decode_request
from bridge.linker import LinkOptions, link
from bridge.spans import SpanColumns

LENGTHS = [1, 2, 3, 9, 10, 100, 10_000]
START_NS = 1_700_000_000_000_000_000


def traces_of(simulation: Simulation, n: int = 3) -> Traces:
    return simulation.traces(0, np.uint64(START_NS) + np.arange(n, dtype=np.uint64) * np.uint64(10**6))


def spans_of(simulation: Simulation, traces: Traces, batch: int) -> Iterator[Any]:
    for request in simulation.requests(traces, batch):
        assert request.spans <= batch
        (group,) = ExportTraceServiceRequest.FromString(request.data).resource_spans
        assert len(group.scope_spans[0].spans) == request.spans
        yield from group.scope_spans[0].spans


@pytest.mark.parametrize("length", LENGTHS)
def test_a_trace_has_the_length_asked_for(length: int) -> None:
    """One root; every other span is called by one before it, and lies within it."""
    roles = call_tree(length)
    assert len(roles) == length
    assert [role.parent for role in roles if role.parent < 0] == [-1]
    for at, role in enumerate(roles[1:], 1):
        parent = roles[role.parent]
        assert role.parent < at
        assert parent.start_us < role.start_us < role.end_us < parent.end_us
        assert parent.entry != role.entry
        assert role.entry == (role.call == parent.call)
        assert role.entry or role.service == parent.service


def test_entries_of_one_service_keep_to_different_threads() -> None:
    """Also of traces that overlap: who serves a request is told by its thread."""
    simulation = Simulation(roles=call_tree(100), thread_count=4096)
    traces = traces_of(simulation)
    seen = [
        (role.service, int(traces.tid[at, number]))
        for at, role in enumerate(simulation.roles)
        for number in range(3)
        if role.entry
    ]
    assert len(set(seen)) == len(seen) == 3 * 50


@pytest.mark.parametrize("length", [2, 9, 300, 10_000])
@pytest.mark.parametrize("batch", [1, 7, 512])
def test_requests_hold_every_span_once(length: int, batch: int) -> None:
    """With the id, the times and the duration that were drawn, in requests no larger than asked for."""
    if length // batch > 500:
        batch = 512
    simulation = Simulation(roles=call_tree(length))
    traces = traces_of(simulation)
    found = {int.from_bytes(span.span_id, "big"): span for span in spans_of(simulation, traces, batch)}
    assert sorted(found) == sorted(traces.span_id.ravel().tolist())
    for at in range(0, length, 97):
        span = found[int(traces.span_id[at, 1])]
        assert span.start_time_unix_nano == int(traces.start_ns[at, 1])
        assert span.end_time_unix_nano == int(traces.end_ns[at, 1])
        values = {a.key: a.value.int_value for a in span.attributes}
        assert values["duration"] * 1000 == span.end_time_unix_nano - span.start_time_unix_nano
        assert values["req_seq"] == int(traces.req_seq[at, 1])


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("length", [2, 10, 1000])
def test_the_linker_finds_what_is_true(length: int, threads: str) -> None:
    """Every parent, in traces of any length, overlapping ones included."""
    simulation = Simulation(roles=call_tree(length), threads=threads)
    traces = traces_of(simulation)
    rows = [decode_request(r.data, peer="a").batch.columns for r in simulation.requests(traces, 512)]
    columns = SpanColumns(
        **{name: np.concatenate([getattr(part, name) for part in rows]) for name in SpanColumns.dtypes()}
    )
    parents = link(columns, LinkOptions(sampling_rate=1.0)).parent
    ids = [f"{span_id:016x}" for span_id in columns.sent_span_id.tolist()]
    found = {span_id: ids[parent] if parent >= 0 else "" for span_id, parent in zip(ids, parents.tolist(), strict=True)}
    assert found == dict(line.split(",")[:2] for line in simulation.truth(traces))


@pytest.mark.parametrize("attributes", [MIN_ATTRIBUTES, 12, 26, 30])
def test_spans_have_as_many_attributes_as_asked_for(attributes: int) -> None:
    """The four that make an eSpan are always among them."""
    simulation = Simulation(roles=SHOP, attributes=attributes)
    for span in spans_of(simulation, traces_of(simulation), 512):
        keys = [a.key for a in span.attributes]
        assert len(keys) == len(set(keys)) == attributes
        assert {"ebpf_span_type", "direction", "req_seq", "resp_seq"} <= set(keys)
