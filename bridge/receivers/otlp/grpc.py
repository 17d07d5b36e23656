"""OTLP over gRPC: TraceService/Export, grpc.health.v1 and server reflection on one port.

The handler takes raw bytes. It never owns a write: a client's deadline cancels it natively, through anyio's shields,
so the spans are the consumer's from the moment it is called. Calls are counted until gRPC itself is done with them,
because `Server.stop` returns before an aborted handler has ended.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio
import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from bridge.codec.otlp_protobuf import decode_request
from bridge.component import SpanConsumer
from bridge.errors import ConfigError
from bridge.receivers.addresses import bind, host_port, listening_hosts, peer_host
from bridge.receivers.intake import DRAIN_S, MAX_IN_FLIGHT_BYTES, MAX_REQUEST_BYTES, Decoder, Intake
from bridge.receivers.otlp.status import success_protobuf
from bridge.receivers.refusals import Refusal
from bridge.telemetry import Instruments

TRACE_SERVICE = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name
_EXPORT = f"/{TRACE_SERVICE}/Export"
_OTHER_SIGNALS = "/opentelemetry.proto.collector."
_DETAILS_KEY = "grpc-status-details-bin"
# More calls of one connection wait at their sender; here each could hold a body before admission sees it.
_CALLS_PER_CONNECTION = 100
# Clients are asked to connect again, which they do without failing a call; calls under way may take the latter.
_SHARED_AGES = (("grpc.max_connection_age_ms", 60_000), ("grpc.max_connection_age_grace_ms", 30_000))
# How long a client may take to receive the answer to a call that was cancelled because the receiver stops.
_ANSWER_S = 1.0
# How long health watchers may take to be told; without any a stop does not wait.
_WATCHERS_S = 0.2

Context = grpc.aio.ServicerContext[bytes, bytes]
_Export = Callable[[bytes, Context], Awaitable[bytes]]


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
        drain_s: float = DRAIN_S,
        share_port: bool = False,
        decode: Decoder = decode_request,
    ) -> None:
        """`drain_s`: how long calls in flight may take to be answered once the receiver stops; `share_port`: other
        processes listen on the same port."""
        self.host = host
        self.port = port
        self._max_request_bytes = max_request_bytes
        self._drain_s = drain_s
        self._share_port = share_port
        self._decode = decode
        self._intake = Intake(
            receiver=self.name, consumer=consumer, instruments=instruments, max_in_flight_bytes=max_in_flight_bytes
        )

    @property
    def address(self) -> str:
        """host:port as senders are given it."""
        return host_port(self.host, self.port)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; see `bridge.component.Receiver`."""
        server = self._server()
        serving = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs do not know it
        health_pb2_grpc.add_HealthServicer_to_server(serving, server)
        try:
            self._bind(server)
            await server.start()
            await serving.set(TRACE_SERVICE, health_pb2.HealthCheckResponse.SERVING)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await serving.enter_graceful_shutdown()
                await self._stop(server)

    def _server(self) -> grpc.aio.Server:
        # connections stay where they are: of several processes one would have those that came while it was alone
        ages = _SHARED_AGES if self._share_port else ()
        server = grpc.aio.server(
            options=[
                *ages,
                # a second server on the same port must fail to bind, not take half of the calls
                ("grpc.so_reuseport", int(self._share_port)),
                ("grpc.max_receive_message_length", self._max_request_bytes),
                ("grpc.max_concurrent_streams", _CALLS_PER_CONNECTION),
            ]
        )
        server.add_generic_rpc_handlers((_Methods(self._export),))
        names = (TRACE_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    def _bind(self, server: grpc.aio.Server) -> None:
        for host in listening_hosts(self.host):
            try:
                self.port = server.add_insecure_port(host_port(host, self.port))
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

    async def _export(self, data: bytes, context: Context) -> bytes:
        try:
            lease = self._intake.admission.enter()
            context.add_done_callback(lambda _: lease.close())  # type: ignore[arg-type]  # the stubs want a subclass
            self._intake.count_bytes(len(data))
            lease.take(len(data))
            decoded = await lease.run(self._intake.take(data, self._decode, peer=peer_host(context.peer())))
        except Exception as exc:  # noqa: BLE001 - the root of a call: whatever happened is answered, and logged once
            await _abort(context, self._intake.refuse(exc))
        return success_protobuf(decoded.rejected, decoded.rejection)


async def _abort(context: Context, refusal: Refusal) -> NoReturn:
    status = refusal.status
    code = _CODES[refusal.code]
    await context.abort(code, status.message, ((_DETAILS_KEY, status.SerializeToString()),))


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Finds the handler of a method, without (de)serializers of gRPC's: bytes in, bytes out."""

    def __init__(self, export: _Export) -> None:
        self._traces = grpc.unary_unary_rpc_method_handler(export)
        self._others = grpc.unary_unary_rpc_method_handler(_refuse_signal)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if handler_call_details.method == _EXPORT:
            return self._traces
        return self._others if handler_call_details.method.startswith(_OTHER_SIGNALS) else None


async def _refuse_signal(_data: bytes, context: Context) -> bytes:
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"this bridge takes traces only ({_EXPORT}); send other signals to a collector",
    )


def _why_not(host: str, port: int) -> str:
    """gRPC says only that binding failed; the same bind on a plain socket says why."""
    try:
        bind(host, port).close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return "gRPC could not bind it"
