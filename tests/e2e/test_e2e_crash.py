"""Restarts: after kill -9, after SIGTERM under load, and late spans across one."""

import signal
import time
from pathlib import Path

import anyio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.conftest import Delivered
from tests.support.bridge_process import Setup, running
from tests.support.received import Truth, score
from tests.support.senders import simulated, stock_stub
from tests.support.sink import Sink, running_sink
from tests.support.streams import Stream, assert_copies_are_identical, group_of

KILLS = 3
LATE = ("redis", "postgres")
"""Services whose spans come late; each has one span in a trace, without children."""


async def test_kill_9_in_the_middle_of_a_stream_loses_nothing(tmp_path: Path, delivered: Delivered) -> None:
    """Every acknowledged span comes out, copies byte-identical, parents right across each kill."""
    groups = [group_of(number) for number in range(KILLS + 1)]
    truth = {span_id: origin for _, part in groups for span_id, origin in part.items()}
    sizes = [len(requests) for requests, _ in groups]
    stream = Stream([requests for requests, _ in groups])
    stream.let_go(0)
    # every third request is taken and denied: its spans come twice even if no kill falls between delivery and cursor
    async with running_sink(["ok", "ok", "lost"] * 10) as sink, anyio.create_task_group() as tasks:
        setup = Setup(tmp_path, window="1500ms").export_to("a", "otlp_grpc", sink.grpc_port)
        for life in range(KILLS):
            async with running(setup) as bridge:
                if not life:
                    setup.keep_ports(bridge)
                    tasks.start_soon(stream.send, bridge.address("otlp_grpc"))
                await stream.reached(sum(sizes[: life + 1]))
                await first_of(sink, groups[life][1], delivered)
                stream.let_go(life + 1)
                await stream.reached(sum(sizes[: life + 1]) + sizes[life + 1] // 2)
                await bridge.kill()
        async with running(setup) as bridge:
            await stream.reached(sum(sizes))
            spans = await delivered(sink, len(truth))
            assert await bridge.stop() == 0
    copies = assert_copies_are_identical(spans)
    print(f"{KILLS} kills, {len(truth)} spans, {stream.retries} requests sent again, {copies} copies, all identical")
    assert copies > 0
    assert {i for ids in stream.acknowledged for i in ids} == set(truth)
    result = score(truth, spans)
    assert (result.recall, result.precision, result.whole_traces, result.unknown) == (1.0, 1.0, 1.0, 0)


async def first_of(sink: Sink, group: Truth, delivered: Delivered) -> None:
    """Return when something of this group came out, most likely before the bridge has noted that it did."""
    spans = await delivered(sink, 1)
    while not any(span.span_id in group for span in spans):
        spans = await delivered(sink, sink.totals().distinct + 1)


async def test_sigterm_under_load_delivers_what_was_acknowledged_after_the_next_start(
    tmp_path: Path, delivered: Delivered
) -> None:
    """The stop answers what it took, ends with 0 within shutdown_grace, and keeps what had no time to leave."""
    requests, truth = group_of(0)
    stream = Stream([requests, requests])
    stream.let_go(0)
    grace_s = 4
    async with running_sink() as sink:
        setup = Setup(tmp_path, grace=f"{grace_s}s").export_to("a", "otlp_grpc", sink.grpc_port)
        async with running(setup) as bridge, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, bridge.address("otlp_grpc"))
            await stream.reached(len(requests) // 2)
            bridge.signal(signal.SIGTERM)
            with anyio.fail_after(grace_s + 1):
                assert await bridge.ended() == 0
            tasks.cancel_scope.cancel()
        assert len(stream.acknowledged) < len(requests)
        acknowledged = {i for ids in stream.acknowledged for i in ids}
        async with running(setup) as bridge:
            spans = await delivered(sink, len(acknowledged))
            assert await bridge.stop() == 0
    assert acknowledged <= {span.span_id for span in spans}
    assert score(truth, spans).precision == 1.0


async def test_a_span_that_comes_after_its_trace_left_joins_it_also_after_a_restart(
    tmp_path: Path, delivered: Delivered
) -> None:
    """It gets the trace id of the spans that left and its true parent among them."""
    requests, truth = simulated(0, 1, time.time_ns())
    early, (redis, postgres) = [r for r in requests if service_of(r) not in LATE], late_ones(requests)
    async with running_sink() as sink:
        setup = Setup(tmp_path).export_to("a", "otlp_grpc", sink.grpc_port)
        async with running(setup) as bridge, stock_stub(bridge.address("otlp_grpc")) as stub:
            for request in early:
                await stub.Export(request)
            await delivered(sink, len(truth) - 2)
            await stub.Export(redis)
            await delivered(sink, len(truth) - 1)
            await bridge.kill()
        async with running(setup) as bridge, stock_stub(bridge.address("otlp_grpc")) as stub:
            await stub.Export(postgres)
            spans = await delivered(sink, len(truth))
            assert await bridge.stop() == 0
    result = score(truth, spans)
    assert (result.recall, result.whole_traces) == (1.0, 1.0)


def service_of(request: ExportTraceServiceRequest) -> str:
    attributes = request.resource_spans[0].resource.attributes
    return next(a.value.string_value for a in attributes if a.key == "service.name")


def late_ones(requests: list[ExportTraceServiceRequest]) -> list[ExportTraceServiceRequest]:
    return [r for name in LATE for r in requests if service_of(r) == name]
