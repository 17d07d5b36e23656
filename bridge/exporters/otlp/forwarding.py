"""Other signals than traces, passed on to the backend of an OTLP exporter: same address, headers, TLS and deadline."""

from contextlib import AbstractAsyncContextManager

from bridge.component.forwarding import Signal
from bridge.errors import PermanentError
from bridge.exporters.otlp.grpc import OtlpGrpcExporter
from bridge.exporters.otlp.http import OtlpHttpExporter

METHODS: dict[Signal, str] = {
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
PATHS: dict[Signal, str] = {"metrics": "v1/metrics", "logs": "v1/logs"}


class GrpcForwarder:
    """See `bridge.component.forwarding.SignalForwarder`; over gRPC, which knows no JSON."""

    def __init__(self, exporter: OtlpGrpcExporter) -> None:
        """exporter: one of its own, that delivers nothing else."""
        self._exporter = exporter

    def running(self) -> AbstractAsyncContextManager[None]:
        """Hold a channel while the context is open."""
        return self._exporter.running()

    async def forward(self, signal: Signal, request: bytes, *, as_json: bool) -> bytes:
        """See `SignalForwarder.forward`."""
        if as_json:
            raise PermanentError(
                f"{signal} in JSON cannot be forwarded over gRPC: send protobuf, or let the first OTLP exporter be "
                "one of type otlp_http"
            )
        return await self._exporter.call(METHODS[signal], request)


class HttpForwarder:
    """See `bridge.component.forwarding.SignalForwarder`; over HTTP."""

    def __init__(self, exporter: OtlpHttpExporter) -> None:
        """exporter: one of its own, that delivers nothing else."""
        self._exporter = exporter

    def running(self) -> AbstractAsyncContextManager[None]:
        """Hold a session while the context is open."""
        return self._exporter.running()

    async def forward(self, signal: Signal, request: bytes, *, as_json: bool) -> bytes:
        """See `SignalForwarder.forward`."""
        return await self._exporter.post(PATHS[signal], request, as_json=as_json)
