"""`espan-bridge simulate`: send eSpans of a made-up system, at a steady rate, and say what became of them."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import IO, Protocol

import anyio
import click
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream

from bridge.cli.agent import Agent
from bridge.cli.call_tree import SHOP, call_tree
from bridge.cli.simulation import THREADS, Request, Simulation
from bridge.cli.span_template import MIN_ATTRIBUTES
from bridge.component import Body
from bridge.config.units import parse_duration
from bridge.errors import PermanentError, RetryableError
from bridge.exporters import NotTaken
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter

CHUNK_S = 0.05
SHORTEST_WAIT_S = 0.002
MOST_LATE_S = 5.0
"""Who is behind by this much at the end of the duration sends no more."""
QUEUED_REQUESTS = 64
BATCH: Mapping[str, int] = {"grpc": 512, "http/protobuf": 512, "datakit": 256}
"""Spans a request, by protocol; 256 is what agents send."""
SENDERS: Mapping[str, Callable[[str, str], "Sender"]] = {
    "grpc": OtlpGrpcExporter,
    "http/protobuf": OtlpHttpExporter,
    "datakit": Agent,
}
GIVE_UP_S = 60.0
"""How long a request is sent again before it counts as refused."""


class Sender(Protocol):
    """What the simulation sends through: an OTLP exporter, or an agent."""

    def running(self) -> AbstractAsyncContextManager[None]: ...

    async def deliver(self, body: Body) -> None: ...


@dataclass(slots=True)
class Tally:
    """What became of the spans."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    retries: int = 0
    requests: int = 0
    latencies_s: list[float] = field(default_factory=list)
    refusal: str = ""
    late_s: float = 0.0
    unsent: int = 0
    """Spans there was no time for."""
    begun_ns: int = 0
    """When the first trace was due, ns since the epoch."""
    elapsed_s: float = 0.0
    cpu_s: float = 0.0

    def as_json(self) -> str:
        """Everything but the single latencies, as one line."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "latencies_s"}
        return json.dumps(values)

    def report(self) -> str:
        """The same for people."""
        took, elapsed_s = np.array(self.latencies_s or [0.0]) * 1000, self.elapsed_s
        lines = [
            f"sent          {self.sent} spans in {self.requests} requests, {elapsed_s:.1f} s",
            f"acknowledged  {self.acknowledged} spans, {self.acknowledged / elapsed_s:.0f} a second",
            f"refused       {self.refused} spans" + (f" (last: {self.refusal})" if self.refusal else ""),
            f"retries       {self.retries}",
            f"latency       p50 {np.percentile(took, 50):.1f} ms, p99 {np.percentile(took, 99):.1f} ms, "
            f"max {took.max():.1f} ms",
            f"cpu           {self.cpu_s:.1f} s, {self.cpu_s / elapsed_s:.0%} of a core, of the sender",
        ]
        if self.late_s > 1:
            lines.append(
                f"behind        {self.late_s:.1f} s behind the rate asked for, {self.unsent} spans not sent: "
                "receiver or sender is the limit"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Load:
    """What to send."""

    rate: float
    """Spans a second."""
    duration_s: float
    batch: int
    connections: int


@click.command("simulate", short_help="Send eSpans of a made-up system.")
@click.option("--endpoint", required=True, metavar="URL", help="Where to send, e.g. http://localhost:4317.")
@click.option(
    "--protocol",
    type=click.Choice(["grpc", "http/protobuf", "datakit"]),
    default="grpc",
    show_default=True,
    help="OTLP over gRPC or HTTP, or points as a DataKit agent posts them.",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), required=True, help="Spans a second.")
@click.option("--duration", required=True, help='How long, e.g. "30s" or "5m".')
@click.option(
    "--batch",
    type=click.IntRange(1, 100_000),
    help="Spans a request, at most; 512, or 256 for datakit, if left out.",
)
@click.option(
    "--connections", type=click.IntRange(1, 256), default=4, show_default=True, help="Requests under way at once."
)
@click.option(
    "--threads",
    type=click.Choice(THREADS),
    default="exact",
    show_default=True,
    help="exact: working thread trace ids; agent: random ones on exits, as current agents send.",
)
@click.option(
    "--trace-spans", type=click.IntRange(2, 20_000), help="Spans a trace; nine, of a made-up shop, if left out."
)
@click.option("--attributes", type=click.IntRange(MIN_ATTRIBUTES, 100), help="Attributes a span; 26 if left out.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same ids.")
@click.option("--truth", type=click.File("w"), help="Write span_id,parent_span_id,trace_id,kind of every span sent.")
@click.option("--json", "as_json", is_flag=True, help="Report as one line of JSON.")
def simulate_command(
    endpoint: str,
    protocol: str,
    rate: float,
    duration: str,
    batch: int | None,
    connections: int,
    threads: str,
    trace_spans: int | None,
    attributes: int | None,
    seed: int,
    truth: IO[str] | None,
    as_json: bool,
) -> None:
    """Send eSpans of a made-up shop (five services, nine spans a trace) at a steady rate.

    Reports how many spans were sent, acknowledged and refused, and how long the receiver took to answer. A request
    that the receiver asks to send again later is sent again, for a minute at most; one it refuses is not. Exit code 1
    where not everything was acknowledged.

    \b
    Examples:
      espan-bridge simulate --endpoint http://localhost:4317 --rate 1000 --duration 30s
      espan-bridge simulate --endpoint http://localhost:4317 --rate 200 --duration 10s --truth truth.csv
      espan-bridge simulate --endpoint http://localhost:4318 --protocol http/protobuf --rate 200 --duration 10s
      espan-bridge simulate --endpoint http://localhost:9529 --protocol datakit --rate 200 --duration 10s
    """
    try:
        load = Load(rate, parse_duration(duration) / 1e9, batch or BATCH[protocol], connections)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--duration") from exc
    simulation = Simulation(
        seed=seed,
        threads=threads,
        points=protocol == "datakit",
        with_span_ids=truth is not None,
        roles=call_tree(trace_spans) if trace_spans else SHOP,
        attributes=attributes,
    )
    simulation = replace(simulation, thread_count=_threads(simulation, rate))
    tally = anyio.run(send, SENDERS[protocol]("simulate", endpoint), simulation, load, truth)
    click.echo(tally.as_json() if as_json else tally.report())
    if tally.acknowledged < tally.sent:
        raise SystemExit(1)


def _threads(simulation: Simulation, rate: float) -> int:
    """Threads a service needs so that one is free again long before its turn comes."""
    traces = rate / len(simulation.roles) * simulation.longest_s * 4 + 64
    return min(int(traces) * simulation.busy_threads, (1 << 20) - 1)


async def send(sender: Sender, simulation: Simulation, load: Load, truth: IO[str] | None) -> Tally:
    """Send at the load's rate; return what became of it."""
    tally = Tally(begun_ns=time.time_ns())
    begun, begun_cpu = time.monotonic(), time.process_time()
    if truth is not None:
        truth.write("span_id,parent_span_id,trace_id,kind\n")
    async with sender.running(), anyio.create_task_group() as group:
        give, take = anyio.create_memory_object_stream[Request](QUEUED_REQUESTS)
        for _ in range(load.connections):
            group.start_soon(_deliver, sender, take.clone(), tally)
        take.close()
        async with give:
            await _produce(simulation, load, truth, tally, give.send)
    tally.elapsed_s, tally.cpu_s = time.monotonic() - begun, time.process_time() - begun_cpu
    return tally


async def _produce(
    simulation: Simulation, load: Load, truth: IO[str] | None, tally: Tally, put: Callable[[Request], Awaitable[None]]
) -> None:
    """Hand out the requests of each chunk when its time has come, evenly over the time that the next one takes.

    A chunk is long enough to fill requests of the batch size, and at most a second. Ends with the duration, or soon
    after it where the receiver does not keep up.
    """
    traces_a_second = load.rate / len(simulation.roles)
    filling_s = load.batch / simulation.fewest / traces_a_second
    chunk_s = min(1.0, load.duration_s, max(CHUNK_S, filling_s))
    begun, made, at_s = time.monotonic(), 0, 0.0
    while at_s < load.duration_s:
        if time.monotonic() - begun > load.duration_s + MOST_LATE_S:
            tally.unsent = (round(load.duration_s * traces_a_second) - made) * len(simulation.roles)
            break
        until_s = min(at_s + chunk_s, load.duration_s)
        n = round(until_s * traces_a_second) - made
        if n:
            starts = tally.begun_ns + ((made + np.arange(n)) / traces_a_second * 1e9).astype(np.int64)
            traces = simulation.traces(made, starts.astype(np.uint64))
            if truth is not None:
                truth.writelines(f"{line}\n" for line in simulation.truth(traces))
            requests = list(simulation.requests(traces, load.batch))
            for i, request in enumerate(requests):
                early_s = begun + until_s + chunk_s * i / len(requests) - time.monotonic()
                if early_s > SHORTEST_WAIT_S:
                    await anyio.sleep(early_s)
                await put(request)
        tally.late_s = max(tally.late_s, time.monotonic() - begun - until_s - chunk_s)
        made, at_s = made + n, until_s


async def _deliver(sender: Sender, requests: MemoryObjectReceiveStream[Request], tally: Tally) -> None:
    async with requests:
        async for request in requests:
            tally.sent += request.spans
            tally.requests += 1
            started = time.monotonic()
            try:
                await _until_taken(sender, request, tally)
            except PermanentError as exc:
                tally.refused, tally.refusal = tally.refused + request.spans, str(exc)
            else:
                tally.acknowledged += request.spans
            tally.latencies_s.append(time.monotonic() - started)


async def _until_taken(sender: Sender, request: Request, tally: Tally) -> None:
    """Send a request until it is taken. Raises PermanentError where it is refused, or was not taken for too long."""
    give_up = time.monotonic() + GIVE_UP_S
    while True:
        try:
            return await sender.deliver(Body(request.data, request.spans))
        except RetryableError as exc:
            if isinstance(exc, NotTaken) and exc.settings:
                raise PermanentError(str(exc)) from exc
            if time.monotonic() > give_up:
                raise PermanentError(f"not taken within {GIVE_UP_S:g} s: {exc}") from exc
            tally.retries += 1
            await anyio.sleep(exc.retry_after_s or 1.0)
