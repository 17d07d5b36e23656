"""Ingest processes that hang, that cannot start, and whose bridge is gone."""

import os
import signal
import socket
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import anyio
import psutil
import pytest

from tests.support.bridge_process import Bridge, Setup, running, started
from tests.support.senders import simulated, span_ids
from tests.support.sink import running_sink

WAIT_S = 60.0
ENDED = "an ingest process ended; it is started again"
STARTED = "an ingest process has started"
PROTOBUF = {"Content-Type": "application/x-protobuf"}


async def page(bridge: Bridge, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{bridge.address('web')}{path}") as answer:
        return await answer.text()


async def shown(bridge: Bridge, path: str, text: str) -> None:
    """Return once this text is on the page."""
    with anyio.fail_after(WAIT_S):
        while text not in await page(bridge, path):  # noqa: ASYNC110 -- of another process's doing
            await anyio.sleep(0.05)


async def post(bridge: Bridge, data: bytes) -> int:
    """The status a request gets on a connection of its own; 0 where the connection ended without one."""
    try:
        url = f"http://{bridge.address('otlp_http')}/v1/traces"
        async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=PROTOBUF) as answer:
            return answer.status
    except aiohttp.ClientError:
        return 0


async def taken(bridge: Bridge, data: bytes) -> None:
    """Send a request until it is taken."""
    with anyio.fail_after(WAIT_S):
        while await post(bridge, data) != 200:  # noqa: ASYNC110 -- of another process's doing
            await anyio.sleep(0.05)


async def gone(processes: list[psutil.Process]) -> None:
    """Return once none of them runs."""
    with anyio.fail_after(WAIT_S):
        for process in processes:
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 -- other processes
                await anyio.sleep(0.01)


async def test_an_ingest_process_that_hangs_is_killed_counted_and_started_again(tmp_path: Path) -> None:
    """It takes connections and answers none; its senders lose nothing, as what they sent is taken the next time."""
    requests, truth = simulated(0, 4, time.time_ns())
    async with running_sink() as sink:
        setup = Setup(tmp_path, workers=2).export_to("a", "otlp_grpc", sink.grpc_port)
        async with running(setup) as bridge:
            os.kill(bridge.workers()[1], signal.SIGSTOP)
            async with anyio.create_task_group() as senders:
                for request in requests * 2:  # each at least once more than needed, so that both processes get some
                    senders.start_soon(taken, bridge, request.SerializeToString())
                await shown(bridge, "/readyz", "ingest process 1 has said nothing for")
                await bridge.logged("an ingest process hangs; it is killed")
            await bridge.logged(STARTED, times=3)
            await shown(bridge, "/readyz", "ready")
            metrics = (await page(bridge, "/metrics")).splitlines()
            for counter in ("hangs", "restarts"):
                assert f'ingest_process_{counter}_total{{worker="1"}} 1.0' in metrics
                assert f'ingest_process_{counter}_total{{worker="2"}} 0.0' in metrics
            with anyio.fail_after(WAIT_S):
                while sink.totals().distinct < len(truth):
                    sink.arrived.clear()
                    await sink.arrived.wait()
            assert await bridge.stop() == 0
    assert {i for request in sink.requests for i in span_ids(request)} == set(truth)


async def test_an_ingest_process_that_cannot_start_is_tried_later_and_later(tmp_path: Path) -> None:
    """Its file is of a newer version: the other one goes on, /readyz says why, and it comes back when the file is right
    again."""
    requests, _ = simulated(0, 1, time.time_ns())
    setup = Setup(tmp_path, workers=2).export_to_file(tmp_path / "out.jsonl")
    async with running(setup) as bridge:
        with closing(sqlite3.connect(tmp_path / "store" / "ingest-1.db", isolation_level=None)) as file:
            (version,) = file.execute("SELECT version FROM espan_store").fetchone()
            file.execute("UPDATE espan_store SET version = 99")
            os.kill(bridge.workers()[1], signal.SIGKILL)
            await bridge.logged(ENDED, times=3)
            ready = await page(bridge, "/readyz")
            assert "ingest process 1 is not running: " in ready
            assert "written by a newer bridge" in ready
            assert await post(bridge, requests[0].SerializeToString()) == 200
            file.execute("UPDATE espan_store SET version = ?", (version,))
        await bridge.logged(STARTED, times=3)
        await shown(bridge, "/readyz", "ready")
        endings = [event for event in bridge.log if event["message"] == ENDED]
        assert await bridge.stop() == 0
    assert [event["ended"] for event in endings[:3]] == ["SIGKILL", "exit code 1", "exit code 1"]
    waits = [event["wait_s"] for event in endings]
    assert waits == sorted(waits)
    assert waits[2] >= 2.0


@pytest.mark.parametrize("moment", ["starting", "hanging"])
async def test_a_bridge_that_is_killed_leaves_no_ingest_process_behind(tmp_path: Path, moment: str) -> None:
    """Not even one that is being started, or that hangs: the ports are free, and so is the store."""
    setup = Setup(tmp_path, workers=2).export_to_file(tmp_path / "out.jsonl")
    async with started(setup.write()) as bridge:
        if moment == "starting":
            with anyio.fail_after(WAIT_S):
                while len(psutil.Process(bridge.pid).children()) < 2:  # noqa: ASYNC110 -- of another process's doing
                    await anyio.sleep(0.005)
        else:
            await bridge.ready()
            setup.keep_ports(bridge)
        family = psutil.Process(bridge.pid).children()
        if moment == "hanging":
            family[0].suspend()
        await bridge.kill()
        await gone(family)
    assert len(family) == 2
    for port in setup.ports.values():
        with closing(socket.socket()) as probe, suppress(ConnectionRefusedError):
            probe.connect(("127.0.0.1", port or 1))
            raise AssertionError(f"somebody still listens on {port}")
    setup.lock_wait = "0s"
    async with running(setup) as successor:
        assert await successor.stop() == 0
