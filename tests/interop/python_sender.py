"""Sends spans with OpenTelemetry's Python SDK to several receivers at once.

    python_sender.py COUNT PROTOCOL:COMPRESSION:HOST:PORT ...

PROTOCOL is grpc or http (protobuf), COMPRESSION gzip or none. Exits with 0 when every receiver took everything.
"""

import sys
from typing import Any

from grpc import Compression as GrpcCompression
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, set_span_in_context


def exporter(target: str) -> Any:
    protocol, compression, address = target.split(":", 2)
    gzip = compression == "gzip"
    if protocol == "grpc":
        how = GrpcCompression.Gzip if gzip else GrpcCompression.NoCompression
        return GrpcExporter(endpoint=address, insecure=True, compression=how)
    how = HttpCompression.Gzip if gzip else HttpCompression.NoCompression
    return HttpExporter(endpoint=f"http://{address}/v1/traces", compression=how)


class Counting:
    """An exporter that remembers whether everything was taken."""

    failed = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.shutdown, self.force_flush = inner.shutdown, inner.force_flush

    def export(self, spans: list[ReadableSpan]) -> SpanExportResult:
        result: SpanExportResult = self._inner.export(spans)
        Counting.failed |= result is not SpanExportResult.SUCCESS
        return result


def main() -> int:
    count = int(sys.argv[1])
    provider = TracerProvider(resource=Resource({"service.name": "python-sender", "service.shards": 3}))
    for target in sys.argv[2:]:
        sending: Any = Counting(exporter(target))
        provider.add_span_processor(BatchSpanProcessor(sending, max_queue_size=count, max_export_batch_size=100))
    tracer = provider.get_tracer("sender", "1.2")
    previous: SpanContext | None = None
    for number in range(count):
        above = set_span_in_context(NonRecordingSpan(previous)) if previous and number % 3 else None
        links = [Link(previous, {"near": True})] if previous else []
        attributes = {"text": f"größe {number}", "number": -number, "share": number / 7, "list": ("a", "", "ü")}
        span = tracer.start_span(
            f"operation {number}", above, SpanKind(number % 5), attributes | {"even": number % 2 == 0}, links
        )
        span.add_event("something", {"at": number})
        if number % 2:
            span.set_status(StatusCode.ERROR, "went wrong")
        previous = span.get_span_context()
        span.end()
    provider.shutdown()
    return int(Counting.failed)


if __name__ == "__main__":
    sys.exit(main())
