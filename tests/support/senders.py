"""Stock OpenTelemetry senders, and loads with known truth."""

import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from bridge.cli.simulation import Simulation, Traces
from tests.support.received import Origin, Truth

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BOUTIQUE = EXAMPLES / "online-boutique"
BATCH = 512
CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),  # each channel has a connection of its own
)


@asynccontextmanager
async def stock_stub(address: str) -> AsyncIterator[TraceServiceStub]:
    """opentelemetry-proto's own client, which reconnects soon."""
    async with grpc.aio.insecure_channel(address, CHANNEL) as channel:
        yield TraceServiceStub(channel)


def recorded_lines(name: str) -> list[bytes]:
    """The OTLP/JSON requests of a recording of Online Boutique: "agent" or "exact"."""
    with gzip.open(BOUTIQUE / f"{name}.otlp.jsonl.gz") as lines:
        return list(lines)


def simulated(first: int, traces: int, start_ns: int) -> tuple[list[ExportTraceServiceRequest], Truth]:
    """Requests of simulated traces number `first` and on, 1 ms apart, one service each, and their truth."""
    simulation = Simulation()
    made: Traces = simulation.traces(first, np.uint64(start_ns) + np.arange(traces, dtype=np.uint64) * np.uint64(10**6))
    requests = [ExportTraceServiceRequest.FromString(r.data) for r in simulation.requests(made, BATCH)]
    rows: Iterator[list[str]] = (line.split(",") for line in simulation.truth(made))
    return requests, {span: Origin(parent, trace, kind) for span, parent, trace, kind in rows}


def span_ids(request: ExportTraceServiceRequest) -> list[str]:
    """Span ids of a request, in order."""
    return [s.span_id.hex() for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
