"""eSpans from several senders that send again what was not acknowledged, and remember exactly what was.

OTLP senders (gRPC, HTTP) send a request until it is taken. A DataKit agent sends each body once, whatever becomes of
it, as the real one does: what it had no 200 for is lost in its own eyes. After that it pings until somebody is there,
so that not all of what is made while nobody listens is lost.
"""

import itertools
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp
import anyio
import grpc
import grpc.aio
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bridge.cli.simulation import Simulation
from tests.bench import dataway_sink
from tests.support.agent import PATH, PROTOBUF
from tests.support.senders import CHANNEL
from tests.support.sink import span_ids

U64 = NDArray[np.uint64]

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
EVERY_S = 0.1
SENDERS = {"grpc": 3, "http": 3, "datakit": 4}
OTLP_SPANS, POINTS = 512, 8
"""Of a request at most. So few points, that those of a trace come in several bodies."""
QUEUED = 32
AGAIN_S = 0.03
ANSWER_S = 20.0
RETRYABLE = {
    *(f"grpc {code}" for code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED", "DEADLINE_EXCEEDED")),
    *(f"http {status}" for status in (429, 502, 503, 504)),
    "datakit 503",
    *(f"{protocol} connection" for protocol in SENDERS),
}
"""Answers that a bridge which goes and comes may give; any other makes a sender throw its spans away."""


@dataclass(slots=True, eq=False)
class Sent:
    """One request. Times are seconds since the epoch."""

    protocol: str
    data: bytes
    ids: U64
    traces: U64
    """Of each id: the number of its trace."""
    first_s: float = 0.0
    """When it was sent first."""
    acknowledged_s: float = float("inf")


@dataclass(slots=True, eq=False)
class Truth:
    """What is true of every span made, sorted by its id."""

    ids: U64
    traces: U64
    parents: U64
    """0 at a root."""


@dataclass(eq=False)
class Stream:
    """Traces at a steady rate, each in several requests, until told to stop."""

    seed: int
    traces_a_second: float
    ports: Mapping[str, int]
    protocols: tuple[str, ...] = ("grpc", "http", "datakit")
    sent: list[Sent] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """How often each was given, other than success."""
    acknowledged: int = 0
    """Spans."""

    def __post_init__(self) -> None:
        self._stop = anyio.Event()
        self.finished = False
        """Whether all that was made was sent."""
        self._made: list[tuple[U64, U64, U64]] = []
        self._simulations = {
            points: Simulation(seed=self.seed, points=points, with_span_ids=True) for points in (False, True)
        }
        self._otlp = itertools.cycle([p for p in self.protocols if p != "datakit"])

    def stop(self) -> None:
        """Make no more; what was made is still sent."""
        self._stop.set()

    def truth(self) -> Truth:
        """Of everything made."""
        ids, traces, parents = (np.concatenate(parts) for parts in zip(*self._made, strict=True))
        order = np.argsort(ids)
        return Truth(ids[order], traces[order], parents[order])

    async def run(self) -> None:
        """Send until stopped and everything was sent."""
        queues = {protocol: anyio.create_memory_object_stream[Sent](QUEUED) for protocol in self.protocols}
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            for protocol, (_, waiting) in queues.items():
                for _ in range(SENDERS[protocol]):
                    tasks.start_soon(self._send_all, protocol, waiting.clone())
                waiting.close()
            givers = {protocol: await stack.enter_async_context(give) for protocol, (give, _) in queues.items()}
            await self._make(givers)
        self.finished = True

    async def _make(self, givers: Mapping[str, MemoryObjectSendStream[Sent]]) -> None:
        last, made, points = time.monotonic(), 0, False
        while not self._stop.is_set():
            # what was held up is not made up for: senders that cannot send have less to tell
            now = time.monotonic()
            due = max(1, round(min(now - last, 2 * EVERY_S) * self.traces_a_second))
            last = now
            for request in self._requests(made, due, points):
                await givers[request.protocol].send(request)
            made += due
            points = "datakit" in self.protocols and not points
            with anyio.move_on_after(EVERY_S):
                await self._stop.wait()

    def _requests(self, first: int, n: int, points: bool) -> list[Sent]:
        simulation = self._simulations[points]
        starts = np.uint64(time.time_ns()) + np.arange(n, dtype=np.uint64) * np.uint64(10**6)
        traces = simulation.traces(first, starts)
        numbers = np.arange(first, first + n, dtype=np.uint64)
        parents = np.stack(
            [traces.span_id[r.parent] if r.parent >= 0 else np.zeros(n, np.uint64) for r in simulation.roles]
        )
        ids, of = traces.span_id.reshape(-1), np.tile(numbers, len(simulation.roles))
        self._made.append((ids, of, parents.reshape(-1)))
        order = np.argsort(ids)
        requests = []
        for made in simulation.requests(traces, POINTS if points else OTLP_SPANS):
            own = dataway_sink.span_ids(made.data) if points else span_ids(made.data)
            assert own.size == made.spans
            of_own = of[order[np.searchsorted(ids, own, sorter=order)]]
            protocol = "datakit" if points else next(self._otlp)
            requests.append(Sent(protocol, made.data, own, of_own))
        return requests

    async def _send_all(self, protocol: str, waiting: MemoryObjectReceiveStream[Sent]) -> None:
        address = f"127.0.0.1:{self.ports[protocol]}"
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(waiting)
            sender = await stack.enter_async_context(_Grpc(address) if protocol == "grpc" else _Http(address, protocol))
            async for request in waiting:
                await self._send(protocol, sender, request)

    async def _send(self, protocol: str, sender: "_Grpc | _Http", request: Sent) -> None:
        request.first_s = time.time()
        self.sent.append(request)
        while (answer := await sender.send(request.data)) != "ok":
            self.answers[f"{protocol} {answer}"] += 1
            if isinstance(sender, _Http) and protocol == "datakit":
                while not await sender.ping():  # noqa: ASYNC110 -- of another process's doing
                    await anyio.sleep(AGAIN_S)
                break
            await anyio.sleep(AGAIN_S)
        else:
            request.acknowledged_s = time.time()
            self.acknowledged += request.ids.size
        request.data = b""


class _Grpc:
    """A connection of its own."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, CHANNEL)
        self._export = self._channel.unary_unary(EXPORT, response_deserializer=ExportTraceServiceResponse.FromString)

    async def __aenter__(self) -> "_Grpc":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(self, data: bytes) -> str:
        """What became of a request: "ok" or why not."""
        try:
            response = await self._export(data, timeout=ANSWER_S)
        except grpc.aio.AioRpcError as exc:
            return exc.code().name
        return "rejected" if response.partial_success.rejected_spans else "ok"


class _Http:
    """The same over HTTP, of OTLP or points."""

    def __init__(self, address: str, protocol: str) -> None:
        datakit = protocol == "datakit"
        self._url = f"http://{address}{PATH if datakit else '/v1/traces'}"
        self._ping_url = f"http://{address}/v1/ping"
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_S),
            headers={"Content-Type": PROTOBUF if datakit else "application/x-protobuf"},
        )

    async def __aenter__(self) -> "_Http":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, data: bytes) -> str:
        """What became of a request: "ok" or why not."""
        try:
            async with self._session.post(self._url, data=data) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return "connection"
        if response.status != 200:
            return str(response.status)
        # the answer to OTLP is empty where every span was taken
        return "rejected" if body else "ok"

    async def ping(self) -> bool:
        """Whether there is somebody."""
        try:
            async with self._session.get(self._ping_url) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
