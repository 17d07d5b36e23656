"""A backend for the bridge's own telemetry: takes OTLP metrics and traces over gRPC and HTTP, and keeps them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import grpc.aio
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 30.0


@dataclass
class TelemetrySink:
    """What it was sent, newest last."""

    metrics: list[metrics_pb2.ExportMetricsServiceRequest] = field(default_factory=list)
    traces: list[traces_pb2.ExportTraceServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    grpc_port: int = 0
    http_port: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def requests(self) -> int:
        """How many came, of either kind."""
        return len(self.metrics) + len(self.traces)

    def latest(self) -> dict[str, Metric]:
        """The metrics of the newest request, by name."""
        found = self.metrics[-1:] and self.metrics[-1].resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: metric for metric in found}

    def spans(self) -> list[Span]:
        """Of all requests."""
        return [
            s for r in self.traces for group in r.resource_spans for scope in group.scope_spans for s in scope.spans
        ]

    def resources(self) -> list[Resource]:
        """Of all requests."""
        return [group.resource for r in self.metrics for group in r.resource_metrics] + [
            group.resource for r in self.traces for group in r.resource_spans
        ]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return once this holds, looked at with each request."""
        with anyio.fail_after(WAIT_S):
            while not holds():
                self._news.clear()
                await self._news.wait()

    def _take(self, kept: list[Any], request: object, headers: dict[str, str]) -> None:
        kept.append(request)
        self.headers.append(headers)
        self._news.set()

    async def _post(self, request: web.Request) -> web.Response:
        kinds: dict[str, tuple[list[Any], Any]] = {
            "/v1/metrics": (self.metrics, metrics_pb2.ExportMetricsServiceRequest),
            "/v1/traces": (self.traces, traces_pb2.ExportTraceServiceRequest),
        }
        kept, kind = kinds[request.path]
        self._take(kept, kind.FromString(await request.read()), {k.lower(): v for k, v in request.headers.items()})
        return web.Response(content_type="application/x-protobuf")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["TelemetrySink"]:
        """Serve on free ports of 127.0.0.1 while the context is open."""
        sink, server = self, grpc.aio.server()

        class Metrics(MetricsServiceServicer):
            async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the service's name for it
                sink._take(sink.metrics, request, dict(context.invocation_metadata()))
                return metrics_pb2.ExportMetricsServiceResponse()

        class Traces(TraceServiceServicer):
            async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the service's name for it
                sink._take(sink.traces, request, dict(context.invocation_metadata()))
                return traces_pb2.ExportTraceServiceResponse()

        add_MetricsServiceServicer_to_server(Metrics(), server)
        add_TraceServiceServicer_to_server(Traces(), server)
        self.grpc_port = server.add_insecure_port("127.0.0.1:0")
        app = web.Application()
        app.add_routes([web.post("/v1/metrics", self._post), web.post("/v1/traces", self._post)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.http_port = runner.addresses[0][1]
        await server.start()
        try:
            yield self
        finally:
            await runner.cleanup()
            await server.stop(0.1)


def value_of(metric: Metric, **attributes: str) -> float | None:
    """The value of the data point with these attributes, None where there is none."""
    for point in (*metric.sum.data_points, *metric.gauge.data_points):
        if {a.key: a.value.string_value for a in point.attributes} == attributes:
            return float(point.as_double if point.HasField("as_double") else point.as_int)
    return None


def attributes_of(thing: Resource | Span) -> dict[str, str | int]:
    """Texts and numbers among the attributes."""
    return {a.key: a.value.string_value or a.value.int_value for a in thing.attributes}
