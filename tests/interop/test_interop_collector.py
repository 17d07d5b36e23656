"""A bridge between two real OpenTelemetry Collectors: what went into the first comes out of the second."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest

from tests.interop.collectors import Collector
from tests.interop.sending import post
from tests.support.bridge_process import Bridge, Setup, running, started
from tests.support.received import Origin, Received, Truth, read_truth, score, spans_of_lines
from tests.support.senders import BOUTIQUE, recorded_lines, simulated, stock_stub

ARRIVED_S = 120.0
LOOK_AGAIN_S = 0.2
TRACES = 1_000
RECORDED = read_truth(BOUTIQUE / "truth.csv")
EXPORTERS = {
    "otlp_grpc": ("otlp_grpc", ""),
    "otlp_http, protobuf, gzip": ("otlp_http", ""),
    "otlp_http, JSON, zstd": ("otlp_http", "    encoding: json\n    compression: zstd\n"),
}
"""How the Collector upstream sends: its exporter, and settings beside the address."""


def arrived(downstream: Collector) -> list[Received]:
    """What the Collector downstream has written so far, whole lines only."""
    text = downstream.traces.read_text() if downstream.traces.exists() else ""
    return list(spans_of_lines(text[: text.rfind("\n") + 1].splitlines()))


async def all_arrived(downstream: Collector, truth: Truth) -> list[Received]:
    """Everything it has, copies included, once every span is there."""
    with anyio.move_on_after(ARRIVED_S):
        while True:
            spans = arrived(downstream)
            if truth.keys() <= {span.span_id for span in spans}:
                return spans
            await anyio.sleep(LOOK_AGAIN_S)
    missing = len(truth.keys() - {span.span_id for span in spans})
    raise AssertionError(f"{missing} of {len(truth)} spans did not arrive in {ARRIVED_S:g} s")


async def send(truth: dict[str, Origin], first: int, port: int) -> None:
    """Send simulated traces number `first` and on to a Collector, and note their truth."""
    requests, origins = simulated(first, TRACES, time.time_ns())
    truth.update(origins)
    async with stock_stub(f"127.0.0.1:{port}") as stub:
        for request in requests:
            await stub.Export(request)


@asynccontextmanager
async def chain(
    folder: Path, binary: Path, bridge: Bridge, downstream: Collector, how: str
) -> AsyncIterator[Collector]:
    """A Collector that sends to the bridge, and the one the bridge exports to."""
    name, extra = EXPORTERS[how]
    address = bridge.address(name)
    upstream = Collector(folder / "upstream").sending(
        name, address if name == "otlp_grpc" else f"http://{address}", extra
    )
    async with downstream.running(binary), upstream.running(binary):
        yield upstream


@pytest.mark.parametrize("how", EXPORTERS)
async def test_recorded_espans_pass_two_collectors_whole(tmp_path: Path, collector_program: Path, how: str) -> None:
    """Collector -> bridge -> Collector: each span once, under its true parent, whichever exporter sends."""
    downstream = Collector(tmp_path / "downstream").writing()
    back = ("one", "otlp_grpc", downstream.grpc) if how == "otlp_grpc" else ("one", "otlp_http", downstream.http)
    async with (
        running(Setup(tmp_path, window="3s").export_to(*back)) as bridge,
        chain(tmp_path, collector_program, bridge, downstream, how) as upstream,
    ):
        await post(recorded_lines("agent"), f"http://127.0.0.1:{upstream.http}")
        result = score(RECORDED, await all_arrived(downstream, RECORDED))
    assert (result.delivered, result.copies, result.unknown) == (len(RECORDED), 0, 0)
    assert (result.recall, result.precision, result.whole_traces) == (1.0, 1.0, 1.0)


def pushing_back(config: Path, spans: int) -> None:
    """Let so few spans wait in the bridge that it pushes senders back."""
    text = config.read_text()
    config.write_text(text.replace("[linker]\n", f"[linker]\nmax_waiting_spans = {spans}\n", 1))


@pytest.mark.parametrize("how", ["otlp_grpc", "otlp_http, protobuf, gzip"])
async def test_nothing_is_lost_while_the_bridge_is_overloaded_and_killed(
    tmp_path: Path, collector_program: Path, how: str
) -> None:
    """The Collector keeps what the bridge pushes back, or does not answer; sent == received at the other end."""
    downstream = Collector(tmp_path / "downstream").writing()
    setup = Setup(tmp_path, window="1s").export_to("one", "otlp_grpc", downstream.grpc)
    truth: dict[str, Origin] = {}
    config = setup.write()
    pushing_back(config, 4_000)
    async with started(config) as first:
        await first.ready()
        setup.keep_ports(first)
        async with chain(tmp_path, collector_program, first, downstream, how) as upstream:
            await send(truth, 0, upstream.grpc)
            await first.kill()
            await send(truth, TRACES, upstream.grpc)
            config = setup.write()
            pushing_back(config, 4_000)
            async with started(config) as second:
                await second.ready()
                await send(truth, 2 * TRACES, upstream.grpc)
                spans = await all_arrived(downstream, truth)
                refused = await counted(second, "receiver_refused_requests_total", 'reason="throttled"')
    assert {span.span_id for span in spans} == truth.keys()
    assert refused > 0, "the bridge was never overloaded: this showed nothing"


async def counted(bridge: Bridge, name: str, labels: str) -> float:
    """Sum of a counter of the bridge, over all series with these labels."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{bridge.address('web')}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{") and labels in line)
