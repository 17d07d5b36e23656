"""Every listener there is, built with some security, and one way to speak to all of them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import anyio
import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.otlp import GrpcReceiver, HttpReceiver
from bridge.security import FileWatch, ListenerSecurity
from bridge.spans import SpanBatch
from bridge.telemetry import Instruments
from bridge.web import WebServer
from tests.support.certificates import Authority, Files, client_context, secure_channel, server_names

POLL_S = 0.02
KINDS = ("otlp_grpc", "otlp_http", "datakit", "web")
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
POSTS = {"otlp_http": ("/v1/traces", "application/x-protobuf"), "datakit": ("/v1/bpftracing", "text/plain")}
OK, REFUSED = "ok", "unauthenticated"


class Consumer:
    """Takes everything."""

    def __init__(self) -> None:
        self.batches: list[SpanBatch] = []

    async def consume(self, batch: SpanBatch) -> None:
        self.batches.append(batch)


class Listener(Protocol):
    """What each of them is to its users."""

    port: int

    def running(self) -> AbstractAsyncContextManager[None]: ...


class Caller(Protocol):
    """Speaks over one connection, again and again."""

    async def __call__(self, headers: Mapping[str, str] = ...) -> str: ...


@dataclass
class Setting:
    """An authority, a folder of server files, and what listeners of a test count."""

    folder: Path
    authority: Authority = field(default_factory=Authority)

    def __post_init__(self) -> None:
        self.files = Files(self.folder / "server")
        self.consumer = Consumer()
        self.reloads: list[str] = []
        self.reloaded = anyio.Event()
        self.watch = FileWatch(self._count, poll_s=POLL_S)
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        self.instruments = Instruments(self.provider.get_meter("test"))

    def _count(self, amount: int, attributes: Mapping[str, str]) -> None:
        self.reloads += [attributes["result"]] * amount
        if amount:
            self.reloaded.set()

    def issue(self, days: float = 30) -> None:
        """Have a certificate of the authority for the server."""
        self.files.put(self.authority.issue(*server_names(), days=days))

    def listener(self, kind: str, security: ListenerSecurity) -> Listener:
        """One listener on a free port of localhost."""
        common: dict[str, Any] = {
            "instruments": self.instruments,
            "host": "127.0.0.1",
            "port": 0,
            "security": security,
        }
        match kind:
            case "otlp_grpc":
                return GrpcReceiver(self.consumer, **common)
            case "otlp_http":
                return HttpReceiver(self.consumer, **common)
            case "datakit":
                return DatakitReceiver(self.consumer, **common)
            case _:
                return WebServer(
                    hosts=("127.0.0.1",), port=0, not_ready=str, metrics=lambda: b"metrics", security=security
                )

    def refused(self) -> int:
        """Requests counted as unauthenticated."""
        data = self.reader.get_metrics_data()
        return sum(
            int(point.value)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "receiver_refused_requests"
            for point in metric.data.data_points
            if point.attributes.get("reason") == REFUSED
        )

    @asynccontextmanager
    async def caller(
        self, kind: str, port: int, trusted: bytes | None = None, identity: tuple[bytes, bytes] | None = None
    ) -> AsyncIterator[Caller]:
        """A client with a connection of its own, over TLS where it trusts somebody.

        It says "ok", "unauthenticated", or what else came of it; raises where it cannot connect.
        """
        if kind == "otlp_grpc":
            address = f"localhost:{port}"
            async with (
                secure_channel(address, trusted, identity) if trusted else grpc.aio.insecure_channel(address)
            ) as channel:
                export = channel.unary_unary(EXPORT)

                async def call(headers: Mapping[str, str] = {}) -> str:
                    try:
                        await export(request(), metadata=tuple(headers.items()), timeout=20)
                    except grpc.aio.AioRpcError as exc:
                        if exc.code() is grpc.StatusCode.UNAVAILABLE:
                            raise ConnectionError(exc.details()) from None
                        return exc.code().name.lower()
                    return OK

                yield call
        else:
            context = client_context(trusted, identity, self.folder) if trusted else True
            scheme = "https" if trusted else "http"
            connector = aiohttp.TCPConnector(ssl=context, limit=1)
            async with aiohttp.ClientSession(connector=connector) as session:

                async def send(headers: Mapping[str, str] = {}) -> str:
                    path, content_type = POSTS.get(kind, ("/metrics", ""))
                    method = "POST" if content_type else "GET"
                    body = {"otlp_http": request(), "datakit": b"m a=1 1\n"}.get(kind)
                    fields = {**headers, **({"Content-Type": content_type} if content_type else {})}
                    url = f"{scheme}://localhost:{port}{path}"
                    async with session.request(method, url, data=body, headers=fields) as response:
                        if response.status == 401:
                            # the page's scripts are told where else the token goes
                            assert response.headers["WWW-Authenticate"] in ("Bearer", 'Token header="x-api-key"')
                            return REFUSED
                        return OK if response.status == 200 else str(response.status)

                yield send


def request() -> bytes:
    """An OTLP request with one span."""
    made = ExportTraceServiceRequest()
    span = made.resource_spans.add().scope_spans.add().spans.add()
    span.name, span.trace_id, span.span_id = "call", bytes(15) + b"\x01", bytes(7) + b"\x01"
    return made.SerializeToString()
