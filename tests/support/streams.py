"""A stream of requests from several senders at once, paused and let go on, and what must hold of what came out."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack

import anyio
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from tests.support.received import Origin, Received, Truth
from tests.support.senders import simulated, span_ids, stock_stub

CHUNKS = 10
TRACES = 8
"""Traces of a chunk."""
SENDERS = 4
"""Of each connection."""


class Stream:
    """Requests sent by several senders at once, each until it is acknowledged, in groups that are let go one by one."""

    def __init__(self, groups: list[list[ExportTraceServiceRequest]]) -> None:
        self._groups = groups
        self.acknowledged: list[list[str]] = []
        """Span ids of each request that was."""
        self._open = [anyio.Event() for _ in groups]
        self._progress = anyio.Event()
        self.retries = 0

    def let_go(self, group: int) -> None:
        self._open[group].set()

    async def reached(self, requests: int) -> None:
        """Return once so many requests were acknowledged."""
        while len(self.acknowledged) < requests:
            self._progress = anyio.Event()
            await self._progress.wait()

    async def send(self, address: str, connections: int = 1) -> None:
        """Send all groups, over so many connections."""
        async with AsyncExitStack() as stack:
            stubs = [await stack.enter_async_context(stock_stub(address)) for _ in range(connections)]
            for group, opened in zip(self._groups, self._open, strict=True):
                await opened.wait()
                waiting = iter(group)
                async with anyio.create_task_group() as senders:
                    for stub in stubs * SENDERS:
                        senders.start_soon(self._send_some, stub, waiting)

    async def _send_some(self, stub: TraceServiceStub, waiting: Iterator[ExportTraceServiceRequest]) -> None:
        for request in waiting:
            while not await self._send_one(stub, request):
                self.retries += 1
            self.acknowledged.append(span_ids(request))
            self._progress.set()

    async def _send_one(self, stub: TraceServiceStub, request: ExportTraceServiceRequest) -> bool:
        try:
            await stub.Export(request, timeout=20, wait_for_ready=True)
        except grpc.aio.AioRpcError:
            return False
        return True


def group_of(number: int) -> tuple[list[ExportTraceServiceRequest], Truth]:
    """Requests of some chunks of traces, those of a trace some requests apart, so that a kill tears traces."""
    requests: list[tuple[int, ExportTraceServiceRequest]] = []
    truth: dict[str, Origin] = {}
    start_ns = time.time_ns()
    for chunk in range(CHUNKS):
        first = (number * CHUNKS + chunk) * TRACES
        made, true = simulated(first, TRACES, start_ns + first * 10**6)
        requests += [(chunk + 2 * place, request) for place, request in enumerate(made)]
        truth |= true
    return [request for _, request in sorted(requests, key=lambda pair: pair[0])], truth


def assert_copies_are_identical(spans: list[Received]) -> int:
    """Equal ids, equal bytes; returns how many spans came more than once."""
    versions = defaultdict(list)
    for span in spans:
        versions[span.span_id].append(span.data)
    assert [i for i, data in versions.items() if len(set(data)) > 1] == []
    return sum(len(data) - 1 for data in versions.values())
