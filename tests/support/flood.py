"""More than a receiver can take: requests at a fixed rate, whatever becomes of those before them.

    python -m tests.support.flood --protocol grpc --address 127.0.0.1:4317 --rate 100000 --seconds 10

Arrivals are an open loop: each is due at its time. One that finds every connection waiting for an answer is offered and
not sent (an agent's queue, a sender's buffer); one that is pushed back leaves its body to a later arrival. Prints one
line of JSON. Spans have ids of their own, so that what was acknowledged can be counted again where it comes out.
"""

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import aiohttp
import grpc.aio
import numpy as np
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from bridge.cli.simulation import Request, Simulation

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PATHS = {"http": "/v1/traces", "datakit": "/v1/bpftracing"}
CONTENT_TYPES = {"http": "application/x-protobuf", "datakit": "application/protobuf; proto=com.guance.Point"}
DEADLINE_S = 100.0
CHUNK_TRACES = 1000

Send = Callable[[bytes], Awaitable[str]]
"""Sends a body: "taken", "pushed_back" (with the time to wait), "pushed_back_silently", or what went wrong."""


def bodies(protocol: str, seed: int, batch: int) -> Iterator[Request]:
    """Requests without end, no two spans alike."""
    simulation = Simulation(seed=seed, points=protocol == "datakit", thread_count=100_000)
    for chunk in count():
        starts = time.time_ns() + np.arange(CHUNK_TRACES, dtype=np.int64) * 1000
        yield from simulation.requests(simulation.traces(chunk * CHUNK_TRACES, starts.astype(np.uint64)), batch)


@asynccontextmanager
async def grpc_senders(address: str, connections: int) -> AsyncIterator[list[Send]]:
    async with AsyncExitStack() as stack:
        yield [await _grpc_sender(stack, address) for _ in range(connections)]


async def _grpc_sender(stack: AsyncExitStack, address: str) -> Send:
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
    export = channel.unary_unary(EXPORT)

    async def send(data: bytes) -> str:
        try:
            await export(data, timeout=DEADLINE_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as exc:
            if exc.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
                return exc.code().name
            details = dict(exc.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
            told = [d for d in Status.FromString(bytes(details)).details if d.Is(RetryInfo.DESCRIPTOR)]
            return "pushed_back" if told else "pushed_back_silently"
        return "taken"

    return send


@asynccontextmanager
async def http_senders(protocol: str, address: str, connections: int) -> AsyncIterator[list[Send]]:
    url, headers = f"http://{address}{PATHS[protocol]}", {"Content-Type": CONTENT_TYPES[protocol]}
    connector, timeout = aiohttp.TCPConnector(limit=connections), aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:

        async def send(data: bytes) -> str:
            try:
                async with session.post(url, data=data) as answer:
                    await answer.read()
            except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                return type(exc).__name__
            if answer.status in (429, 503):
                return "pushed_back" if "Retry-After" in answer.headers else "pushed_back_silently"
            return "taken" if answer.status == 200 else f"http_{answer.status}"

        yield [send] * connections


class Flood:
    """What was offered, and what became of it, in spans and requests."""

    def __init__(self, fresh: Iterator[Request], senders: list[Send]) -> None:
        self._fresh, self._again = fresh, deque[Request]()
        self._free = deque(senders)
        self._sending: set[asyncio.Task[None]] = set()
        self.spans: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.late_s = self.elapsed_s = 0.0
        """How far arrivals were behind at most, and how long they were offered."""

    def report(self) -> dict[str, object]:
        """Spans and requests by what became of them; the rest is what `espan-bridge simulate` says, too."""
        odd = set(self.spans) - {"offered", "taken", "pushed_back"}
        return {
            "done": True,
            "spans": self.spans,
            "requests": self.requests["taken"],
            "answers": self.requests,
            "acknowledged": self.spans["taken"],
            "refused": sum(self.spans[answer] for answer in odd),
            "retries": self.requests["pushed_back"],
            "unsent": self.spans["offered"] - self.spans["taken"],
            "late_s": self.late_s,
            "elapsed_s": self.elapsed_s,
        }

    async def run(self, rate: float, seconds: float, batch: int) -> None:
        """Offer this many spans a second, then wait for the answers that are to come."""
        begun = time.monotonic()
        for number in count():
            late_s = time.monotonic() - begun - number * batch / rate
            if number * batch / rate > seconds:
                break
            self.late_s = max(self.late_s, late_s)
            if late_s < 0:
                await asyncio.sleep(-late_s)
            elif not number % 16:
                await asyncio.sleep(0)
            self._offer(batch)
        self.elapsed_s = time.monotonic() - begun
        if self._sending:
            await asyncio.wait(self._sending)

    def _offer(self, batch: int) -> None:
        self.spans["offered"] += batch
        self.requests["offered"] += 1
        if not self._free:
            self.requests["not_sent"] += 1
            return
        request = self._again.popleft() if self._again else next(self._fresh)
        task = asyncio.create_task(self._send(self._free.popleft(), request))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, sender: Send, request: Request) -> None:
        answer = await sender(request.data)
        self._free.append(sender)
        self.spans[answer] += request.spans
        self.requests[answer] += 1
        if answer.startswith("pushed_back"):
            self._again.append(request)


async def flood(args: argparse.Namespace) -> Flood:
    """Everything, from the first connection to the last answer."""
    if args.protocol == "grpc":
        opened = grpc_senders(args.address, args.connections)
    else:
        opened = http_senders(args.protocol, args.address, args.connections)
    async with opened as senders:
        running = Flood(bodies(args.protocol, args.seed, args.batch), senders * args.calls)
        await running.run(args.rate, args.seconds, args.batch)
    return running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=["grpc", "http", "datakit"], required=True)
    parser.add_argument("--address", required=True, help="host:port of the receiver")
    parser.add_argument("--rate", type=float, required=True, help="spans a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=16, help="each with one request under way, or --calls")
    parser.add_argument("--calls", type=int, default=1, help="under way at once on each connection, gRPC")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    begun_ns = time.time_ns()
    made = asyncio.run(flood(args))
    print(json.dumps({**made.report(), "begun_ns": begun_ns, "cpu_s": time.process_time()}), flush=True)


if __name__ == "__main__":
    main()
