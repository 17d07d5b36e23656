"""The simulated system: the same on every machine, readable by anyone, and true to its own truth."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.cli.simulation import ROLES, SERVICES, SPANS_PER_TRACE, Simulation, Traces
from tests.support.dataway import read_protobuf

STARTS = np.uint64(1_700_000_000_000_000_000) + np.arange(40, dtype=np.uint64) * np.uint64(1_000_000)


def traces_of(simulation: Simulation, first: int = 0) -> Traces:
    return simulation.traces(first, STARTS)


def spans_of(simulation: Simulation, traces: Traces, batch: int = 64) -> dict[int, dict[str, Any]]:
    """What stock protobuf reads of each span, by its id."""
    found = {}
    for request in simulation.requests(traces, batch):
        for group in ExportTraceServiceRequest.FromString(request.data).resource_spans:
            for span in group.scope_spans[0].spans:
                values = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
                values |= {"start_ns": span.start_time_unix_nano, "end_ns": span.end_time_unix_nano}
                found[int.from_bytes(span.span_id, "big")] = values
    return found


def test_the_same_seed_makes_the_same_bytes() -> None:
    """Another seed makes none of the same ids."""
    one, same, other = (
        [r.data for r in s.requests(traces_of(s), 64)] for s in (Simulation(), Simulation(), Simulation(seed=2))
    )
    assert one == same
    assert not {*traces_of(Simulation()).span_id.flat} & {*traces_of(Simulation(seed=2)).span_id.flat}
    assert one != other


def test_ids_are_distinct_over_chunks() -> None:
    """A trace has its number, whatever chunk it is made in."""
    simulation = Simulation()
    parts = [traces_of(simulation, first).span_id for first in (0, 40, 80)]
    ids = np.concatenate([part.ravel() for part in parts])
    assert np.unique(ids).size == ids.size == 3 * 40 * SPANS_PER_TRACE
    assert np.array_equal(simulation.traces(41, STARTS[:1]).span_id[:, 0], parts[1][:, 1])


def test_stock_protobuf_reads_what_was_drawn() -> None:
    """Every patched field of every span, and nothing of one role in another's."""
    simulation = Simulation()
    traces = traces_of(simulation)
    spans = spans_of(simulation, traces)
    assert len(spans) == traces.span_id.size
    for role, number in np.ndindex(*traces.span_id.shape):
        span = spans[int(traces.span_id[role, number])]
        for key in ("start_ns", "end_ns", "ktime", "req_seq", "resp_seq", "tid"):
            assert span[key] == int(getattr(traces, key)[role, number])
        assert span["thread_trace_id"] % 2**64 == int(traces.thread_trace_id[role, number])
        assert span["start"] * 1000 == span["start_ns"]
        assert span["duration"] * 1000 == span["end_ns"] - span["start_ns"]
        assert span["ebpf_span_type"] == ("entry" if ROLES[role].entry else "exit")
        port = span["dst_port" if ROLES[role].entry else "src_port"]
        assert port == str(int(traces.client_port[role, number]))


@pytest.mark.parametrize("batch", [9, 64, 100_000])
def test_a_request_is_of_one_service_and_within_the_batch_size(batch: int) -> None:
    """And all of them together hold each span once."""
    simulation = Simulation()
    services: Counter[str] = Counter()
    for request in simulation.requests(traces_of(simulation), batch):
        assert request.spans <= batch
        (group,) = ExportTraceServiceRequest.FromString(request.data).resource_spans
        assert len(group.scope_spans[0].spans) == request.spans
        services[group.resource.attributes[0].value.string_value] += request.spans
    assert services == {name: 40 * sum(role.service == name for role in ROLES) for name in SERVICES}


def test_the_truth_names_the_parent_of_every_span() -> None:
    """The exit of the same call for an entry, the entry it is served by for an exit."""
    simulation = Simulation()
    traces = traces_of(simulation)
    spans = spans_of(simulation, traces)
    rows = [line.split(",") for line in simulation.truth(traces)]
    assert len(rows) == len(spans)
    for span_id, parent_id, _, kind in rows:
        span = spans[int(span_id, 16)]
        assert span["ebpf_span_type"] == kind
        if not parent_id:
            continue
        parent = spans[int(parent_id, 16)]
        shared = ("req_seq", "resp_seq") if kind == "entry" else ("thread_trace_id", "tid", "pid")
        assert [span[key] for key in shared] == [parent[key] for key in shared]
        assert parent["start_ns"] <= span["start_ns"] <= span["end_ns"] <= parent["end_ns"]


def test_agents_of_today_put_random_thread_ids_on_exits() -> None:
    """No exit shares one with its entry; entries keep theirs."""
    exact, agent = traces_of(Simulation()), traces_of(Simulation(threads="agent"))
    exits = np.array([not role.entry for role in ROLES])
    assert np.array_equal(exact.thread_trace_id[~exits], agent.thread_trace_id[~exits])
    assert not np.isin(agent.thread_trace_id[exits], exact.thread_trace_id).any()


@pytest.mark.parametrize("with_span_ids", [True, False])
def test_points_are_what_was_drawn(with_span_ids: bool) -> None:
    """Every patched field of every point, as another schema reads it; span ids only where they are asked for."""
    simulation = Simulation(points=True, with_span_ids=with_span_ids)
    traces = traces_of(simulation)
    found = {}
    for request in simulation.requests(traces, 256):
        points = read_protobuf(request.data)
        assert len(points) == request.spans <= 256
        found |= {(p.fields["req_seq"], p.fields["direction"]): p for p in points}
    assert len(found) == traces.span_id.size
    for role, number in np.ndindex(*traces.span_id.shape):
        direction = "incoming" if ROLES[role].entry else "outgoing"
        point = found[int(traces.req_seq[role, number]), direction]
        for key in ("ktime", "resp_seq", "tid", "thread_trace_id"):
            assert point.fields[key] == int(getattr(traces, key)[role, number])
        start_ns, end_ns = int(traces.start_ns[role, number]), int(traces.end_ns[role, number])
        assert (point.time_ns, point.fields["start"]) == (start_ns, start_ns // 1000)
        assert point.fields["duration"] == (end_ns - start_ns) // 1000
        port = "dst_port" if ROLES[role].entry else "src_port"
        assert point.fields[port] == str(traces.client_port[role, number])
        span_id = f"{int(traces.span_id[role, number]):016x}" if with_span_ids else None
        assert point.fields.get("span_id") == span_id
        assert point.fields["service"] == ROLES[role].service
        assert point.tags == {}


def test_points_of_one_agent_share_its_clock() -> None:
    """All services run on its host: what encloses another span does so by ktime, too."""
    traces = traces_of(Simulation(points=True))
    for role, each in enumerate(ROLES):
        if each.parent >= 0:
            assert (traces.ktime[role] >= traces.ktime[each.parent]).all()
