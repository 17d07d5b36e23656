"""Sends the bridge's own metrics and traces to `telemetry.otlp`, if there is an endpoint, and to nothing else.

It uses what exporters use, so that TLS, headers, deadlines and errors are the same; but nothing of it goes through the
store, and nothing is sent twice: metrics are sums since the start, so that the next ones hold what these would have.
"""

import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager

import anyio

from bridge import __version__
from bridge.component import Body
from bridge.config import Settings, TelemetryOtlpSettings, client_tls
from bridge.errors import BridgeError
from bridge.exporters.otlp import GrpcForwarder, HttpForwarder, OtlpGrpcExporter, OtlpHttpExporter
from bridge.exporters.otlp.answers import check_partial_success
from bridge.security import FileWatch
from bridge.telemetry import Instruments
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.otlp import metrics_request, traces_request

logger = logging.getLogger(__name__)

NAME = "telemetry.otlp"
TRACES_S = 5.0
"""How often traces are sent."""
LAST_S = 2.0
"""How long the last metrics and traces may take at a stop."""


class OwnTelemetry:
    """What is sent, when, and how that went. Does nothing without an endpoint."""

    def __init__(
        self, settings: Settings, metrics: Metrics, instruments: Instruments, watch: FileWatch | None = None
    ) -> None:
        """watch: as for exporters. Raises ConfigError as they do."""
        otlp = settings.telemetry.otlp
        self._metrics, self._instruments = metrics, instruments
        self._interval_s, self._traced = otlp.interval_s, settings.telemetry.traces.sampling_rate > 0
        self._resource = _resource(otlp.resource)
        self._exporter = _exporter(otlp, watch) if otlp.endpoint else None
        self._failing = False
        if self._exporter:
            for signal in ("metrics", "traces") if self._traced else ("metrics",):
                for result in ("ok", "failed"):
                    instruments.telemetry_requests.add(0, {"signal": signal, "result": result})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the context is open, and once more when it is left. Raises ConfigError for TLS files."""
        if self._exporter is None:
            yield
            return
        async with self._exporter.running(), anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_sending)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.move_on_after(LAST_S, shield=True):
                    await self._send_traces()
                    await self._send_metrics()

    async def _keep_sending(self) -> None:
        step_s = min(TRACES_S, self._interval_s) if self._traced else self._interval_s
        due_s = time.monotonic()
        while True:
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + self._interval_s
                await self._send_metrics()
            await self._send_traces()
            await anyio.sleep(step_s)

    async def _send_metrics(self) -> None:
        request, count = metrics_request(self._metrics.data(), self._resource)
        if count and self._exporter is not None:
            await self._send("metrics", self._forward(self._exporter, request))

    async def _send_traces(self) -> None:
        spans = self._instruments.tracer.take()
        if spans and self._exporter is not None:
            body = Body(traces_request(spans, self._resource), len(spans))
            if not await self._send("traces", self._exporter.deliver(body)):
                self._instruments.dropped_own_spans.add(len(spans), {"reason": "not_sent"})

    async def _forward(self, exporter: OtlpGrpcExporter | OtlpHttpExporter, request: bytes) -> None:
        forwarder = GrpcForwarder(exporter) if isinstance(exporter, OtlpGrpcExporter) else HttpForwarder(exporter)
        check_partial_success(await forwarder.forward("metrics", request, as_json=False), ())

    async def _send(self, signal: str, sending: Awaitable[None]) -> bool:
        """Whether it was taken: counted, and logged where that is news."""
        taken = False
        try:
            await sending
            taken = True
        except BridgeError as exc:
            if not self._failing:
                logger.warning("the bridge's own telemetry cannot be sent", extra={"signal": signal, "error": str(exc)})
        else:
            if self._failing:
                logger.info("the bridge's own telemetry can be sent again", extra={"signal": signal})
        finally:
            self._failing = not taken
            self._instruments.telemetry_requests.add(1, {"signal": signal, "result": "ok" if taken else "failed"})
        return taken


def _resource(stated: Mapping[str, str]) -> dict[str, str]:
    own = {
        "service.name": "espan-bridge",
        "service.version": __version__,
        "service.instance.id": str(uuid.uuid4()),
    }
    return own | dict(stated)


def _exporter(settings: TelemetryOtlpSettings, watch: FileWatch | None) -> OtlpGrpcExporter | OtlpHttpExporter:
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    tls, timeout_s = client_tls(settings.tls), settings.timeout_s
    if settings.protocol == "grpc":
        insecure = settings.tls.insecure
        return OtlpGrpcExporter(
            NAME, settings.url, headers=headers, timeout_s=timeout_s, insecure=insecure, tls=tls, watch=watch
        )
    return OtlpHttpExporter(NAME, settings.url, headers=headers, timeout_s=timeout_s, tls=tls, watch=watch)
