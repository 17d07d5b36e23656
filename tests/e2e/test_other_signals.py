"""Metrics and logs of stock SDK exporters: passed on with `forward_other_signals`, refused with a way out without."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web
from anyio import to_thread
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult, MetricsData

from tests.support.bridge_process import Bridge, Setup, started

ON = "[receivers]\nforward_other_signals = true\n"
REJECTED = ExportMetricsServiceResponse()
REJECTED.partial_success.rejected_data_points = 1
REJECTED.partial_success.error_message = "one was odd"


class Backend:
    """Takes whatever it is sent, by gRPC method or HTTP path; rejects one data point of metrics."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []
        self.code = grpc.StatusCode.OK
        self.status, self.headers = 200, dict[str, str]()
        self.kind = ""
        """Content-Type of answers; as asked where there is none."""
        self.grpc_port = self.http_port = 0

    async def call(self, method: str, request: bytes, context: Any) -> bytes:
        if self.code is not grpc.StatusCode.OK:
            await context.abort(self.code, "not now")
        self.taken.append((method, request))
        return REJECTED.SerializeToString() if "metrics" in method else b""

    async def post(self, request: web.Request) -> web.Response:
        if self.status != 200:
            return web.Response(status=self.status, headers=self.headers, text="not now")
        self.taken.append((request.path, await request.read()))
        if self.kind:
            return web.Response(text="{}", content_type=self.kind)
        body = REJECTED.SerializeToString() if "metrics" in request.path else b""
        return web.Response(body=body, content_type=request.content_type)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Backend"]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_AnyMethod(self),))
        self.grpc_port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        app = web.Application()
        app.router.add_post("/{path:.*}", self.post)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.http_port = runner.addresses[0][1]
        yield self
        await runner.cleanup()
        await server.stop(0)


class _AnyMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method

        async def call(request: bytes, context: Any) -> bytes:
            return await self._backend.call(method, request, context)

        return grpc.unary_unary_rpc_method_handler(call)


@contextmanager
def some_metrics() -> Iterator[MetricsData]:
    """What the SDK's meter says after one count."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    provider.get_meter("shop").create_counter("orders").add(3)
    data = reader.get_metrics_data()
    assert data is not None
    yield data
    provider.shutdown()


@asynccontextmanager
async def bridge(folder: Path, backend: Backend, kind: str, receivers: str = ON) -> AsyncIterator[Bridge]:
    """A bridge that exports to the backend in this way."""
    port = backend.grpc_port if kind == "otlp_grpc" else backend.http_port
    config = Setup(folder).export_to("one", kind, port).write()
    config.write_text(config.read_text().replace("[receivers.otlp_grpc]", f"{receivers}[receivers.otlp_grpc]", 1))
    async with started(config) as running:
        await running.ready()
        yield running


def export(exporter: Any) -> MetricExportResult:
    with some_metrics() as data:
        result: MetricExportResult = exporter.export(data)
        exporter.shutdown()
        return result


@pytest.mark.parametrize("kind", ["otlp_grpc", "otlp_http"])
async def test_metrics_and_logs_arrive_as_they_were_sent(tmp_path: Path, kind: str) -> None:
    """Over gRPC and HTTP in, over gRPC and HTTP out; the sender gets the backend's own answer."""
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "a line"
    async with Backend().running() as backend, bridge(tmp_path, backend, kind) as running:
        by_grpc = GrpcMetricExporter(endpoint=running.address("otlp_grpc"), insecure=True)
        by_http = HttpMetricExporter(endpoint=f"http://{running.address('otlp_http')}/v1/metrics")
        for exporter in (by_grpc, by_http):
            assert await to_thread.run_sync(export, exporter) is MetricExportResult.SUCCESS
        async with grpc.aio.insecure_channel(running.address("otlp_grpc")) as channel:
            await LogsServiceStub(channel).Export(logs)
        async with aiohttp.ClientSession() as session:
            where = f"http://{running.address('otlp_http')}/v1/metrics"
            headers = {"content-type": "application/x-protobuf"}
            async with session.post(where, data=backend.taken[0][1], headers=headers) as answer:
                assert ExportMetricsServiceResponse.FromString(await answer.read()) == REJECTED
    metrics = [ExportMetricsServiceRequest.FromString(body) for path, body in backend.taken if "metrics" in path]
    assert [m.resource_metrics[0].scope_metrics[0].metrics[0].name for m in metrics] == ["orders"] * 3
    assert [body for path, body in backend.taken if "logs" in path] == [logs.SerializeToString()]


@dataclass(frozen=True)
class Told:
    """What a sender is told over gRPC and over HTTP: code, wait in seconds, status, Retry-After."""

    code: grpc.StatusCode
    wait_s: float | None
    status: int
    retry_after: str | None


async def told(running: Bridge) -> Told:
    """What the bridge answers to logs."""
    async with grpc.aio.insecure_channel(running.address("otlp_grpc")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await LogsServiceStub(channel).Export(ExportLogsServiceRequest())
    assert "not now" in str(refused.value.details())
    details = Status.FromString(dict(refused.value.trailing_metadata())["grpc-status-details-bin"]).details
    waits = [RetryInfo.FromString(d.value).retry_delay.ToTimedelta().total_seconds() for d in details]
    headers = {"content-type": "application/x-protobuf"}
    where = f"http://{running.address('otlp_http')}/v1/logs"
    async with aiohttp.ClientSession() as session, session.post(where, data=b"", headers=headers) as answer:
        status = Status.FromString(await answer.read())
        assert "not now" in status.message
        assert "traces" not in status.message
        return Told(refused.value.code(), *(waits or [None]), answer.status, answer.headers.get("retry-after"))


async def test_what_a_grpc_backend_does_not_take_is_told_as_it_says(tmp_path: Path) -> None:
    """Nothing of it is kept, so nothing is acknowledged; and whether to come again is the backend's word."""
    async with Backend().running() as backend, bridge(tmp_path, backend, "otlp_grpc") as running:
        for code, status in (
            (grpc.StatusCode.UNIMPLEMENTED, 501),
            (grpc.StatusCode.UNAUTHENTICATED, 401),
            (grpc.StatusCode.INVALID_ARGUMENT, 400),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
            (grpc.StatusCode.INTERNAL, 500),
        ):
            backend.code = code
            assert await told(running) == Told(code, None, status, None)
        backend.code = grpc.StatusCode.UNAVAILABLE
        assert await told(running) == Told(grpc.StatusCode.UNAVAILABLE, 1.0, 503, "1")


async def test_what_an_http_backend_does_not_take_is_told_as_it_says(tmp_path: Path) -> None:
    """Also how long to wait; a status that OTLP's senders give up at, though nobody read the body, becomes 503."""
    async with Backend().running() as backend, bridge(tmp_path, backend, "otlp_http") as running:
        for status, code in (
            (404, grpc.StatusCode.UNIMPLEMENTED),
            (403, grpc.StatusCode.PERMISSION_DENIED),
            (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
            (422, grpc.StatusCode.INVALID_ARGUMENT),
            (500, grpc.StatusCode.INTERNAL),
        ):
            backend.status = status
            assert await told(running) == Told(code, None, status, None)
        backend.headers = {"retry-after": "7"}
        for status, code, shown in (
            (429, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
            (502, grpc.StatusCode.UNAVAILABLE, 503),
            (408, grpc.StatusCode.UNAVAILABLE, 503),
        ):
            backend.status = status
            assert await told(running) == Told(code, 7.0, shown, "7")


async def test_an_answer_of_another_kind_says_that_it_was_taken(tmp_path: Path) -> None:
    """A sender gets what it can read, whatever the backend writes."""
    async with Backend().running() as backend, bridge(tmp_path, backend, "otlp_http") as running:
        backend.kind = "text/plain"
        exporter = GrpcMetricExporter(endpoint=running.address("otlp_grpc"), insecure=True)
        assert await to_thread.run_sync(export, exporter) is MetricExportResult.SUCCESS
        where = f"http://{running.address('otlp_http')}/v1/logs"
        async with aiohttp.ClientSession() as session, session.post(where, json={"resourceLogs": []}) as answer:
            assert (answer.status, answer.content_type, await answer.text()) == (200, "application/json", "{}")
    assert len(backend.taken) == 2


async def test_json_goes_on_as_json_where_the_backend_is_reached_over_http(tmp_path: Path) -> None:
    """Over gRPC it cannot, and the answer says what to do."""
    async with Backend().running() as backend:
        for kind, status in (("otlp_http", 200), ("otlp_grpc", 400)):
            folder = tmp_path / kind
            folder.mkdir()
            async with bridge(folder, backend, kind) as running, aiohttp.ClientSession() as session:
                where = f"http://{running.address('otlp_http')}/v1/logs"
                async with session.post(where, json={"resourceLogs": []}) as answer:
                    assert answer.status == status
                    assert status == 200 or "send protobuf" in await answer.text()
    assert backend.taken == [("/v1/logs", b'{"resourceLogs": []}')]


async def test_without_the_setting_the_refusal_says_how(tmp_path: Path) -> None:
    """UNIMPLEMENTED and 404, as before, with the setting's name."""
    async with Backend().running() as backend, bridge(tmp_path, backend, "otlp_grpc", receivers="") as running:
        async with grpc.aio.insecure_channel(running.address("otlp_grpc")) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await LogsServiceStub(channel).Export(ExportLogsServiceRequest())
        where = f"http://{running.address('otlp_http')}/v1/logs"
        async with aiohttp.ClientSession() as session, session.post(where, json={}) as answer:
            text = await answer.text()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "forward_other_signals" in str(refused.value.details())
    assert answer.status == 404
    assert "forward_other_signals" in text
    assert backend.taken == []
