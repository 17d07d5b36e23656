"""Programs of others as processes: started, waited for until they listen, ended with the context."""

import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
from anyio.abc import Process

START_S = 60.0
END_S = 30.0
LOOK_AGAIN_S = 0.05


def free_port() -> int:
    """A port nobody listens on at present: these programs cannot say which one they took."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A program that runs; what it says goes to a file."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process, self.log = process, log

    async def listens(self, *ports: int) -> None:
        """Return once it listens on each port."""
        with anyio.fail_after(START_S):
            for port in ports:
                while not await _reachable(port):
                    if self._process.returncode is not None:
                        raise AssertionError(f"the program ended: {self.log.read_text()[-4000:]}")
                    await anyio.sleep(LOOK_AGAIN_S)

    async def ended(self) -> int:
        """Its exit code, once it ended."""
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and its end."""
        self._process.send_signal(signal.SIGTERM)
        with anyio.fail_after(END_S):
            await self._process.wait()


async def _reachable(port: int) -> bool:
    try:
        async with await anyio.connect_tcp("127.0.0.1", port):
            return True
    except OSError:
        return False


@asynccontextmanager
async def program(
    *command: str | Path, log: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Run a program while the context is open."""
    with log.open("ab") as output:
        process = await anyio.open_process(
            [str(part) for part in command],
            stdin=None,
            stdout=output,
            stderr=output,
            env=os.environ | (variables or {}),
        )
        async with process:
            running = Program(process, log)
            try:
                yield running
            finally:
                if process.returncode is None:
                    process.kill()
