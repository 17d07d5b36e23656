"""OTLP over gRPC: TraceService/Export, grpc.health.v1 and server reflection on one port.

The handler takes raw bytes. It never owns a write: a client's deadline cancels it natively, through anyio's shields,
so the spans are the consumer's from the moment it is called. Calls are counted until gRPC itself is done with them,
because `Server.stop` returns before an aborted handler has ended.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import anyio
import grpc
import grpc.aio
from grpc_health.v1.health import OVERALL_HEALTH as OVERALL
from grpc_health.v1.health import SERVICE_NAME
from grpc_reflection.v1alpha import reflection
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from bridge.codec.otlp_protobuf import decode_request
from bridge.component import Signal, SignalForwarder, SpanConsumer
from bridge.connections import NOT_READ, ListenerLimits
from bridge.errors import BridgeError, ConfigError
from bridge.receivers.addresses import bind, host_port, listening_hosts, peer_host
from bridge.receivers.admission import UNBOUNDED, Lease, Memory
from bridge.receivers.deadlines import Deadlines
from bridge.receivers.gathering import Joint
from bridge.receivers.intake import DRAIN_S, MAX_IN_FLIGHT_BYTES, MAX_REQUEST_BYTES, Decoder, Intake
from bridge.receivers.otlp.grpc_health import Health
from bridge.receivers.otlp.grpc_reading import MessageReader
from bridge.receivers.otlp.grpc_security import Authentication, server_credentials
from bridge.receivers.otlp.status import success_protobuf
from bridge.receivers.refusals import Refusal
from bridge.security import ListenerSecurity
from bridge.telemetry import Instruments

TRACE_SERVICE = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name
_EXPORT = f"/{TRACE_SERVICE}/Export"
_OTHER_SIGNALS = "/opentelemetry.proto.collector."
_FORWARDED: dict[str, Signal] = {
    f"{_OTHER_SIGNALS}metrics.v1.MetricsService/Export": "metrics",
    f"{_OTHER_SIGNALS}logs.v1.LogsService/Export": "logs",
}
_DETAILS_KEY = "grpc-status-details-bin"
# More calls of one connection wait at their sender; here each could hold a body before admission sees it.
_CALLS_PER_CONNECTION = 100
# Clients are asked to connect again, which they do without failing a call. What is left of calls whose answer nobody
# reads goes with its connection; and connections would stay with the one of several processes that was there first.
_AGE_S, _SHARED_AGE_S = 600.0, 60.0
# A peer with calls under way that does not answer a ping is gone.
_PING_S, _PONG_S = 60.0, 20.0
# How long a client may take to receive the answer to a call that was cancelled because the receiver stops.
_ANSWER_S = 1.0
IDLE_TIMEOUT_S = 300.0
_MAX_MS = 2**31 - 1
# How long health watchers may take to be told; without any a stop does not wait.
_WATCHERS_S = 0.2

Context = grpc.aio.ServicerContext[bytes, bytes]
_Export = Callable[[object, Context], Awaitable[bytes]]
_Take = Callable[[Context, Lease], Awaitable[bytes]]


class GrpcReceiver:
    """Receives OTLP over gRPC. Enter `running()` once; `port` is the bound port from then on."""

    name = "otlp_grpc"

    def __init__(
        self,
        consumer: SpanConsumer,
        *,
        instruments: Instruments,
        host: str = "localhost",
        port: int = 4317,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        memory: Memory = UNBOUNDED,
        limits: ListenerLimits = ListenerLimits(),  # noqa: B008 -- frozen
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        drain_s: float = DRAIN_S,
        share_port: bool = False,
        security: ListenerSecurity | None = None,
        decode: Decoder = decode_request,
        joint: Joint | None = None,
        forwarder: SignalForwarder | None = None,
        unavailable: Callable[[], str] = lambda: "",
    ) -> None:
        """`drain_s`: how long calls in flight may take to be answered once the receiver stops; `share_port`: other
        processes listen on the same port; `security`: TLS, and the tokens that senders must show; `joint`: how small
        requests are decoded together; `forwarder`: takes metrics and logs, which are refused without one;
        `unavailable`: why spans cannot be committed, "" when they can, which is what health tells."""
        self.host = host
        self.port = port
        self._max_request_bytes = max_request_bytes
        self._drain_s = drain_s
        self._share_port = share_port
        self._limits, self._idle_timeout_s = limits, idle_timeout_s
        self._reader = MessageReader(max(1, max_in_flight_bytes // max_request_bytes))
        self._answers = Deadlines(limits.write_timeout_s, self._forget)
        self._count_closed = instruments.closed_connections_of(self.name)
        self._security = security or ListenerSecurity()
        self._decode, self._forwarder = decode, forwarder
        self._unavailable = unavailable
        self._intake = Intake(
            receiver=self.name,
            consumer=consumer,
            instruments=instruments,
            max_in_flight_bytes=max_in_flight_bytes,
            memory=memory,
            max_requests=limits.max_concurrent_requests,
            joint=joint,
        )

    @property
    def address(self) -> str:
        """host:port as senders are given it."""
        return host_port(self.host, self.port)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; see `bridge.component.Receiver`."""
        self._security.start()
        server = self._server()
        health = Health((OVERALL, TRACE_SERVICE), self._unavailable, server)
        async with self._intake.running():
            try:
                self._bind(server)
                async with health.told():
                    await server.start()
                    yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop(server)

    def _server(self) -> grpc.aio.Server:
        checks = [Authentication(self._security, self._refuse)] if self._security.asks_for_tokens else []
        server = grpc.aio.server(
            interceptors=checks,
            options=[
                *self._bounds(),
                # a second server on the same port must fail to bind, not take half of the calls
                ("grpc.so_reuseport", int(self._share_port)),
                ("grpc.max_receive_message_length", self._max_request_bytes),
                ("grpc.max_concurrent_streams", _CALLS_PER_CONNECTION),
            ],
        )
        takes: dict[str, _Take] = {_EXPORT: self._take}
        if self._forwarder:
            takes |= {name: partial(self._pass_on, self._forwarder, signal) for name, signal in _FORWARDED.items()}
        known: dict[str, _Export] = {method: partial(self._answered, take) for method, take in takes.items()}
        server.add_generic_rpc_handlers((_Methods(known),))
        names = (TRACE_SERVICE, SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    def _bounds(self) -> Iterator[tuple[str, int]]:
        """What gRPC's core keeps by itself; it counts nothing of it."""
        limits = self._limits
        yield "grpc.max_allowed_incoming_connections", limits.max_connections
        seconds = {
            "grpc.server_handshake_timeout_ms": limits.header_timeout_s,
            "grpc.http2.settings_timeout": limits.header_timeout_s,
            "grpc.max_connection_idle_ms": self._idle_timeout_s,
            "grpc.max_connection_age_ms": _SHARED_AGE_S if self._share_port else _AGE_S,
            "grpc.max_connection_age_grace_ms": limits.request_timeout_s + limits.write_timeout_s,
            "grpc.keepalive_time_ms": _PING_S,
            "grpc.keepalive_timeout_ms": _PONG_S,
        }
        for name, value_s in seconds.items():
            yield name, max(1, min(_MAX_MS, round(value_s * 1000)))

    def _bind(self, server: grpc.aio.Server) -> None:
        for host in listening_hosts(self.host):
            address, tls = host_port(host, self.port), self._security.tls
            try:
                if tls:
                    self.port = server.add_secure_port(address, server_credentials(tls))
                else:
                    self.port = server.add_insecure_port(address)
            except RuntimeError as exc:
                reason = _why_not(host, self.port)
                raise ConfigError(f"{self.name}: cannot listen on {host_port(host, self.port)}: {reason}") from exc

    async def _stop(self, server: grpc.aio.Server) -> None:
        admission = self._intake.admission
        async with anyio.create_task_group() as stopping:
            # closes the listeners at once and waits; what never ends by itself (health watchers) is aborted after
            # the calls in flight were answered, and watchers had a moment to hear of the stop
            stopping.start_soon(server.stop, self._drain_s + _ANSWER_S)
            await admission.drain(self._drain_s)
            with anyio.move_on_after(_ANSWER_S):
                await admission.wait_idle()
            await server.stop(_WATCHERS_S)
        await admission.wait_idle()

    async def _answered(self, take: _Take, _requests: object, context: Context) -> bytes:
        """The answer to a call, whose request `take` reads and hands on."""
        try:
            lease = self._intake.admission.enter()
        except BridgeError as exc:
            await self._refuse(exc, context)
        task = _this_task()
        context.add_done_callback(lambda _: self._over(task, lease))  # type: ignore[arg-type]  # they want a subclass
        try:
            answer = await lease.run(take(context, lease), self._limits.request_timeout_s)
        except Exception as exc:  # noqa: BLE001 - the root of a call: whatever happened is answered, and logged once
            self._answers.put(task)
            await _abort(context, self._intake.refuse(exc))
        self._answers.put(task)
        return answer

    def _over(self, task: "asyncio.Task[None]", lease: Lease) -> None:
        """gRPC is done with a call."""
        self._answers.take_off(task)
        lease.close()

    async def _take(self, context: Context, lease: Lease) -> bytes:
        with self._intake.traced() as trace:
            data = await self._read(context, lease)
            trace.mark("receive")
            peer = peer_host(context.peer())
            found = await self._intake.take(data, self._decode, peer=peer, joint=True, trace=trace)
        return success_protobuf(found.rejected, found.rejection)

    async def _pass_on(self, forwarder: SignalForwarder, signal: Signal, context: Context, lease: Lease) -> bytes:
        """Pass a request of another signal on, and the backend's answer back."""
        return await self._intake.forward(forwarder, signal, await self._read(context, lease))

    async def _read(self, context: Context, lease: Lease) -> bytes:
        data = await self._reader.read(context, lease)
        self._intake.count_bytes(len(data))
        lease.take(len(data))
        return data

    async def _refuse(self, error: BridgeError, context: Context) -> NoReturn:
        """End a call that has no lease."""
        task = _this_task()
        self._answers.put(task)
        context.add_done_callback(lambda _: self._answers.take_off(task))  # type: ignore[arg-type]  # as above
        await _abort(context, self._intake.refuse(error))

    def _forget(self, task: "asyncio.Task[None]") -> None:
        """The answer to a call is not taken in time; what is left of it goes with its connection."""
        self._count_closed(NOT_READ)
        task.cancel()


def _this_task() -> "asyncio.Task[None]":
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 -- handlers run in one
    return task


async def _abort(context: Context, refusal: Refusal) -> NoReturn:
    status = refusal.status
    code = _CODES[refusal.code]
    await context.abort(code, status.message, ((_DETAILS_KEY, status.SerializeToString()),))


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Finds the handler of a method, without (de)serializers of gRPC's: bytes in, bytes out."""

    def __init__(self, known: Mapping[str, _Export]) -> None:
        # as if they took a stream: gRPC would read the message before anybody could say no to the call
        self._known = {method: grpc.stream_unary_rpc_method_handler(export) for method, export in known.items()}
        self._others = grpc.unary_unary_rpc_method_handler(_refuse_signal)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        method = handler_call_details.method
        return self._known.get(method) or (self._others if method.startswith(_OTHER_SIGNALS) else None)


async def _refuse_signal(_data: bytes, context: Context) -> bytes:
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"this bridge takes traces only ({_EXPORT}); with receivers.forward_other_signals = true it passes metrics and "
        "logs on to its first OTLP exporter, else send them to a collector",
    )


def _why_not(host: str, port: int) -> str:
    """gRPC says only that binding failed; the same bind on a plain socket says why."""
    try:
        bind(host, port).close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return "gRPC could not bind it"
