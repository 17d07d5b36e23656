"""The bridge as its image runs it: as nobody special, without capabilities, on a file system that is read-only but for
its volume."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.e2e.conftest import Delivered
from tests.support.bridge_process import ROOT, Bridge, Setup
from tests.support.senders import simulated, span_ids, stock_stub
from tests.support.sink import running_sink

USER = "10001"
SEAL = """
set -e
mount --bind "$1" "$1"
for place in $(awk '{print $5}' /proc/self/mountinfo | sort -u); do
  case "$place" in
    "$1"|"$1"/*|/proc|/proc/*|/sys|/sys/*) ;;
    *) mount -o remount,bind,ro "$place" ;;
  esac
done
volume=$1
shift
exec unshare --user --map-user=USER --map-group=USER -- sh -c '
  if touch "$0/.." /tmp /dev/shm 2>/dev/null; then echo "something else can be written" >&2; exit 3; fi
  exec "$@"' "$volume" "$@"
""".replace("USER", USER)
"""Makes everything but a folder read-only, in a mount namespace of its own, and goes on without any capability."""


def sealed(volume: Path, *command: str) -> list[str]:
    """The command, so that it can write nothing but what is in the folder."""
    return ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", SEAL, "seal", str(volume), *command]


def can_seal(folder: Path) -> bool:
    """Whether this machine lets anybody make namespaces."""
    return bool(shutil.which("unshare")) and subprocess.run(sealed(folder, "true"), check=False).returncode == 0


@asynccontextmanager
async def started_sealed(volume: Path, config: Path) -> AsyncIterator[Bridge]:
    """A bridge that runs so, ready."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("ENV_", "OTEL_"))}
    environ |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(volume)}
    command = sealed(volume, sys.executable, "-m", "bridge", "run", "--config", str(config))
    process = await anyio.open_process(command, cwd=ROOT, env=environ, stdin=None, stdout=None)
    bridge = Bridge(process)
    async with process, anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.read)
        try:
            await bridge.ready()
            yield bridge
        finally:
            if process.returncode is None:
                process.kill()


async def test_it_needs_no_rights_and_no_place_but_its_volume(tmp_path: Path, delivered: Delivered) -> None:
    """Spans are taken, stored and delivered; what is stored is the user's, and the exit is clean."""
    if not can_seal(tmp_path):
        pytest.skip("no namespaces without privileges on this machine")
    async with running_sink() as sink:
        setup = Setup(tmp_path, workers=2).export_to("sink", "otlp_grpc", sink.grpc_port)
        requests, _ = simulated(0, 5, time.time_ns())
        async with started_sealed(tmp_path, setup.write()) as bridge:
            status = await anyio.Path(f"/proc/{bridge.pid}/status").read_text()
            assert "CapEff:\t0000000000000000" in status
            async with stock_stub(bridge.address("otlp_grpc")) as stub:
                for request in requests:
                    await stub.Export(request)
            await delivered(sink, sum(len(span_ids(request)) for request in requests))
            assert await bridge.stop() == 0
    assert any((tmp_path / "store").iterdir())
