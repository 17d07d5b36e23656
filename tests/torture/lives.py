"""Bridges one after the other on the same store and ports, between senders and two backends that outlive them."""

import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from os import sched_getaffinity
from pathlib import Path

import anyio
import numpy as np
from anyio.to_thread import run_sync
from numpy.typing import NDArray

from tests.bench.children import Child, child
from tests.support.bridge_process import RETRY, Bridge, Setup, started
from tests.torture.traffic import Stream
from tests.torture.verdict import Verdict, judge

BACKENDS = ("otlp", "dataway")
LISTENERS = ("grpc", "http", "datakit", "web")
FIRST_PORT, LAST_PORT = 20_000, 32_000
"""Below those the kernel gives to clients: a sender that tries again and again while nobody listens would in the end be
connected with itself."""
DELIVERY_S = 120.0
STUCK_S = 60.0
"""Nothing came for this long: nothing more will come."""
QUIET_WINDOWS, QUIET_S = 2, 2.0
"""Nothing came for so many windows, and this: what waits for its trace has left."""
READY_S = 90.0
POLL_S = 0.2


def free_ports(draw: random.Random) -> dict[str, int]:
    """A port for each listener, that nobody uses now."""
    with ExitStack() as taken:
        ports: dict[str, int] = {}
        while len(ports) < len(LISTENERS):
            port = draw.randrange(FIRST_PORT, LAST_PORT)
            probe = taken.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports[LISTENERS[len(ports)]] = port
        return ports


@dataclass(eq=False)
class Scene:
    """Settings, backends, and what is known of the lives so far. Times are seconds since the epoch."""

    folder: Path
    setup: Setup
    ports: dict[str, int]
    backends: Mapping[str, Child]
    window_s: float
    lives: list[tuple[float, float]] = field(default_factory=list)
    """From when to when each was open to senders."""
    starts_s: list[float] = field(default_factory=list)
    """How long each start took that came to its end."""
    errors: list[str] = field(default_factory=list)
    """What bridges logged as errors, or wrote beside the log."""

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Bridge]:
        """A bridge that may not be ready yet, killed at the end if it still runs."""
        begun_s = time.time()
        async with started(self.setup.write()) as bridge:
            try:
                yield bridge
            finally:
                self._take(bridge, begun_s)

    def _take(self, bridge: Bridge, begun_s: float) -> None:
        opened = [time_of(e) for e in bridge.log if e["message"] == "ready"]
        closed = [time_of(e) for e in bridge.log if e["message"] == "stopping"]
        if opened:
            self.starts_s.append(opened[0] - begun_s)
            self.lives.append((opened[0], closed[0] if closed else float("inf")))
        self.errors += [str(e) for e in bridge.log if e["level"] in ("error", "critical")]
        self.errors += [line for line in bridge.text.splitlines() if line.strip()]

    def killed(self, at_s: float) -> None:
        """The latest life ended then, if it ever was open."""
        if self.lives and self.lives[-1][1] == float("inf"):
            self.lives[-1] = (self.lives[-1][0], at_s)

    async def delivered(self, stream: Stream) -> None:
        """Return once no more seem to come: each backend has as many different spans as were acknowledged and nothing
        came for some windows, or nothing came for long. Spans that were never acknowledged come as well, so that the
        number alone does not say that those are there which were.
        """
        quiet_s = QUIET_WINDOWS * self.window_s + QUIET_S
        for backend in self.backends.values():
            before, moved = -1, time.monotonic()
            begun = moved
            while time.monotonic() - begun < DELIVERY_S and time.monotonic() - moved < STUCK_S:
                count = await run_sync(backend.ask, "count")
                if count["spans"] != before:
                    before, moved = count["spans"], time.monotonic()
                if count["distinct"] >= stream.acknowledged and time.monotonic() - moved > quiet_s:
                    break
                await anyio.sleep(POLL_S)

    def verdict(self, stream: Stream) -> Verdict:
        """What came of everything, once nothing more is to come."""
        came: dict[str, NDArray[np.uint64]] = {}
        for name, backend in self.backends.items():
            path = self.folder / f"{name}.npy"
            backend.ask(f"save {path}")
            came[name] = np.load(path)
        verdict = judge(stream, came, self.lives, self.window_s)
        answers = {f"answers: {answer}": count for answer, count in sorted(stream.answers.items())}
        return Verdict({**verdict.figures, **answers}, verdict.wrong)


def time_of(event: Mapping[str, str]) -> float:
    """When it was logged."""
    return datetime.fromisoformat(event["time"]).timestamp()


@contextmanager
def scene(draw: random.Random, *, workers: int = 1, window_s: float = 0.5, grace: str = "10s") -> Iterator[Scene]:
    """Backends, and a folder for the bridge."""
    cores = sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="espan-torture-") as path, ExitStack() as stack:
        folder, ports = Path(path), free_ports(draw)
        setup = Setup(folder, window=f"{window_s * 1000:.0f}ms", grace=grace, lock_wait="60s", workers=workers)
        setup.ports = {name: ports[name] for name in ("grpc", "http", "web")}
        setup.exporters = f'\n[receivers.datakit]\nhost = "127.0.0.1"\nport = {ports["datakit"]}\n'
        backends = {}
        for kind, key in zip(BACKENDS, ('type = "otlp_grpc"\nendpoint', 'type = "dataway"\nurl'), strict=True):
            backend = backends[kind] = stack.enter_context(child(kind, "tests.torture.backend", kind, cores=cores))
            endpoint = backend.event("endpoint")["endpoint"]
            setup.exporters += f'\n[exporters.{kind}]\n{key} = "{endpoint}"\n{RETRY}\n'
        yield Scene(folder, setup, ports, backends, window_s)
