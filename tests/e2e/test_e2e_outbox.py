"""`espan-bridge outbox`, on a bridge that runs and on the store it leaves behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from click.testing import CliRunner, Result

from bridge import cli
from tests.e2e.conftest import Delivered
from tests.support.bridge_process import ROOT, Bridge, Setup, running
from tests.support.received import spans_of
from tests.support.senders import simulated, stock_stub
from tests.support.sink import Sink, running_sink

EXPORTER = """
[exporters.{name}]
type = "otlp_grpc"
endpoint = "http://127.0.0.1:{port}"
retry = {{initial = "1h", max = "1h"}}
"""
TRACES = 20
WAIT_S = 30.0


class Operator:
    """Calls the command line, as a process of its own."""

    def __init__(self, config: Path) -> None:
        self._config = config

    async def call(self, *arguments: str, answer: str = "") -> Result:
        """`espan-bridge outbox` with these, in a thread of this process; what it asks is answered so."""
        command = ["outbox", *arguments, "--config", str(self._config)]
        return await to_thread.run_sync(lambda: CliRunner().invoke(cli.main, command, input=answer))

    async def process(self, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        """The same as a process of its own, which takes a second to start."""
        command = [sys.executable, "-m", "bridge", "outbox", *arguments, "--config", str(self._config)]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("ENV_", "OTEL_"))}

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, cwd=ROOT, env=environ, input=answer, capture_output=True, text=True, timeout=60, check=False
            )

        return await to_thread.run_sync(run)

    async def said(self, *arguments: str, answer: str = "") -> str:
        """Its standard output; it must have worked."""
        result = await self.call(*arguments, answer=answer)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def listed(self) -> dict[str, dict[str, Any]]:
        """What `list --json` says, by exporter."""
        return {status["exporter"]: status for status in json.loads(await self.said("list", "--json"))}

    async def undelivered(self, exporter: str, spans: int, *, tried: bool = False) -> dict[str, Any]:
        """What is listed of an exporter, once it has so many undelivered spans; tried: and was refused some."""
        with anyio.fail_after(WAIT_S):
            while True:
                listed = (await self.listed())[exporter]
                if listed["spans"] == spans and (listed["last_error"] or not tried):
                    return listed


async def send(bridge: Bridge, first: int, traces: int = TRACES) -> int:
    """Send simulated traces; how many spans they have."""
    requests, truth = simulated(first, traces, time.time_ns())
    async with stock_stub(bridge.address("otlp_grpc")) as stub:
        for request in requests:
            await stub.Export(request)
    return len(truth)


async def asked(sink: Sink, requests: int) -> None:
    """Return once a sink was sent more requests than this."""
    with anyio.fail_after(WAIT_S):
        while sink.totals().requests <= requests:
            sink.arrived.clear()
            await sink.arrived.wait()


@pytest.mark.parametrize("workers", [1, 2])
async def test_operator_sees_and_decides_while_the_bridge_runs_and_while_it_does_not(
    tmp_path: Path, delivered: Delivered, workers: int
) -> None:
    """list says what is undelivered, why, and until when is waited; retry ends the wait; drop gives up what it is told
    to, of one exporter, after a question, and says how many spans. Then the same on the store of the stopped bridge:
    what was dropped there never arrives, what comes after does."""
    async with running_sink(always="unavailable") as sink, running_sink() as sound:
        setup = Setup(tmp_path, workers=workers)
        setup.exporters = EXPORTER.format(name="away", port=sink.grpc_port)
        setup.exporters += EXPORTER.format(name="sound", port=sound.grpc_port)
        async with running(setup) as bridge:
            operator = Operator(tmp_path / "bridge.toml")
            spans = await send(bridge, 0)
            await delivered(sound, spans)
            listed = await operator.undelivered("away", spans, tried=True)
            assert listed["ticks"] > 0
            assert listed["bytes"] > 0
            assert 0 < listed["oldest_age_s"] < WAIT_S
            assert "scripted" in listed["last_error"]
            assert 0 < listed["next_attempt_s"] <= 2 * 3600
            assert (await operator.undelivered("sound", 0))["oldest_age_s"] is None
            shown = await operator.process("list")
            text = shown.stdout
            assert shown.returncode == 0
            assert text.splitlines()[0].split()[:3] == ["exporter", "spans", "ticks"]
            assert f"away      {spans}" in text

            before = sink.totals().requests
            assert await operator.said("retry", "--exporter", "away") == "tried again now: away\n"
            await asked(sink, before)

            assert await operator.said("drop", "--exporter", "away", "--older-than", "1h", "--yes") == (
                "away: 0 spans given up\n"
            )
            asked_first = await operator.call("drop", "--exporter", "away", "--all", answer="n\n")
            assert asked_first.exit_code == 1
            assert (await operator.listed())["away"]["spans"] == spans
            dropped = await operator.process("drop", "--exporter", "away", "--all", answer="y\n")
            assert dropped.stdout.endswith(f"away: {spans} spans given up\n"), dropped.stderr
            event = next(event for event in bridge.log if event["message"].startswith("an operator gave up"))
            assert (await operator.listed())["away"]["spans"] == 0
            assert event["level"] == "error"

            for arguments in (("drop", "--exporter", "nobody", "--all", "--yes"), ("retry", "--exporter", "nobody")):
                refused = await operator.call(*arguments)
                assert refused.exit_code == 1
                assert "nobody" in refused.stderr

            more = await send(bridge, TRACES)
            await delivered(sound, spans + more)
            assert await bridge.stop() == 0
        assert not (tmp_path / "store" / "espan.sock").exists()

        assert (await operator.listed())["away"]["spans"] == more
        assert "no bridge is running" in (await operator.call("retry")).stderr
        dropped = await operator.process("drop", "--exporter", "away", "--all", "--yes")
        assert dropped.stdout == f"away: {more} spans given up\n", dropped.stderr
        assert (await operator.listed())["away"]["spans"] == 0

        sink.always("ok")
        async with running(setup) as bridge:
            last = await send(bridge, 2 * TRACES)
            await delivered(sink, last)
            await delivered(sound, spans + more + last)
            assert await bridge.stop() == 0
        assert len(spans_of(sink.bodies)) == last


async def test_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A wrong path is an error with its name, and leaves nothing behind."""
    config = Setup(tmp_path).export_to_file(tmp_path / "out").write()
    for other in ((), ("--db-path", str(tmp_path / "other"))):
        result = await Operator(config).call("list", *other)
        assert result.exit_code == 2
        assert "holds no store" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bridge.toml"]  # noqa: ASYNC240
