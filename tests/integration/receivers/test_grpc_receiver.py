"""The gRPC receiver against real clients on real sockets."""

import http.client
import logging
import resource
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.to_thread
import grpc
import grpc.aio
import psutil
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bridge.errors import ConfigError, StoreUnavailable, Throttled
from bridge.receivers.otlp import GrpcReceiver

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
Request = Callable[..., bytes]


class Client:
    """A raw channel to a receiver: bytes in, bytes out."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.call = channel.unary_unary(EXPORT)

    async def send(self, data: bytes) -> ExportTraceServiceResponse:
        """The answer to a call that must succeed."""
        return ExportTraceServiceResponse.FromString(await self.call(data, timeout=20))

    async def refused(self, data: bytes, **options: Any) -> tuple[grpc.StatusCode, Status]:
        """Code and google.rpc.Status of a call that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(data, timeout=20, **options)
        details = dict(caught.value.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        return caught.value.code(), Status.FromString(details)


@pytest.fixture
async def start(consumer: Any, meter: Any, decoder: Any) -> AsyncIterator[Any]:
    """start(**options): a running receiver on a free port and a client of it."""
    async with AsyncExitStack() as stack:

        async def started(**options: Any) -> tuple[GrpcReceiver, Client]:
            options = {"host": "127.0.0.1", "port": 0, **decoder.both} | options
            receiver = GrpcReceiver(options.pop("consumer", consumer), instruments=meter.instruments, **options)
            await stack.enter_async_context(receiver.running())
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(receiver.address))
            return receiver, Client(channel)

        yield started


async def after_a_while(event: anyio.Event) -> None:
    """Set the event when a receiver that does not wait for it would have stopped long since."""
    await anyio.sleep(0.2)
    event.set()


def retry_delay_s(status: Status) -> float:
    """The delay of the RetryInfo that must be there."""
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    return info.retry_delay.ToNanoseconds() / 1e9


async def test_success_leaves_partial_success_unset(start: Any, consumer: Any, meter: Any, request_of: Request) -> None:
    """All spans good: an answer without partial_success, spans handed over, counted once per request."""
    _, client = await start()
    answer = await client.send(request_of("a", "b"))
    assert not answer.HasField("partial_success")
    assert consumer.spans == 2
    assert meter.read("receiver_accepted_spans") == {("otlp_grpc",): 2}
    assert meter.read("receiver_received_bytes") == {("otlp_grpc",): len(request_of("a", "b"))}


async def test_bad_spans_are_rejected_in_partial_success(
    start: Any, consumer: Any, meter: Any, request_of: Request
) -> None:
    """Some spans bad: OK, how many and why, the good ones are kept."""
    _, client = await start()
    answer = await client.send(request_of("a", "reject", "reject"))
    assert answer.partial_success.rejected_spans == 2
    assert answer.partial_success.error_message == "spans[0]: no trace id"
    assert consumer.spans == 1
    assert meter.read("receiver_refused_spans") == {("invalid", "otlp_grpc"): 2}


async def test_request_without_good_spans_never_reaches_the_consumer(
    start: Any, consumer: Any, request_of: Request
) -> None:
    """Empty bytes, a request without spans and one whose spans are all rejected are success without a commit."""
    _, client = await start()
    for data in (b"", request_of(), request_of("reject")):
        await client.send(data)
    assert not consumer.entered.is_set()


async def test_bad_bytes_are_invalid_argument_with_where(
    start: Any, consumer: Any, meter: Any, request_of: Request
) -> None:
    """Bytes that cannot be read: INVALID_ARGUMENT and a google.rpc.Status with the decoder's words; never UNKNOWN."""
    _, client = await start()
    code, status = await client.refused(b"\x0a\xff\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.code == code.value[0]
    assert "resource_spans[0]" in status.message
    assert not status.details
    assert meter.read("receiver_refused_requests") == {("invalid", "otlp_grpc"): 1}


async def test_bad_bytes_cost_only_their_own_request(start: Any, consumer: Any, request_of: Request) -> None:
    """Good calls on the same connection go on, before, beside and after bad ones."""
    _, client = await start()
    outcomes: list[grpc.StatusCode] = []

    async def send(data: bytes) -> None:
        call = client.call(data)
        outcomes.append(await call.code())

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(send, b"\xff" * 100 if number % 2 else request_of("a"))
    assert outcomes.count(grpc.StatusCode.OK) == consumer.spans == 20
    assert outcomes.count(grpc.StatusCode.INVALID_ARGUMENT) == 20


@pytest.mark.parametrize(
    ("error", "code", "delay_s"),
    [
        (Throttled("full", retry_after_s=2.5), grpc.StatusCode.RESOURCE_EXHAUSTED, 2.5),
        (Throttled("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0),
        (StoreUnavailable("disk full", retry_after_s=7), grpc.StatusCode.UNAVAILABLE, 7.0),
        (StoreUnavailable("disk full"), grpc.StatusCode.UNAVAILABLE, 1.0),
    ],
)
async def test_overload_answers_carry_retry_info(
    start: Any, consumer: Any, meter: Any, request_of: Request, error: Exception, code: grpc.StatusCode, delay_s: float
) -> None:
    """What the consumer cannot take now is refused as retryable, with the time to wait."""
    _, client = await start()
    consumer.errors.append(error)
    refused_code, status = await client.refused(request_of("a", "b"))
    assert refused_code is code
    assert status.message == str(error)
    assert retry_delay_s(status) == delay_s
    assert sum(meter.read("receiver_refused_spans").values()) == 2


async def test_bytes_in_flight_are_bounded_with_retry_info(start: Any, consumer: Any, request_of: Request) -> None:
    """While a request fills max_in_flight_bytes another one is refused with RetryInfo; afterwards it is taken."""
    _, client = await start(max_in_flight_bytes=10)
    consumer.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(client.send, request_of("larger than the bound but alone"))
        await consumer.entered.wait()
        code, status = await client.refused(request_of("b"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_delay_s(status) == 1.0
        assert "max_in_flight_bytes = 10" in status.message
        consumer.gate.set()
    await client.send(request_of("b"))
    assert consumer.spans == 2


async def test_stock_exporter_delivers_through_overload(start: Any, consumer: Any) -> None:
    """opentelemetry's own exporter retries a Throttled answer and ends with success, every span once, also gzipped."""
    receiver, _ = await start()
    consumer.errors.append(Throttled("full", retry_after_s=0.01))
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    for name in "abc":
        provider.get_tracer("test").start_span(name).end()

    def send() -> SpanExportResult:
        exporter = OTLPSpanExporter(receiver.address, insecure=True, compression=grpc.Compression.Gzip)
        try:
            return exporter.export(memory.get_finished_spans())
        finally:
            exporter.shutdown()

    assert await anyio.to_thread.run_sync(send) is SpanExportResult.SUCCESS
    assert consumer.spans == 3
    provider.shutdown()


async def test_unexpected_error_is_internal_and_logged_once(
    start: Any, consumer: Any, request_of: Request, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug: INTERNAL without its inner workings, one log record with them; the next call is fine."""
    _, client = await start()
    consumer.errors.append(ZeroDivisionError("secret path"))
    code, status = await client.refused(request_of("a"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in status.message
    records = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.exc_info[0] for r in records if r.exc_info] == [ZeroDivisionError]
    await client.send(request_of("a"))


async def test_too_large_message_is_resource_exhausted(start: Any, request_of: Request) -> None:
    """A message over max_request_bytes is refused for good: no RetryInfo. One of exactly that size is read."""
    _, client = await start(max_request_bytes=1000)
    code, status = await client.refused(bytes(1001))
    assert (code, len(status.details)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0)
    assert (await client.refused(bytes(1000)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    await client.send(request_of("a"))


async def test_gzip_bomb_is_resource_exhausted_without_being_inflated(start: Any, request_of: Request) -> None:
    """A small gzip message that would inflate beyond the limit is refused, and never takes its inflated size."""
    receiver, client = await start(max_request_bytes=1 << 20)
    bomb_bytes = 256 << 20
    code = (  # in a process of its own, because it holds what it compresses
        "import grpc\n"
        f"call = grpc.insecure_channel('{receiver.address}', options=[('grpc.max_send_message_length', -1)])"
        f".unary_unary('{EXPORT}')\n"
        f"try: call(bytes({bomb_bytes}), compression=grpc.Compression.Gzip)\n"
        "except grpc.RpcError as e: print(e.code().name)\n"
    )
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = await anyio.run_process([sys.executable, "-c", code], stderr=None)
    growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert done.stdout.decode().strip() == "RESOURCE_EXHAUSTED"
    assert growth_kib * 1024 < bomb_bytes // 4
    await client.call(request_of("a"), compression=grpc.Compression.Gzip)


async def test_client_deadline_leaves_one_writer_and_no_half_write(
    owning_consumer: Any, start: Any, request_of: Request
) -> None:
    """A deadline cancels the handler, not the write: that goes on, ends whole, and no second one runs beside it."""
    receiver, client = await start(consumer=owning_consumer)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call(request_of("a", "b", "c"), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await owning_consumer.writing.wait()
    await receiver._intake.admission.wait_idle()  # the handler is gone
    assert len(owning_consumer.rows) == 1
    async with anyio.create_task_group() as group:
        group.start_soon(client.send, request_of("d"))
        owning_consumer.gate.set()
    assert len(owning_consumer.rows) == 4
    assert owning_consumer.most_writers == 1


@pytest.mark.parametrize("drain_s", [0.01, 5.0])
async def test_stop_waits_for_aborted_handlers(
    meter: Any, decoder: Any, lingering_consumer: Any, request_of: Request, drain_s: float
) -> None:
    """Leaving running() waits for a handler whose client has gone, though gRPC's own stop does not."""
    receiver = GrpcReceiver(
        lingering_consumer,
        instruments=meter.instruments,
        host="127.0.0.1",
        port=0,
        decode=decoder,
        drain_s=drain_s,
    )
    async with anyio.create_task_group() as group:
        async with receiver.running():
            async with grpc.aio.insecure_channel(receiver.address) as channel:
                call = channel.unary_unary(EXPORT)(request_of("a"))
                await lingering_consumer.entered.wait()
                call.cancel()
                await lingering_consumer.cancelled.wait()
            group.start_soon(lingering_consumer.release_after_cancelled)
        assert lingering_consumer.ended


async def test_stop_answers_calls_in_flight(meter: Any, decoder: Any, consumer: Any, request_of: Request) -> None:
    """A call that is being handled when the receiver stops still gets its success; the port is free afterwards."""
    receiver = GrpcReceiver(consumer, instruments=meter.instruments, host="127.0.0.1", port=0, **decoder.both)
    consumer.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        async with receiver.running():
            channel = grpc.aio.insecure_channel(receiver.address)
            call = channel.unary_unary(EXPORT)(request_of("a"))
            await consumer.entered.wait()

            group.start_soon(after_a_while, consumer.gate)
        assert await call.code() is grpc.StatusCode.OK
        await channel.close()
    with socket.create_server(("127.0.0.1", receiver.port)):
        pass


async def test_calls_over_the_drain_time_are_refused_as_retryable(
    meter: Any, decoder: Any, lingering_consumer: Any, request_of: Request
) -> None:
    """A consumer that does not answer is cancelled after drain_s and waited for; its caller is told to try again."""
    receiver = GrpcReceiver(
        lingering_consumer,
        instruments=meter.instruments,
        host="127.0.0.1",
        port=0,
        **decoder.both,
        drain_s=0.01,
    )
    async with anyio.create_task_group() as group:
        async with receiver.running():
            channel = grpc.aio.insecure_channel(receiver.address)
            call = channel.unary_unary(EXPORT)(request_of("a"))
            await lingering_consumer.entered.wait()
            group.start_soon(lingering_consumer.release_after_cancelled)
        assert lingering_consumer.ended
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        status = Status.FromString(dict(await call.trailing_metadata())["grpc-status-details-bin"])
        assert retry_delay_s(status) == 1.0
        await channel.close()


async def test_new_calls_are_refused_as_retryable_while_stopping(start: Any, request_of: Request) -> None:
    """Once the receiver drains, a new call on an open connection is UNAVAILABLE with RetryInfo."""
    receiver, client = await start()
    await client.send(request_of("a"))
    receiver._intake.admission.close()
    code, status = await client.refused(request_of("b"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert retry_delay_s(status) == 1.0


async def test_second_server_on_the_port_is_a_config_error(start: Any, meter: Any, decoder: Any, consumer: Any) -> None:
    """The port is never shared in silence: the second receiver fails to start and says why."""
    first, _ = await start()
    second = GrpcReceiver(consumer, instruments=meter.instruments, host="127.0.0.1", port=first.port, decode=decoder)
    with pytest.raises(
        ConfigError, match=rf"otlp_grpc: cannot listen on 127.0.0.1:{first.port}: Address already in use"
    ):
        async with second.running():
            pytest.fail("two servers on one port")


async def test_localhost_is_both_loopback_addresses(start: Any, request_of: Request) -> None:
    """ "localhost" listens on 127.0.0.1 and, where there is one, on ::1, under one port."""
    receiver, _ = await start(host="localhost")
    hosts = ["127.0.0.1"]
    if any(a.address == "::1" for addresses in psutil.net_if_addrs().values() for a in addresses):
        hosts.append("[::1]")
    for host in hosts:
        async with grpc.aio.insecure_channel(f"{host}:{receiver.port}") as channel:
            await channel.unary_unary(EXPORT)(request_of("a"))


async def test_peer_is_the_address_without_its_port(start: Any, decoder: Any, request_of: Request) -> None:
    """The decoder is told who sent: the same for every connection of one host."""
    _, client = await start()
    await client.send(request_of("a"))
    assert decoder.peers == ["127.0.0.1"]


async def test_faulty_espans_are_counted_by_key(start: Any, meter: Any, request_of: Request) -> None:
    """What the decoder found faulty is accepted, and counted by key."""
    _, client = await start()
    await client.send(request_of("fault", "a"))
    assert meter.read("receiver_faulty_espans") == {("req_seq",): 1}
    assert meter.read("receiver_accepted_spans") == {("otlp_grpc",): 2}


@pytest.mark.parametrize("signal", ["metrics.v1.MetricsService", "logs.v1.LogsService"])
async def test_other_signals_are_unimplemented_with_a_reason(start: Any, signal: str) -> None:
    """Metrics and logs are told that this bridge takes traces only."""
    _, client = await start()
    with pytest.raises(grpc.aio.AioRpcError, match="takes traces only") as caught:
        await client.channel.unary_unary(f"/opentelemetry.proto.collector.{signal}/Export")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_is_serving_until_the_receiver_stops(start: Any, meter: Any, decoder: Any, consumer: Any) -> None:
    """Health is SERVING for the server and the trace service; watchers hear NOT_SERVING and never delay the stop."""
    receiver = GrpcReceiver(
        consumer,
        instruments=meter.instruments,
        host="127.0.0.1",
        port=0,
        **decoder.both,
        drain_s=3600,
    )
    async with receiver.running():
        channel = grpc.aio.insecure_channel(receiver.address)
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await channel.close()


async def test_reflection_lists_the_trace_service(start: Any) -> None:
    """Server reflection names the services and describes Export, so that generic clients can call it."""
    _, client = await start()
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)

    async def asked(**question: str) -> reflection_pb2.ServerReflectionResponse:
        stream = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**question)]))
        return await anext(aiter(stream))

    services = {s.name for s in (await asked(list_services="")).list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= services
    described = await asked(file_containing_symbol=SERVICE)
    assert b"ExportTraceServiceRequest" in described.file_descriptor_response.file_descriptor_proto[0]


async def test_http_on_the_grpc_port_ends_and_costs_nothing(start: Any, request_of: Request) -> None:
    """An HTTP/1.1 client is turned away by gRPC itself; calls of others go on."""
    receiver, client = await start()
    url = f"http://{receiver.address}/v1/traces"

    def post() -> None:
        with pytest.raises((http.client.HTTPException, OSError)):
            urllib.request.urlopen(urllib.request.Request(url, b"x"), timeout=10)

    await anyio.to_thread.run_sync(post)
    await client.send(request_of("a"))


async def test_large_bodies_are_decoded_off_the_loop(start: Any, consumer: Any, request_of: Request) -> None:
    """A body above the inline size is decoded in a thread, with the same outcome."""
    _, client = await start()
    names = ["x" * 500] * 1000
    await client.send(request_of(*names))
    assert consumer.spans == 1000
