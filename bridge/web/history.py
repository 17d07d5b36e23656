"""What the counters said over the last hour, for rates and for the page's lines."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import anyio

EVERY_S = 10.0
KEPT = 361
"""Snapshots: an hour, and its begin."""
Labels: TypeAlias = tuple[tuple[str, str], ...]
Samples: TypeAlias = Mapping[str, Mapping[Labels, float]]
"""Values by metric name and labels."""

COUNTED = (
    "receiver_accepted_spans_total",
    "receiver_received_bytes_total",
    "receiver_refused_requests_total",
    "receiver_refused_spans_total",
    "receiver_held_requests_total",
    "exporter_sent_spans_total",
    "exporter_send_failed_spans_total",
    "exporter_retries_total",
    "linker_left_spans_total",
    "linker_edges_total",
    "linker_oddities_total",
    "ingest_process_restarts_total",
    "store_lost_spans_total",
)
"""Counters whose past is kept."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one time (seconds since the epoch)."""

    time_s: float
    counters: Samples

    def value(self, name: str, **labels: str) -> float:
        """Sum of a counter over the series that have these labels."""
        return total(self.counters, name, **labels)


def total(samples: Samples, name: str, **labels: str) -> float:
    """Sum of a metric over the series that have these labels."""
    wanted = labels.items()
    return sum(value for key, value in samples.get(name, {}).items() if wanted <= dict(key).items())


class History:
    """Snapshots of the last hour; `run` takes them."""

    def __init__(self, samples: Callable[[], Samples], now_s: Callable[[], float]) -> None:
        self._samples, self._now_s = samples, now_s
        self._kept: deque[Snapshot] = deque(maxlen=KEPT)
        self.take()

    async def run(self) -> None:
        """Take a snapshot now and then until cancelled."""
        while True:
            await anyio.sleep(EVERY_S)
            self.take()

    def take(self) -> None:
        """Take a snapshot."""
        self._kept.append(self.now())

    def now(self) -> Snapshot:
        """The counters at present."""
        samples = self._samples()
        return Snapshot(self._now_s(), {name: samples[name] for name in COUNTED if name in samples})

    def before(self, now: Snapshot, seconds: float) -> Snapshot:
        """The youngest snapshot that is at least so old, else the oldest there is."""
        kept = list(self._kept)  # another thread may add to it meanwhile
        return next((s for s in reversed(kept) if now.time_s - s.time_s >= seconds), kept[0])

    def line(self, name: str) -> list[tuple[float, float]]:
        """(time, rate per second up to then) of a counter over the last hour."""
        points, kept = [], list(self._kept)
        for a, b in pairwise(kept):
            if b.time_s > a.time_s:
                points.append((b.time_s, max(0.0, (b.value(name) - a.value(name)) / (b.time_s - a.time_s))))
        return points
