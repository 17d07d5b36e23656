"""A bridge between a generator and a sink, as processes on loopback: the bridge on one core, the others on another."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.children import Child, RunFailed, child
from tests.bench.load import WAYS, Load

POLL_S = 0.2
RETRIED_S = 60.0
"""How long the generator sends a request again."""
STUCK_S = 30.0
"""Nothing came for a window and this long: nothing more will come."""
DELIVERY_S = 900.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Bridge and sink, ready."""

    load: Load
    folder: Path
    """Where the bridge has its settings, and its store."""
    bridge: Child
    sink: Child
    address: str
    """Where spans are sent to."""
    cores: set[int]
    """Of generator and sink."""

    def generate(self) -> dict[str, Any]:
        """Run the generator to its end; its report. Raises RunFailed where one of the processes fails."""
        deadline = time.monotonic() + self.load.seconds + RETRIED_S + STUCK_S
        with child("generator", *self.load.command(self.address), cores=self.cores) as generator:
            while generator.running:
                self._check(deadline)
                time.sleep(POLL_S)
            return generator.event('"acknowledged"')

    def delivered(self, spans: int) -> dict[str, Any]:
        """The sink's totals once so many different spans came, or no more seem to come."""
        deadline = time.monotonic() + DELIVERY_S
        before, moved = -1, time.monotonic()
        while True:
            self._check(deadline)
            came = self.sink.ask("spans")["spans"]
            if came != before:
                before, moved = came, time.monotonic()
                if came >= spans and (totals := self.sink.ask("totals"))["distinct"] >= spans:
                    return dict(totals)
            elif time.monotonic() - moved > self.load.window_s + STUCK_S:
                return self.sink.ask("totals")
            time.sleep(POLL_S)

    def _check(self, deadline: float) -> None:
        self.bridge.check()
        self.sink.check()
        if time.monotonic() > deadline:
            raise RunFailed(f"out of time; the bridge said:\n{self.bridge.output}")


@contextmanager
def scene(load: Load) -> Iterator[Scene]:
    """Start sink and bridge for a load, with a store of their own."""
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = {cores[0]}, {cores[-1]}
    way = WAYS[load.way]
    with (
        tempfile.TemporaryDirectory(prefix="espan-bench-") as name,
        child("sink", way.sink, cores=theirs) as sink,
    ):
        config = Path(name) / "bridge.toml"
        config.write_text(load.config(Path(name), sink.event("endpoint")["endpoint"]))
        with child("bridge", "bridge", "run", "--config", str(config), cores=mine) as bridge:
            ready = bridge.event('"ready"')
            yield Scene(load, Path(name), bridge, sink, ready[way.receiver], theirs)
