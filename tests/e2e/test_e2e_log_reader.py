"""A reader of the bridge's log that is stuck holds up nothing."""

import fcntl
import os
import signal
import sys
from pathlib import Path

import aiohttp
import anyio

from tests.support.bridge_process import ROOT, Setup
from tests.support.ports import free_ports
from tests.support.sink import running_sink
from tests.support.steady_load import SteadyLoad

WAIT_S = 60.0
F_SETPIPE_SZ = 1031


def full_pipe() -> tuple[int, int, int]:
    """Both ends of a pipe in which there is not room for another byte, and how many are in it."""
    reader, writer = os.pipe()
    if sys.platform == "linux":
        fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    filled = 0
    try:
        while True:
            filled += os.write(writer, b"." * 512)
    except BlockingIOError:
        os.set_blocking(writer, True)
    return reader, writer, filled


async def test_a_log_that_nobody_reads_stops_neither_service_nor_exit(tmp_path: Path) -> None:
    """Not a line can be written from the start to the end, by the bridge's process as little as by the others."""
    grpc, http, web = free_ports(3)
    reader, writer, filled = full_pipe()
    async with running_sink() as sink:
        setup = Setup(tmp_path, workers=2, ports={"grpc": grpc, "http": http, "web": web})
        setup.export_to("a", "otlp_grpc", sink.grpc_port)
        command = (sys.executable, "-m", "bridge", "run", "--config", str(setup.write()))
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("ENV_", "OTEL_"))}
        async with await anyio.open_process(command, cwd=ROOT, env=environ, stdout=None, stderr=writer) as process:
            os.close(writer)
            try:
                load = SteadyLoad()
                with anyio.fail_after(WAIT_S):
                    await ready(web)
                    async with load.sending(f"127.0.0.1:{grpc}"):
                        await load.more(1000)
                    assert await load.delivered(sink, WAIT_S) == 0
                    process.send_signal(signal.SIGTERM)
                    assert await process.wait() == 0
            finally:
                if process.returncode is None:
                    process.kill()
    with os.fdopen(reader, "rb") as log:
        assert log.read() == b"." * filled


async def ready(port: int) -> None:
    """Return once /readyz says so."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # not there yet
            await anyio.sleep(0.05)
