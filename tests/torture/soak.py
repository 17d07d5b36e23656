"""Steady load for a long time: memory, descriptors, threads and the database stay as they are.

The long form sends 16,667 spans a second (a million a minute) with a window of 20 s, and measures from when everything
that is remembered has been forgotten once. Flat means, over the time measured: memory grows by less than 5 % (least
squares); descriptors and threads in the last third are not above those of the first by more than two, the database not
by more than 10 %. The short form says nothing of memory, and allows the database half as much again: half a minute is
too short for more.

Options: SOAK_S (seconds measured), RATE (spans a second).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.bench.children import child
from tests.bench.load import Load
from tests.bench.scene import Scene, scene

RATE, RATE_SHORT = 16_667.0, 3_000.0
SOAK_S, SOAK_SHORT_S = 1800.0, 20.0
WINDOW_S, WINDOW_SHORT_S = 20.0, 2.0
WARM_UP_WINDOWS, WARM_UP_WINDOWS_SHORT = 16, 8
"""A window until traces leave, four until they are forgotten, and time for the allocator to have all it will ever
need: after eight windows there were four per cent to come, in the next eight."""
SAMPLES = 120
SPARE = 2
"""Descriptors and threads that may come and go: a connection that is made anew, a worker thread that idled."""
MEMORY_SHARE, DATABASE_SHARE = 0.05, 0.1
DATABASE_SHARE_SHORT = 0.5
"""What is dropped every few seconds is seen in steps; without dropping anything it would be twice as large."""
LATE_S = 120.0
"""How long the generator may take for what it has yet to send, and what it sent to arrive."""
TOTALS_S = 600.0
"""How long the sink may take to compare millions of ids."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The bridge's processes at one moment."""

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    database_mb: float
    cpu_s: float


def sample(at: Scene, store: Path) -> Sample:
    """Of the bridge and the processes it started."""
    parent = psutil.Process(at.bridge.pid)
    family = [parent, *parent.children(recursive=True)]
    return Sample(
        at_s=time.monotonic(),
        rss_mb=sum(process.memory_info().rss for process in family) / 2**20,
        descriptors=sum(process.num_fds() for process in family),
        threads=sum(process.num_threads() for process in family),
        database_mb=sum(path.stat().st_size for path in store.glob("*.db*")) / 2**20,
        cpu_s=at.bridge.cpu_s(),
    )


def soak(load: Load, warm_up_s: float) -> tuple[list[Sample], dict[str, object]]:
    """Samples of the time after the warm-up, evenly; and what became of the spans."""
    with scene(load) as at, child("generator", *load.command(at.address), cores=at.cores) as generator:
        store = at.folder / "store"
        begun, every_s = time.monotonic(), (load.seconds - warm_up_s) / SAMPLES
        samples = []
        for number in range(SAMPLES + 1):
            while (early_s := begun + warm_up_s + number * every_s - time.monotonic()) > 0:
                at.bridge.check()
                time.sleep(min(early_s, 0.5))
            samples.append(sample(at, store))
            if number % (SAMPLES // 10) == 0:
                print(f"  {samples[-1]}", flush=True)
        report = generator.event('"acknowledged"', LATE_S)
        deadline = time.monotonic() + load.window_s + LATE_S
        while at.sink.ask("spans")["spans"] < report["acknowledged"] and time.monotonic() < deadline:
            at.bridge.check()
            time.sleep(0.5)
        totals = at.sink.ask("totals", TOTALS_S)
    spans = {
        "spans acknowledged": report["acknowledged"],
        "spans a second": round(report["acknowledged"] / report["elapsed_s"]),
        "requests sent again": report["retries"],
        "refused": report["refused"],
        "lost": report["acknowledged"] - totals["distinct"],
        "copies": totals["copies"],
    }
    return samples, spans


def _grown(values: Sequence[float]) -> float:
    """How far the greatest of the last third is above the greatest of the first."""
    third = max(1, len(values) // 3)
    return max(values[-third:]) - max(values[:third])


def _slope_mb_per_hour(samples: Sequence[Sample]) -> float:
    at_h = np.array([s.at_s for s in samples]) / 3600
    return float(np.polyfit(at_h - at_h[0], [s.rss_mb for s in samples], 1)[0])


def figures_of(samples: Sequence[Sample]) -> dict[str, object]:
    """What the samples come to."""
    first, last = samples[0], samples[-1]
    measured_s = last.at_s - first.at_s
    return {
        "measured s": round(measured_s),
        "memory MB, first": round(first.rss_mb, 1),
        "memory MB, last": round(last.rss_mb, 1),
        "memory MB, least": round(min(s.rss_mb for s in samples), 1),
        "memory MB, most": round(max(s.rss_mb for s in samples), 1),
        "memory MB an hour": round(_slope_mb_per_hour(samples), 1),
        "descriptors, first": first.descriptors,
        "descriptors, last": last.descriptors,
        "threads, first": first.threads,
        "threads, last": last.threads,
        "database MB, first": round(first.database_mb, 1),
        "database MB, last": round(last.database_mb, 1),
        "database MB, most": round(max(s.database_mb for s in samples), 1),
        "share of a core": round((last.cpu_s - first.cpu_s) / measured_s, 3),
    }


def broken(samples: Sequence[Sample], *, long: bool) -> list[str]:
    """What is not flat."""
    counts = {name: _grown([getattr(s, name) for s in samples]) for name in ("descriptors", "threads")}
    found = [f"{more} {name} more at the end" for name, more in counts.items() if more > SPARE]
    database = [s.database_mb for s in samples]
    if (more := _grown(database)) > (DATABASE_SHARE if long else DATABASE_SHARE_SHORT) * max(database):
        found.append(f"the database has {more:.1f} MB more at the end")
    hours = (samples[-1].at_s - samples[0].at_s) / 3600
    if long and (more := _slope_mb_per_hour(samples) * hours) > MEMORY_SHARE * samples[0].rss_mb:
        found.append(f"memory grew by {more:.1f} MB")
    return found


def run(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    """Put the load on a bridge and watch it."""
    window_s = WINDOW_S if long else WINDOW_SHORT_S
    rate = float(options.get("RATE", RATE if long else RATE_SHORT))
    soak_s = float(options.get("SOAK_S", SOAK_S)) if long else SOAK_SHORT_S
    warm_up_s = (WARM_UP_WINDOWS if long else WARM_UP_WINDOWS_SHORT) * window_s
    samples, spans = soak(Load(rate=rate, seconds=warm_up_s + soak_s, window_s=window_s), warm_up_s)
    figures = {"rate asked for": rate, "window s": window_s, **spans, **figures_of(samples)}
    wrong = broken(samples, long=long)
    for what in ("lost", "refused"):
        if spans[what]:
            wrong.append(f"{spans[what]} spans {what}")
    assert not wrong, f"{'; '.join(wrong)}: {figures}"
    return figures
