"""An instrumented program as OpenTelemetry's SDK makes it: spans ended at a rate, batched, exported over OTLP.

    python -m tests.support.stock_sender --protocol grpc --endpoint http://127.0.0.1:4317 --rate 500 --seconds 10

Processor and exporter are the SDK's own; their queue and their time limit are larger than their defaults, as they have
to be where more ends than is taken for a while. Prints one line of JSON once everything was flushed.
"""

import argparse
import json
import logging
import time

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

QUEUE = 1_000_000
TIMEOUT_S = 60
STEP_S = 0.05


class Failures(logging.Handler):
    """Counts what the SDK's exporters give up on, which they say nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def exporter_of(protocol: str, endpoint: str) -> SpanExporter:
    if protocol == "grpc":
        return GrpcExporter(endpoint, insecure=True, timeout=TIMEOUT_S)
    return HttpExporter(f"{endpoint}/v1/traces", timeout=TIMEOUT_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=["grpc", "http"], required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--rate", type=int, required=True, help="spans a second")
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    failures = Failures()
    logging.getLogger("opentelemetry").addHandler(failures)
    logging.getLogger("opentelemetry").propagate = False
    provider = TracerProvider(resource=Resource({"service.name": f"stock-{args.protocol}"}))
    provider.add_span_processor(BatchSpanProcessor(exporter_of(args.protocol, args.endpoint), max_queue_size=QUEUE))
    tracer = provider.get_tracer("stock")
    ended, begun = 0, time.monotonic()
    while (elapsed_s := time.monotonic() - begun) < args.seconds:
        while ended < args.rate * elapsed_s:
            tracer.start_span(f"work {ended}").end()
            ended += 1
        time.sleep(STEP_S)
    flushed = provider.force_flush(TIMEOUT_S * 1000)
    provider.shutdown()
    print(json.dumps({"done": True, "ended": ended, "flushed": flushed, "failures": failures.texts}), flush=True)


if __name__ == "__main__":
    main()
