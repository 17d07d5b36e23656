"""Several ingest processes: traces torn over them, kill -9 of any process, other numbers of them from run to run."""

import itertools
import os
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import aiohttp
import anyio
import psutil
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.conftest import Delivered
from tests.support.bridge_process import Bridge, Setup, running, started
from tests.support.received import score
from tests.support.senders import simulated, span_ids
from tests.support.sink import running_sink
from tests.support.streams import SENDERS, Stream, assert_copies_are_identical, group_of

TRACES = 25
CONNECTIONS = 8
WAIT_S = 20.0


def spans_in(path: Path) -> int:
    """How many spans a database holds."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT coalesce(sum(spans), 0) FROM batch").fetchone()[0])


async def post(bridge: Bridge, request: ExportTraceServiceRequest) -> int:
    """Send a request over a connection of its own; its status."""
    url, headers = f"http://{bridge.address('otlp_http')}/v1/traces", {"Content-Type": "application/x-protobuf"}
    data = request.SerializeToString()
    async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=headers) as answer:
        return answer.status


async def stopped_under_load(bridge: Bridge) -> int:
    """SIGTERM while several senders send without a pause; how many spans of theirs were acknowledged."""
    requests, _ = simulated(TRACES, TRACES, time.time_ns())
    acknowledged, first = 0, anyio.Event()

    async def send() -> None:
        nonlocal acknowledged
        for request in itertools.cycle(requests):
            try:
                if await post(bridge, request) == 200:
                    acknowledged += len(span_ids(request))
                    first.set()
            except aiohttp.ClientError:
                return  # nobody listens any more

    async with anyio.create_task_group() as senders:
        for _ in range(SENDERS):
            senders.start_soon(send)
        await first.wait()
        assert await bridge.stop() == 0
    return acknowledged


async def shown(bridge: Bridge, pattern: str) -> None:
    """Return once /metrics has such a line."""
    with anyio.fail_after(WAIT_S):
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{bridge.address('web')}/metrics") as answer:
                    if re.search(pattern, await answer.text(), re.M):
                        return
                await anyio.sleep(0.05)


async def ready_says(bridge: Bridge, text: str) -> None:
    """Return once /readyz says so."""
    with anyio.fail_after(WAIT_S):
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{bridge.address('web')}/readyz") as answer:
                    if text in await answer.text():
                        return
                await anyio.sleep(0.02)


async def ended(pids: list[int]) -> None:
    """Return once none of these processes runs."""
    with anyio.fail_after(WAIT_S):
        while any(psutil.pid_exists(pid) for pid in pids):  # noqa: ASYNC110 -- other processes
            await anyio.sleep(0.02)


async def test_traces_torn_over_two_processes_come_out_whole(tmp_path: Path, delivered: Delivered) -> None:
    """Each request over a connection of its own, so that both processes have spans of every trace. The counters are
    sums over the processes, a second bridge on the ports fails as ever, and a stop under load keeps what was
    acknowledged and leaves no process behind."""
    made = [simulated(trace, 1, time.time_ns()) for trace in range(TRACES)]
    truth = {span_id: origin for _, true in made for span_id, origin in true.items()}
    async with running_sink() as sink:
        setup = Setup(tmp_path, workers=2).export_to("a", "otlp_grpc", sink.grpc_port)
        async with running(setup) as bridge:
            for requests, _ in made:
                for request in requests:
                    assert await post(bridge, request) == 200
            spans = await delivered(sink, len(truth))
            assert spans_in(tmp_path / "store" / "ingest-1.db") > 0
            assert spans_in(tmp_path / "store" / "ingest-2.db") > 0
            result = score(truth, spans)
            assert (result.recall, result.precision, result.whole_traces, result.unknown) == (1.0, 1.0, 1.0, 0)
            await shown(bridge, rf'^receiver_accepted_spans_total{{receiver="otlp_http"}} {len(truth)}\.0$')
            await shown(bridge, r"^store_commit_duration_seconds_count [1-9]")
            await ready_says(bridge, "ready")
            assert next(event for event in bridge.log if event["message"] == "ready")["workers"] == 2

            (tmp_path / "other").mkdir()
            other = Setup(tmp_path / "other", workers=2).export_to_file(tmp_path / "out")
            other.ports["grpc"] = int(bridge.address("otlp_grpc").rpartition(":")[2])
            async with started(other.write()) as second:
                assert await second.ended() == 2
            assert "in use" in second.text

            acknowledged = await stopped_under_load(bridge)
            assert acknowledged > 0
            await ended(list(bridge.workers().values()))
        # late_window keeps the keys of what has left
        stored = [spans_in(tmp_path / "store" / f"ingest-{number}.db") for number in (1, 2)]
        assert sum(stored) >= len(truth) + acknowledged


async def test_kill_9_of_any_process_and_other_numbers_of_them_lose_nothing(
    tmp_path: Path, delivered: Delivered
) -> None:
    """Under load an ingest process is killed, then the bridge's own; the next life is a bridge of one process, and the
    last has two again. The window is longer than an ingest process takes to come back: what its senders send again then
    still finds its trace."""
    groups = [group_of(number) for number in range(3)]
    truth = {span_id: origin for _, part in groups for span_id, origin in part.items()}
    ends = [sum(len(requests) for requests, _ in groups[: n + 1]) for n in range(3)]
    stream = Stream([requests for requests, _ in groups])
    stream.let_go(0)
    async with running_sink(["ok", "lost"] * 10) as sink, anyio.create_task_group() as tasks:
        setup = Setup(tmp_path, workers=2, window="5s").export_to("a", "otlp_grpc", sink.grpc_port)
        async with running(setup) as bridge:
            setup.keep_ports(bridge)
            first = bridge.workers()
            tasks.start_soon(stream.send, bridge.address("otlp_grpc"), CONNECTIONS)
            await stream.reached(ends[0] // 3)
            os.kill(first[1], signal.SIGKILL)
            await ready_says(bridge, "ingest process 1 is not running")
            await bridge.logged("an ingest process has started", times=3)
            await ready_says(bridge, "ready")
            await shown(bridge, r'^ingest_process_restarts_total{worker="1"} 1\.0$')
            await stream.reached(ends[0])
            stream.let_go(1)
            await stream.reached((ends[0] + ends[1]) // 2)
            await bridge.kill()
            await ended(list(bridge.workers().values()))
        setup.workers = 1
        async with running(setup) as bridge:
            await stream.reached(ends[1])
            stream.let_go(2)
            await stream.reached((ends[1] + ends[2]) // 2)
            assert await bridge.stop() == 0
        setup.workers = 2
        async with running(setup) as bridge:
            await stream.reached(ends[2])
            spans = await delivered(sink, len(truth))
            assert await bridge.stop() == 0
    assert_copies_are_identical(spans)
    assert {i for ids in stream.acknowledged for i in ids} == set(truth)
    result = score(truth, spans)
    assert (result.recall, result.precision, result.whole_traces, result.unknown) == (1.0, 1.0, 1.0, 0)
