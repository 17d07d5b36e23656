"""An ingest process, in this one: real receivers, a real file, and the bridge's end of the channel in our hands."""

import logging
import re
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
import pytest

from bridge.config import Settings, load
from bridge.pipeline.messages import Channel, Drop, Dropped, Failed, Listen, Load, Prepared, Ready, Report, Start, Stop
from bridge.pipeline.worker import Worker, work
from bridge.receivers.addresses import reserve
from bridge.store import SqliteStore
from bridge.telemetry import Instruments
from bridge.telemetry.metrics import running_metrics
from bridge.telemetry.relay import add_counts
from tests.support.bridge_parts import START_NS
from tests.support.bridge_process import Setup
from tests.support.senders import simulated

SPANS = 9
"""Of a simulated trace."""
MAX_WAITING = 100
WAIT_S = 10.0


@dataclass
class Driver:
    """What a worker meets: senders, and the bridge's process."""

    url: str
    channel: Channel
    store: SqliteStore
    traces: int = 0

    async def post(self, traces: int) -> int:
        """Send so many traces, one request; its status."""
        requests, _ = simulated(self.traces, traces, START_NS)
        self.traces += traces
        for request in requests[1:]:
            requests[0].MergeFrom(request)
        async with aiohttp.ClientSession() as session:
            headers = {"Content-Type": "application/x-protobuf"}
            async with session.post(self.url, data=requests[0].SerializeToString(), headers=headers) as answer:
                return answer.status

    async def answered(self, status: int, traces: int) -> None:
        """Return once a request of so many traces is answered so."""
        with anyio.fail_after(WAIT_S):
            while await self.post(traces) != status:
                await anyio.lowlevel.checkpoint()

    async def told(self, kind: type[Report] | type[Dropped]) -> Report | Dropped:
        """The next message of this kind."""
        with anyio.fail_after(WAIT_S):
            while not isinstance(message := await self.channel.receive(), kind):
                assert message is not None
            return message


def settings_in(folder: Path, port: int) -> Settings:
    setup = Setup(folder, workers=2).export_to_file(folder / "out.jsonl")
    setup.ports["http"] = port
    settings = load((setup.write(),), {}).settings
    return settings.model_copy(update={"linker": settings.linker.model_copy(update={"max_waiting_spans": MAX_WAITING})})


@asynccontextmanager
async def driven(folder: Path) -> AsyncIterator[Driver]:
    """A worker that is ready, and stops in the end."""
    store = SqliteStore(folder / "store", ingest_processes=1, lock_wait_s=0, instruments=Instruments())
    ours, theirs = socket.socketpair()
    with closing(reserve("127.0.0.1", 0)) as kept:
        port = kept.getsockname()[1]
        async with store.running(), anyio.create_task_group() as tasks:
            channel, end = await Channel.over(ours), await Channel.over(theirs)
            tasks.start_soon(Worker(Start(1, 2, settings_in(folder, port), 0, 0, MAX_WAITING, 1 << 30), end).run)
            assert await channel.receive() == Prepared()
            await channel.send(Listen())
            assert await channel.receive() == Ready()
            yield Driver(f"http://127.0.0.1:{port}/v1/traces", channel, store)
            await channel.send(Stop())
        await end.close()
        await channel.close()


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """An ingest process sets up logging for all of its process."""
    root, bridge = logging.getLogger(), logging.getLogger("bridge")
    handlers, levels = list(root.handlers), (root.level, bridge.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    bridge.setLevel(levels[1])
    logging.captureWarnings(False)


@pytest.mark.usefixtures("logging_as_it_was")
async def test_what_only_trying_shows_is_told(tmp_path: Path) -> None:
    """The bridge's process then ends the start with it, as it does without ingest processes."""
    ours, theirs = socket.socketpair()
    (tmp_path / "store").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        channel = await Channel.over(ours)
        await channel.send(Start(1, 2, settings_in(tmp_path, port), 0, 0, MAX_WAITING, 1 << 30))
        await channel.send(Listen())
        assert await work(theirs) == 1
        assert await channel.receive() == Prepared()
        failed = await channel.receive()
    await channel.close()
    assert isinstance(failed, Failed)
    assert re.fullmatch(rf"otlp_http: cannot listen on 127\.0\.0\.1:{port}: .* in use", failed.reason)


async def test_what_waits_in_the_linker_pushes_senders_back(tmp_path: Path) -> None:
    """Until it waits no more; a batch is taken whatever its size when nothing waits."""
    async with driven(tmp_path) as worker:
        await worker.channel.send(Load(0, MAX_WAITING - SPANS + 1, may_wait=MAX_WAITING))
        await worker.answered(429, 1)
        last = (await worker.store.arrivals() or [None])[-1]
        await worker.channel.send(Load(last.number if last else 0, 0, may_wait=MAX_WAITING))
        await worker.answered(200, 20)


async def test_what_the_linker_has_not_seen_counts_once_for_each_process(tmp_path: Path) -> None:
    """The others are taken to have as much of it: none hears of the others at once."""
    async with driven(tmp_path) as worker:
        assert await worker.post(MAX_WAITING // SPANS // 2) == 200
        await worker.channel.send(Load(0, 0, may_wait=MAX_WAITING))
        await worker.answered(429, 2)
        (arrival, *_) = await worker.store.arrivals()
        await worker.channel.send(Load(arrival.number + MAX_WAITING, 0, may_wait=MAX_WAITING))
        await worker.answered(200, 2)


async def test_it_drops_what_it_is_told_to(tmp_path: Path) -> None:
    """And says so once that is committed."""
    async with driven(tmp_path) as worker:
        assert await worker.post(1) == 200
        (arrival,) = await worker.store.arrivals()
        await worker.channel.send(Drop(7, [arrival.number], [arrival.number]))
        assert await worker.told(Dropped) == Dropped(7, "")
        with closing(sqlite3.connect(tmp_path / "store" / "ingest-1.db")) as connection:
            assert connection.execute("SELECT count(*) FROM batch").fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM payload").fetchone() == (0,)


async def test_what_it_counts_is_added_up_elsewhere(tmp_path: Path) -> None:
    """Counters and histograms, with their attributes; those that have counted nothing yet appear, too."""
    async with driven(tmp_path) as worker:
        assert await worker.post(1) == 200
        with running_metrics("0") as metrics:
            instruments = Instruments(metrics.meter)
            for _ in range(2):  # what came in a report while the request was under way, and what came after it
                report = await worker.told(Report)
                assert isinstance(report, Report)
                add_counts(instruments, report.counts)
                lines = metrics.prometheus_text().decode().splitlines()
                if f'receiver_accepted_spans_total{{receiver="otlp_http"}} {SPANS}.0' in lines:
                    break
    assert f'receiver_accepted_spans_total{{receiver="otlp_http"}} {SPANS}.0' in lines
    assert 'receiver_accepted_spans_total{receiver="otlp_grpc"} 0.0' in lines
    assert "store_commit_duration_seconds_count 1.0" in lines


async def test_it_says_that_it_cannot_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that it can again."""
    monkeypatch.setattr("bridge.store.engines.BUSY_S", 0.02)
    async with driven(tmp_path) as worker:
        with closing(sqlite3.connect(tmp_path / "store" / "ingest-1.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await worker.post(1) == 503
            report = await worker.told(Report)
            assert isinstance(report, Report)
            assert "locked" in report.unavailable
        assert await worker.post(1) == 200
        report = await worker.told(Report)
        assert isinstance(report, Report)
        assert report.unavailable == ""
