"""Senders that go on until they are told to stop: OpenTelemetry's own stub and DataKit agents, and what each was told.

A request is sent until it is acknowledged, as OTLP senders do with what may be tried again; a DataKit body that is
refused is lost, as agents have it.
"""

import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import anyio
import grpc.aio
from anyio.abc import TaskGroup
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.agent import HOSTS, PATH, Key, agent, traffic
from tests.support.received import spans_of
from tests.support.senders import simulated, span_ids, stock_stub
from tests.support.sink import Sink

TRACES = 20
"""Of a chunk: five requests, or two bodies."""
AGAIN_S = 0.2
DEADLINE_S = 30.0


@dataclass
class SteadyLoad:
    """What was acknowledged, and what senders were told instead."""

    pause_s: float = 0.02
    spans: set[str] = field(default_factory=set)
    """Ids of acknowledged OTLP spans."""
    points: set[Key] = field(default_factory=set)
    """Acknowledged DataKit points."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Texts of refused OTLP requests."""
    refused_bodies: Counter[str] = field(default_factory=Counter)
    """Texts of refused DataKit bodies."""
    lasting: list[str] = field(default_factory=list)
    """Refusals after which a stock sender would have dropped the data."""
    _chunks: "itertools.count[int]" = field(default_factory=itertools.count)
    pushed_back: int = 0
    """How often OTLP requests were refused."""
    _stopping: bool = False
    _told: anyio.Event = field(default_factory=anyio.Event)
    _acknowledged: anyio.Event = field(default_factory=anyio.Event)

    @property
    def acknowledged(self) -> int:
        """Spans of both kinds."""
        return len(self.spans) + len(self.points)

    async def more(self, spans: int = 500) -> None:
        """Return once so many further spans were acknowledged."""
        wanted = self.acknowledged + spans
        while self.acknowledged < wanted:
            await self._acknowledged.wait()

    async def refused(self, text: str) -> None:
        """Return once an OTLP sender was refused with a text that has this in it."""
        while not any(text in told for told in self.refusals):
            await self._told.wait()

    @asynccontextmanager
    async def sending(self, otlp: str, datakit: str = "", senders: int = 2) -> AsyncIterator[None]:
        """Send to these addresses while the context is open; leaving it waits until all is acknowledged or refused."""
        self._stopping = False
        async with anyio.create_task_group() as tasks:
            for _ in range(senders):
                tasks.start_soon(self._send_spans, otlp)
            if datakit:
                self._start_agents(tasks, datakit)
            try:
                yield
            finally:
                self._stopping = True

    def _start_agents(self, tasks: TaskGroup, address: str) -> None:
        for host in HOSTS:
            tasks.start_soon(self._send_points, address, host)

    async def _send_spans(self, address: str) -> None:
        async with stock_stub(address) as stub:
            while not self._stopping:
                requests, _ = simulated(next(self._chunks) * TRACES, TRACES, time.time_ns())
                for request in requests:
                    await self._send(stub, request)
                    self.spans.update(span_ids(request))
                    self._tell()
                    await anyio.sleep(self.pause_s)

    async def _send(self, stub: object, request: ExportTraceServiceRequest) -> None:
        while True:
            if await self._export(stub, request):
                return
            await anyio.sleep(AGAIN_S)

    async def _export(self, stub: object, request: ExportTraceServiceRequest) -> bool:
        try:
            await stub.Export(request, timeout=DEADLINE_S, wait_for_ready=True)  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError as exc:
            self.refusals[f"{exc.code().name}: {exc.details()}"] += 1
            self.pushed_back += 1
            self._told.set()
            self._told = anyio.Event()
            status = dict(exc.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
            details = Status.FromString(status).details if isinstance(status, bytes) else []
            if exc.code() != grpc.StatusCode.UNAVAILABLE and not any(d.Is(RetryInfo.DESCRIPTOR) for d in details):
                self.lasting.append(f"{exc.code().name}: {exc.details()}")
            return False
        return True

    async def _send_points(self, address: str, host: str) -> None:
        async with agent(address, host) as session:
            while not self._stopping:
                made = traffic(TRACES, start_ns=time.time_ns(), seed=next(self._chunks) + (1 << 20))
                (body,) = made.bodies[host]
                try:
                    async with session.post(PATH, data=body) as answer:
                        text = await answer.text()
                except aiohttp.ClientError as exc:
                    self.refused_bodies[repr(exc)] += 1
                    await anyio.sleep(AGAIN_S)
                    continue
                if answer.status == 200:
                    self.points.update(key for key, of in made.host.items() if of == host)
                    self._tell()
                else:
                    self.refused_bodies[f"{answer.status}: {text}"] += 1
                await anyio.sleep(self.pause_s * 4)

    def _tell(self) -> None:
        self._acknowledged.set()
        self._acknowledged = anyio.Event()

    def missing(self, sink: Sink) -> int:
        """How many acknowledged spans did not come out."""
        ids, keys = set(), set()
        for span in spans_of(sink.bodies):
            ids.add(span.span_id)
            values = {a.key: a.value for a in Span.FromString(span.data).attributes}
            keys.add((values["req_seq"].int_value, values["resp_seq"].int_value, values["direction"].string_value))
        return len(self.spans - ids) + len(self.points - keys)

    async def delivered(self, sink: Sink, within_s: float) -> int:
        """Wait until every acknowledged span came out, at most so long; how many did not."""
        with anyio.move_on_after(within_s):
            while True:
                sink.arrived.clear()
                if sink.totals().distinct >= self.acknowledged and not self.missing(sink):
                    return 0
                await sink.arrived.wait()
        return self.missing(sink)
