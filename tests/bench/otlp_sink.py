"""An OTLP/gRPC backend for load: takes everything, counts spans, reads nothing but their ids and ends.

    python -m tests.bench.otlp_sink

Prints a line of JSON with its endpoint, then obeys standard input (tests.bench.arrivals), and ends with it.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from tests.bench.arrivals import U64, Arrivals, answer_commands

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
THREADS = 4
MAX_BYTES = 64 << 20


def _narrow_request() -> type[Any]:
    """A view of ExportTraceServiceRequest in which a span has an id and an end: the rest is skipped in C."""
    file = descriptor_pb2.FileDescriptorProto(name="tests/bench/sink.proto", package="bench_sink", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    span = file.message_type.add(name="Span")
    span.field.add(name="id", number=2, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_BYTES)
    span.field.add(name="end", number=8, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_FIXED64)
    for name, number, of in (
        ("ScopeSpans", 2, "Span"), ("ResourceSpans", 2, "ScopeSpans"), ("Request", 1, "ResourceSpans"),
    ):  # fmt: skip
        message = file.message_type.add(name=name)
        message.field.add(
            name="parts", number=number, label=kinds.LABEL_REPEATED, type=kinds.TYPE_MESSAGE,
            type_name=f".bench_sink.{of}",
        )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bench_sink.Request"))


_NARROW = _narrow_request()


def ids_and_ends(body: bytes) -> tuple[U64, NDArray[np.int64]]:
    """Ids and ends (ns since the epoch) of a serialized request's spans. Raises ValueError for an id not of 8 bytes."""
    spans = [span for group in _NARROW.FromString(body).parts for scope in group.parts for span in scope.parts]
    ids = [span.id for span in spans]
    if not set(map(len, ids)) <= {8}:
        raise ValueError("a span id is not 8 bytes long")
    return np.frombuffer(b"".join(ids), ">u8").astype(np.uint64), np.array([span.end for span in spans], np.int64)


def serve(arrivals: Arrivals) -> tuple[grpc.Server, int]:
    """A running server, and its port."""

    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        if arrivals.refuses():
            context.abort(grpc.StatusCode.UNAVAILABLE, "closed")
        arrivals.add(*ids_and_ends(body))
        return b""

    options = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(THREADS), options=options)
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main() -> None:
    arrivals = Arrivals()
    server, port = serve(arrivals)
    print(json.dumps({"endpoint": f"http://127.0.0.1:{port}"}), flush=True)
    answer_commands(arrivals)
    server.stop(0)


if __name__ == "__main__":
    main()
