"""eSpans in by every protocol, whole traces out by every exporter: real processes, stock senders."""

import gzip
from pathlib import Path
from typing import Any

import aiohttp
from anyio import to_thread
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from examples.play import recorded
from tests.e2e.conftest import Delivered
from tests.support.bridge_process import Setup, running
from tests.support.received import Received, read_truth, score, spans_of_lines
from tests.support.senders import BOUTIQUE, recorded_lines, stock_stub
from tests.support.sink import running_sink

TRUTH = read_truth(BOUTIQUE / "truth.csv")
WINDOW = "2s"
"""Longer than a slow machine needs to send a recording: what comes later than a window may come too late."""


def send(exporter: Any, batches: list[list[ReadableSpan]]) -> None:
    """Send with the SDK's exporter, which knows nothing of eSpans."""
    try:
        for batch in batches:
            assert exporter.export(batch) is SpanExportResult.SUCCESS
    finally:
        exporter.shutdown()


def assert_whole(spans: list[Received]) -> None:
    """Every span once, under its true parent, in one trace with its own."""
    result = score(TRUTH, spans)
    assert (result.delivered, result.copies, result.unknown) == (len(TRUTH), 0, 0)
    assert (result.recall_in_process, result.recall_cross_process, result.precision) == (1.0, 1.0, 1.0)
    assert result.whole_traces == 1.0


async def test_grpc_in_and_whole_traces_out_to_three_exporters(tmp_path: Path, delivered: Delivered) -> None:
    """One recording, one sender; gRPC, HTTP and file each get all of it."""
    lines = tmp_path / "out" / "traces.otlp.jsonl"
    async with running_sink() as by_grpc, running_sink() as by_http:
        setup = Setup(tmp_path, window=WINDOW).export_to("one", "otlp_grpc", by_grpc.grpc_port).export_to_file(lines)
        setup.export_to("two", "otlp_http", by_http.http_port)
        async with running(setup) as bridge:
            exporter = GrpcExporter(endpoint=f"http://{bridge.address('otlp_grpc')}", insecure=True)
            await to_thread.run_sync(send, exporter, list(recorded(BOUTIQUE / "agent.otlp.jsonl.gz")))
            assert_whole(await delivered(by_grpc, len(TRUTH)))
            assert_whole(await delivered(by_http, len(TRUTH)))
            assert await bridge.stop() == 0  # which waits for every exporter
    assert_whole(list(spans_of_lines(lines.read_text().splitlines())))


def ordinary() -> ExportTraceServiceRequest:
    """Two spans of an instrumented service, with everything a span may have."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add(schema_url="https://opentelemetry.io/schemas/1.30.0")
    resource.resource.attributes.add(key="service.name").value.string_value = "billing"
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "billing.http", "1.2"
    root = scope.spans.add(trace_id=b"\x07" * 16, span_id=b"\x08" * 8, name="charge", trace_state="a=b")
    root.kind, root.flags = 2, 257
    root.start_time_unix_nano, root.end_time_unix_nano = 10**18, 10**18 + 5
    root.attributes.add(key="amount").value.double_value = 12.5
    root.events.add(name="paid", time_unix_nano=10**18 + 3)
    root.status.message = "fine"
    child = scope.spans.add(trace_id=b"\x07" * 16, span_id=b"\x09" * 8, parent_span_id=b"\x08" * 8, name="SELECT")
    child.links.add(trace_id=b"\x01" * 16, span_id=b"\x02" * 8)
    return request


async def test_http_protobuf_and_json_in_beside_ordinary_spans(tmp_path: Path, delivered: Delivered) -> None:
    """Half a recording in protobuf, half in gzipped JSON: they meet; ordinary spans come out as they went in."""
    lines, batches = recorded_lines("agent"), list(recorded(BOUTIQUE / "agent.otlp.jsonl.gz"))
    half = len(lines) // 2
    setup = Setup(tmp_path, window=WINDOW)
    async with running_sink() as sink, running(setup.export_to("a", "otlp_grpc", sink.grpc_port)) as bridge:
        url = f"http://{bridge.address('otlp_http')}/v1/traces"
        async with stock_stub(bridge.address("otlp_grpc")) as stub:
            await stub.Export(ordinary())
        await to_thread.run_sync(send, HttpExporter(endpoint=url), batches[:half])
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for line in lines[half:]:
                async with session.post(url, data=gzip.compress(line, 1)) as response:
                    assert (response.status, await response.text()) == (200, "{}")
        spans = await delivered(sink, len(TRUTH) + 2)
        assert await bridge.stop() == 0
    passed = [r for request in sink.requests for r in request.resource_spans if "billing" in str(r.resource)]
    assert passed == list(ordinary().resource_spans)
    own = {span.span_id.hex() for span in ordinary().resource_spans[0].scope_spans[0].spans}
    assert_whole([span for span in spans if span.span_id not in own])
