"""The bridge as a process of its own, for tests that kill it: `python -m bridge run`, its log read event by event."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
END_S = 30.0

CONFIG = """
shutdown_grace = "{grace}"
workers = {workers}
[[inputs.ebpftrace]]
db_path = "{db_path}"
window = "{window}"
sampling_rate = 1.0
[linker]
tick = "{tick}"
late_window = "60s"
[receivers.otlp_grpc]
port = {grpc}
[receivers.otlp_http]
port = {http}
[store]
lock_wait = "{lock_wait}"
[web]
port = {web}
{web_settings}
[telemetry]
log_format = "json"
"""
RETRY = 'retry = {initial = "50ms", max = "200ms"}'


@dataclass
class Setup:
    """Settings of a bridge in a folder: short windows, free ports until `keep_ports`, and some exporters."""

    folder: Path
    window: str = "1s"
    tick: str = "50ms"
    grace: str = "10s"
    lock_wait: str = "10s"
    workers: int = 1
    exporters: str = ""
    web_settings: str = ""
    """Further lines of [web]."""
    db_path: Path | None = None
    """None: a folder beside the settings."""
    ports: dict[str, int] = field(default_factory=lambda: {"grpc": 0, "http": 0, "web": 0})

    def export_to_file(self, path: Path) -> "Setup":
        """Add a file exporter."""
        self.exporters += f'\n[exporters.lines]\ntype = "file"\npath = "{path}"\n'
        return self

    def export_to(self, name: str, kind: str, port: int) -> "Setup":
        """Add an OTLP exporter that tries again soon."""
        self.exporters += f'\n[exporters.{name}]\ntype = "{kind}"\nendpoint = "http://127.0.0.1:{port}"\n{RETRY}\n'
        return self

    def write(self) -> Path:
        """The settings as a file."""
        path = self.folder / "bridge.toml"
        db_path = self.db_path or self.folder / "store"
        values = {
            "db_path": db_path,
            "window": self.window,
            "tick": self.tick,
            "grace": self.grace,
            "lock_wait": self.lock_wait,
            "web_settings": self.web_settings,
        }
        path.write_text(CONFIG.format(**values, workers=self.workers, **self.ports) + self.exporters)
        return path

    def keep_ports(self, bridge: "Bridge") -> None:
        """From now on listen where this bridge does."""
        self.ports = {name: int(bridge.address(f"otlp_{name}").rpartition(":")[2]) for name in ("grpc", "http")}
        self.ports["web"] = int(bridge.address("web").rpartition(":")[2])


class Bridge:
    """A running `python -m bridge run`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._news = anyio.Event()
        self._over = False
        self.log: list[dict[str, Any]] = []
        self.text = ""
        """Everything it wrote that is no log event."""

    def address(self, name: str) -> str:
        """host:port of a listener, as the ready event names it."""
        return str(next(event for event in self.log if event["message"] == "ready")[name])

    def messages(self) -> list[str]:
        """What was logged, without fields."""
        return [event["message"] for event in self.log]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def workers(self) -> dict[int, int]:
        """Process id of each ingest process as it was started last, by its number."""
        events = [event for event in self.log if event["message"] == "an ingest process has started"]
        return {event["worker"]: event["pid"] for event in events}

    async def ready(self) -> None:
        """Return once its receivers are open."""
        await self.logged("ready")

    async def logged(self, message: str, times: int = 1) -> None:
        """Return once it logged this message so many times."""
        with anyio.fail_after(START_S):
            while self.messages().count(message) < times:
                if self._over:
                    raise AssertionError(f"the bridge ended before {message!r}: {self.log} {self.text}")
                self._news = anyio.Event()
                await self._news.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, once it ended."""
        with anyio.fail_after(END_S):
            code = await self._process.wait()
            while not self._over:
                self._news = anyio.Event()
                await self._news.wait()
            return code

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """SIGKILL, without a chance to do anything."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def read(self) -> None:
        """Take in its log until it ends."""
        assert self._process.stderr
        rest = ""
        async for chunk in TextReceiveStream(self._process.stderr):
            *lines, rest = (rest + chunk).split("\n")
            for line in lines:
                self._take(line)
            self._news.set()
        self._take(rest)
        self._over = True
        self._news.set()

    def _take(self, line: str) -> None:
        if line.startswith("{"):
            self.log.append(json.loads(line))
        else:
            self.text += f"{line}\n"


@asynccontextmanager
async def started(
    *configs: Path, variables: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> AsyncIterator[Bridge]:
    """A bridge that may not be ready yet, killed at the end of the context if it still runs then.

    prefix: a command that becomes the one that follows it.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("ENV_", "OTEL_"))} | dict(variables or {})
    options = (part for config in configs for part in ("--config", str(config)))
    command = (*prefix, sys.executable, "-m", "bridge", "run", *options)
    process = await anyio.open_process(command, cwd=ROOT, env=environ, stdin=None, stdout=None)
    bridge = Bridge(process)
    async with process, anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.read)
        try:
            yield bridge
        except BaseException as exc:
            exc.add_note(f"the bridge said: {bridge.log} {bridge.text}")
            raise
        finally:
            if process.returncode is None:
                process.kill()


@asynccontextmanager
async def running(setup: Setup) -> AsyncIterator[Bridge]:
    """A bridge whose receivers are open."""
    async with started(setup.write()) as bridge:
        await bridge.ready()
        yield bridge
