"""What gRPC senders may ask of the receiver: connections, calls, and how long they take over them."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from bridge.connections import ListenerLimits
from bridge.receivers.otlp import GrpcReceiver, grpc_reading
from tests.support.http2 import GOAWAY, HEADERS, RST_STREAM, SETTINGS, RawPeer

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
LIMITS = ListenerLimits()
Request = Callable[..., bytes]


@pytest.fixture
async def start(consumer: Any, meter: Any, decoder: Any) -> AsyncIterator[Any]:
    """start(limits, **options): a receiver that runs."""
    async with AsyncExitStack() as stack:

        async def started(limits: ListenerLimits = LIMITS, **options: Any) -> GrpcReceiver:
            receiver = GrpcReceiver(
                consumer,
                instruments=meter.instruments,
                host="127.0.0.1",
                port=0,
                decode=decoder,
                limits=limits,
                **options,
            )
            await stack.enter_async_context(receiver.running())
            return receiver

        yield started


async def send(receiver: GrpcReceiver, data: bytes) -> grpc.StatusCode:
    """The code of a call over a connection of its own."""
    async with grpc.aio.insecure_channel(receiver.address) as channel:
        code: grpc.StatusCode = await channel.unary_unary(EXPORT)(data, timeout=20).code()
        return code


async def status_of(call: Any) -> Status:
    """The google.rpc.Status of a call that fails."""
    details = dict(await call.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return Status.FromString(details)


def retryable(status: Status) -> bool:
    """Whether the sender is told when to come again."""
    return any(detail.Unpack(RetryInfo()) for detail in status.details)


async def in_thread(function: Callable[[], Any]) -> Any:
    """What a peer on blocking sockets comes to."""
    return await anyio.to_thread.run_sync(function)


async def counted(meter: Any, name: str, key: tuple[str, ...]) -> int:
    """What a counter says once it says anything."""
    with anyio.fail_after(20):
        while not (found := meter.read(name).get(key, 0)):  # noqa: ASYNC110 -- a counter
            await anyio.sleep(0.01)
    return int(found)


async def test_connections_beyond_the_limit_are_closed_by_the_core(start: Any, request_of: Request) -> None:
    """At once; those that are open stay, and one that ends makes room."""
    receiver = await start(replace(LIMITS, max_connections=2))

    def fill() -> list[RawPeer]:
        peers = [RawPeer("127.0.0.1", receiver.port) for _ in range(2)]
        assert [next(peer.frames())[0] for peer in peers] == [SETTINGS, SETTINGS]
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=20) as refused:
            assert refused.recv(1) == b""
        return peers

    peers = await in_thread(fill)
    assert await send(receiver, request_of("a")) is grpc.StatusCode.UNAVAILABLE
    peers.pop().sock.close()
    with anyio.fail_after(20):
        while await send(receiver, request_of("a")) is not grpc.StatusCode.OK:  # noqa: ASYNC110 -- of gRPC's core
            await anyio.sleep(0.01)
    peers.pop().sock.close()


@pytest.mark.parametrize("preface", [b"", b"PRI * HTTP"], ids=["silent", "half"])
async def test_a_handshake_that_does_not_end_is_cut_off(start: Any, preface: bytes) -> None:
    """A peer that does not finish HTTP/2's beginning has no place for long."""
    receiver = await start(replace(LIMITS, header_timeout_s=0.3))

    def talk() -> None:
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=20) as sock:
            sock.sendall(preface)
            try:
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass

    await in_thread(talk)


async def test_an_idle_connection_is_let_go(start: Any) -> None:
    """With a word, after which clients connect again when they have something to say."""
    receiver = await start(idle_timeout_s=0.3)

    def talk() -> list[int]:
        with RawPeer("127.0.0.1", receiver.port) as peer:
            return [kind for kind, _, _ in peer.frames()]

    assert GOAWAY in await in_thread(talk)


async def test_calls_at_once_are_bounded_with_retry_info(
    start: Any, consumer: Any, meter: Any, request_of: Request
) -> None:
    """The one too many is refused before its message is read; once there is room calls are taken again."""
    receiver = await start(replace(LIMITS, max_concurrent_requests=1))
    consumer.gate = anyio.Event()
    codes: list[grpc.StatusCode] = []

    async def first() -> None:
        codes.append(await send(receiver, request_of("a")))

    async with anyio.create_task_group() as group, grpc.aio.insecure_channel(receiver.address) as channel:
        group.start_soon(first)
        await consumer.entered.wait()
        call = channel.unary_unary(EXPORT)(request_of("b"), timeout=20)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = await status_of(call)
        assert "max_concurrent_requests = 1" in status.message
        assert retryable(status)
        consumer.gate.set()
    assert codes == [grpc.StatusCode.OK]
    assert await send(receiver, request_of("c")) is grpc.StatusCode.OK
    assert meter.read("receiver_refused_requests") == {("max_concurrent_requests", "otlp_grpc"): 1}


async def test_a_call_that_is_not_done_in_time_is_refused_as_retryable(
    start: Any, consumer: Any, meter: Any, request_of: Request
) -> None:
    """A commit that hangs holds up its sender for request_timeout, and no longer."""
    receiver = await start(replace(LIMITS, request_timeout_s=0.3))
    consumer.gate = anyio.Event()
    async with grpc.aio.insecure_channel(receiver.address) as channel:
        call = channel.unary_unary(EXPORT)(request_of("a"), timeout=20)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        status = await status_of(call)
    assert "request_timeout" in status.message
    assert retryable(status)
    assert meter.read("receiver_refused_requests") == {("request_timeout", "otlp_grpc"): 1}


async def test_a_message_that_does_not_come_is_given_up(start: Any, meter: Any) -> None:
    """A sender that begins a message and does not end it has its call ended, and its bytes let go."""
    receiver = await start(replace(LIMITS, request_timeout_s=0.3))

    def talk() -> list[int]:
        with RawPeer("127.0.0.1", receiver.port) as peer:
            peer.call(1, EXPORT, b"abc", size=1 << 20, end=False)
            kinds = []
            for kind, stream, _ in peer.frames():
                if stream == 1:
                    kinds.append(kind)
                if kind == RST_STREAM:
                    break
            return kinds

    assert HEADERS in await in_thread(talk)
    assert meter.read("receiver_refused_requests") == {("request_timeout", "otlp_grpc"): 1}


async def test_slow_messages_have_few_places(
    start: Any, meter: Any, request_of: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as whole requests may be in flight; further ones are refused, prompt ones never notice."""
    monkeypatch.setattr(grpc_reading, "PROMPT_S", 0.2)
    receiver = await start(max_request_bytes=1 << 20, max_in_flight_bytes=2 << 20)

    def begin(stack: ExitStack) -> None:
        for stream in range(3):
            peer = stack.enter_context(RawPeer("127.0.0.1", receiver.port))
            peer.call(2 * stream + 1, EXPORT, b"abc", size=1 << 20, end=False)

    with ExitStack() as stack:
        await in_thread(lambda: begin(stack))
        assert await counted(meter, "receiver_refused_requests", ("slow_requests", "otlp_grpc")) == 1
        assert receiver._reader.free == 0
        assert await send(receiver, request_of("a")) is grpc.StatusCode.OK
    with anyio.fail_after(20):
        while receiver._reader.free != 2:  # noqa: ASYNC110 -- those who hung up give their places back
            await anyio.sleep(0.01)


async def test_an_answer_that_is_not_read_is_given_up(start: Any, meter: Any, request_of: Request) -> None:
    """A peer without a window is owed an answer for write_timeout; then its place is free again."""
    receiver = await start(replace(LIMITS, write_timeout_s=0.3))

    def talk() -> RawPeer:
        peer = RawPeer("127.0.0.1", receiver.port, window=0)
        # a partial success has a message, which is what a window is for
        peer.call(1, EXPORT, request_of("a", "reject"))
        return peer

    peer = await in_thread(talk)
    try:
        assert await send(receiver, request_of("b")) is grpc.StatusCode.OK
        assert await counted(meter, "listener_closed_connections", ("otlp_grpc", "not_read")) == 1
        with anyio.fail_after(20):
            await receiver._intake.admission.wait_idle()
    finally:
        peer.sock.close()


async def test_metadata_are_bounded_by_the_core(start: Any, consumer: Any) -> None:
    """16 KiB at most; such a call never reaches the receiver."""
    receiver = await start()
    async with grpc.aio.insecure_channel(receiver.address) as channel:
        call = channel.unary_unary(EXPORT)(b"", metadata=(("x", "a" * 20_000),), timeout=20)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not consumer.entered.is_set()


async def test_a_call_without_a_message_is_refused(start: Any, meter: Any) -> None:
    """One that was too large for the core comes to the same, and is counted with it."""
    receiver = await start(max_request_bytes=1000)
    assert await send(receiver, bytes(1001)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    with anyio.fail_after(20):
        await receiver._intake.admission.wait_idle()
    assert meter.read("receiver_refused_requests") == {("disconnected", "otlp_grpc"): 1}
