#!/usr/bin/env python3
"""Play recorded eSpans into an OTLP/gRPC receiver, with the OpenTelemetry SDK's own exporter.

    play.py FILE.otlp.jsonl[.gz] --endpoint http://localhost:4317

Every line of FILE is one OTLP/JSON request. Prints a JSON line: spans sent, requests sent.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind


def plain(value: dict[str, Any]) -> str | int:
    """The Python value of an OTLP/JSON AnyValue: the recordings hold strings and integers only."""
    return value["stringValue"] if "stringValue" in value else int(value["intValue"])


def attributes(listed: list[dict[str, Any]]) -> dict[str, str | int]:
    return {a["key"]: plain(a["value"]) for a in listed}


def recorded(path: Path) -> Iterator[list[ReadableSpan]]:
    """The spans of each request of a recording. They have no trace id: 0 stands for none."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as lines:
        for line in lines:
            yield [
                ReadableSpan(
                    name=span["name"],
                    context=SpanContext(trace_id=0, span_id=int(span["spanId"], 16), is_remote=False),
                    resource=Resource(attributes(group["resource"]["attributes"])),
                    attributes=attributes(span["attributes"]),
                    kind=SpanKind(span["kind"] - 1),
                    instrumentation_scope=InstrumentationScope(scope["scope"]["name"]),
                    start_time=int(span["startTimeUnixNano"]),
                    end_time=int(span["endTimeUnixNano"]),
                )
                for group in json.loads(line)["resourceSpans"]
                for scope in group["scopeSpans"]
                for span in scope["spans"]
            ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--endpoint", default="http://localhost:4317")
    args = parser.parse_args()
    exporter = OTLPSpanExporter(endpoint=args.endpoint, insecure=True)
    spans = requests = 0
    for batch in recorded(args.file):
        if exporter.export(batch) is not SpanExportResult.SUCCESS:
            print(f"the receiver at {args.endpoint} did not take request {requests}", file=sys.stderr)
            return 1
        spans, requests = spans + len(batch), requests + 1
    exporter.shutdown()
    print(json.dumps({"spans": spans, "requests": requests}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
