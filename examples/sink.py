#!/usr/bin/env python3
"""A small OTLP/gRPC backend: takes traces and writes each request to a file of its own, as it came.

    sink.py --output FOLDER [--port 0]

Prints "listening on PORT" when it is ready and ends on SIGTERM. Built on the service classes of opentelemetry-proto,
so it shares no code with the bridge.
"""

import argparse
import itertools
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


class Sink(TraceServiceServicer):
    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, itertools.count(1)

    def Export(  # noqa: N802 -- the name the service definition gives
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        path = self._folder / f"{next(self._number):06}.pb"
        part = path.with_suffix(".part")
        part.write_bytes(request.SerializeToString())
        part.rename(path)  # whoever looks into the folder finds whole requests only
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
