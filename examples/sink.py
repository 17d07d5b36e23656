#!/usr/bin/env python3
"""A small OTLP/gRPC backend: takes traces and writes each request to a file as OTLP/JSON.

    sink.py --output FILE [--port 0]

Prints "listening on PORT" when it is ready and ends on SIGTERM. Built on the service classes of opentelemetry-proto,
so it shares no code with the bridge.
"""

import argparse
import base64
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


def hex_ids(node: object) -> object:
    """OTLP/JSON writes ids in hex where protobuf's own JSON writes base64."""
    if isinstance(node, dict):
        return {
            k: base64.b64decode(v).hex() if k in ("traceId", "spanId", "parentSpanId") else hex_ids(v)
            for k, v in node.items()
        }
    return [hex_ids(item) for item in node] if isinstance(node, list) else node


class Sink(TraceServiceServicer):
    def __init__(self, output: Path) -> None:
        self._file, self._lock = output.open("a"), threading.Lock()

    def Export(  # noqa: N802 -- the name the service definition gives
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        line = json.dumps(hex_ids(MessageToDict(request, use_integers_for_enums=True)), separators=(",", ":"))
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()
        return ExportTraceServiceResponse()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 64 << 20)])
    add_TraceServiceServicer_to_server(Sink(args.output), server)
    port = server.add_insecure_port(f"127.0.0.1:{args.port}")
    server.start()
    print(f"listening on {port}", flush=True)
    stop.wait()
    server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
