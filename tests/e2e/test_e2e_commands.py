"""Commands and examples, as people run them."""

import gzip
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest

from tests.e2e.conftest import Delivered
from tests.support.bridge_process import ROOT, Setup, running
from tests.support.received import read_truth, score, spans_of_lines
from tests.support.senders import BOUTIQUE, EXAMPLES
from tests.support.sink import running_sink

DEADLINE_S = 60


async def call(*command: str) -> "CompletedProcess[bytes]":
    """What a command of Python printed and ended with."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("ENV_", "OTEL_"))}
    with anyio.fail_after(DEADLINE_S):
        return await anyio.run_process([sys.executable, *command], cwd=ROOT, env=environ, check=False)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_simulated_traces_come_out_as_they_are_true(tmp_path: Path, delivered: Delivered, protocol: str) -> None:
    """`simulate --truth` against a bridge: what it reports was acknowledged, and every parent is found."""
    truth_file = tmp_path / "truth.csv"
    async with running_sink() as sink, running(Setup(tmp_path).export_to("a", "otlp_grpc", sink.grpc_port)) as bridge:
        address = bridge.address("otlp_grpc" if protocol == "grpc" else "otlp_http")
        done = await call(
            "-m", "bridge", "simulate", "--endpoint", f"http://{address}", "--protocol", protocol, "--rate", "1800",
            "--duration", "1s", "--threads", "agent", "--truth", str(truth_file),
        )  # fmt: skip
        report = done.stdout.decode()
        assert done.returncode == 0, report + done.stderr.decode()
        truth = read_truth(truth_file)
        spans = await delivered(sink, len(truth))
        assert await bridge.stop() == 0
    assert len(truth) == 1800
    assert "sent          1800 spans" in report
    assert "acknowledged  1800 spans" in report
    assert "refused       0 spans" in report
    result = score(truth, spans)
    assert (result.recall, result.precision, result.whole_traces, result.copies) == (1.0, 1.0, 1.0, 0)


async def test_simulate_says_what_is_refused(tmp_path: Path) -> None:
    """Exit code 1 and the receiver's words: this backend takes nothing."""
    async with running_sink(always="invalid_argument::no room") as sink:
        done = await call(
            "-m", "bridge", "simulate", "--endpoint", f"http://127.0.0.1:{sink.grpc_port}", "--rate", "90",
            "--duration", "200ms",
        )  # fmt: skip
    assert done.returncode == 1
    assert b"refused       18 spans (last: " in done.stdout
    assert b"no room" in done.stdout


@pytest.mark.parametrize("recording", ["exact", "agent"])
async def test_linking_a_recording_offline_finds_every_parent(tmp_path: Path, recording: str) -> None:
    """`link`, in-process and cross-process, with thread ids that work and with those of current agents."""
    source, output = tmp_path / "in.otlp.jsonl", tmp_path / "out.otlp.jsonl"
    source.write_bytes(gzip.decompress((BOUTIQUE / f"{recording}.otlp.jsonl.gz").read_bytes()))
    done = await call("-m", "bridge", "link", str(source), "--output", str(output))
    assert done.returncode == 0, done.stderr.decode()
    truth = read_truth(BOUTIQUE / "truth.csv")
    result = score(truth, spans_of_lines(output.read_text().splitlines()))
    assert (result.delivered, result.copies, result.unknown) == (len(truth), 0, 0)
    assert (result.recall_in_process, result.recall_cross_process, result.precision) == (1.0, 1.0, 1.0)
    assert f"spans written   {len(truth)}" in done.stderr.decode()


async def test_the_demo_shows_whole_traces_and_ends_by_itself() -> None:
    """Trees with how each edge was found, then a summary."""
    done = await call(str(EXAMPLES / "demo.py"))
    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    truth = read_truth(BOUTIQUE / "truth.csv")
    roots = sum(not origin.parent_id for origin in truth.values())
    assert f"spans in    {len(truth)}\nspans out   {len(truth)}\ntraces out  {roots}\n" in text
    assert f"unlinked    {roots} " in text
    assert "frontend: " in text
    assert "  thread\n" in text
    assert "  seq\n" in text
