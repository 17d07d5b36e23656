"""Senders with clocks that are off, and times that no clock shows, beside senders that are right."""

import time
from pathlib import Path

import anyio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.conftest import Delivered
from tests.support.agent import HOSTS, PATH, agent, traffic
from tests.support.bridge_process import Setup, running
from tests.support.dataway import PBPoints
from tests.support.received import score
from tests.support.senders import simulated, stock_stub
from tests.support.sink import running_sink

AGENTS = '\n[receivers.datakit]\nhost = "127.0.0.1"\nport = 0\n'
TRACES = 8
DAYS = 3 * 86_400 * 10**9
DAY_ZERO = 1
TIMES = {
    "redis": lambda start, end: (start + DAYS, end + DAYS),
    "postgres": lambda start, end: (start - DAYS, end - DAYS),
}
"""By service: a host whose clock is days off."""
ABSURD = ((0, 0), (2**63, 2**63 + 5), (2**64 - 1, 2**64 - 1), (2**64 - 1, 0), (DAY_ZERO, 2**63 - 1), (5, 3))


def spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    return [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]


def service_of(request: ExportTraceServiceRequest) -> str:
    attributes = request.resource_spans[0].resource.attributes
    return next(a.value.string_value for a in attributes if a.key == "service.name")


async def test_spans_leave_in_time_unchanged_and_linked_whatever_their_clocks_say(
    tmp_path: Path, delivered: Delivered
) -> None:
    """Parents that numbers tell are right for hosts that are days off; times come out as they were sent; no trace waits
    for a clock; a point with negative times is refused or passed on, and harms nobody."""
    requests, truth = simulated(0, TRACES, time.time_ns())
    strange, _ = simulated(1000, len(ABSURD), time.time_ns())
    for request in requests:
        shift = TIMES.get(service_of(request))
        for span in spans_of(request) if shift else ():
            span.start_time_unix_nano, span.end_time_unix_nano = shift(
                span.start_time_unix_nano, span.end_time_unix_nano
            )
    for request in strange:
        for number, span in enumerate(spans_of(request)):
            span.start_time_unix_nano, span.end_time_unix_nano = ABSURD[number % len(ABSURD)]
    sent = {
        s.span_id.hex(): (s.start_time_unix_nano, s.end_time_unix_nano)
        for r in [*requests, *strange]
        for s in spans_of(r)
    }
    points = traffic(2, start_ns=time.time_ns()).bodies[HOSTS[0]][0]
    body = PBPoints.FromString(points)
    for number, point in enumerate(body.arr):
        for field in point.fields:
            if field.key in ("start", "duration", "ktime"):
                field.i = (-1, -(2**63), 2**63 - 1, 0)[number % 4]
    async with running_sink() as sink:
        setup = Setup(tmp_path).export_to("a", "otlp_grpc", sink.grpc_port)
        setup.exporters += AGENTS
        async with running(setup) as bridge, stock_stub(bridge.address("otlp_grpc")) as stub:
            data = body.SerializeToString()
            async with agent(bridge.address("datakit")) as session, session.post(PATH, data=data) as answer:
                assert answer.status in (200, 400), await answer.text()
            for request in [*strange, *requests]:
                await stub.Export(request)
            started = anyio.current_time()
            found = [s for s in await delivered(sink, len(sent)) if s.span_id in sent]
            while len({s.span_id for s in found}) < len(sent):
                found = [s for s in await delivered(sink, sink.totals().distinct + 1) if s.span_id in sent]
            assert anyio.current_time() - started < 20
            assert await bridge.stop() == 0
            told = [event for event in bridge.log if event["level"] in ("error", "critical")]
    assert told == []
    assert "Warning" not in bridge.text
    came = {s.span_id: Span.FromString(s.data) for s in found}
    assert {i: (s.start_time_unix_nano, s.end_time_unix_nano) for i, s in came.items()} == sent
    result = score(truth, [s for s in found if s.span_id in truth])
    assert (result.delivered, result.recall, result.precision) == (len(truth), 1.0, 1.0)
