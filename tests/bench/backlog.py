"""A backend that was away: what piles up meanwhile, and how fast it gets out."""

import time
from dataclasses import replace

from tests.bench.load import Load
from tests.bench.scene import scene

SCALE = 60
TICK = "50ms"
"""Ten times the usual number of ticks: a minute of load leaves as many behind as ten minutes do."""


def backlog(load: Load) -> dict[str, float]:
    """Load a bridge whose backend refuses everything, then let it have its way.

    An hour is scaled to a minute of the same load, with ten times as many ticks a second.
    """
    with scene(replace(load, tick=TICK)) as at:
        at.sink.ask("close")
        started_cpu_s = at.bridge.cpu_s()
        report = at.generate()
        time.sleep(load.window_s + 1)  # not for something to happen: everything is to have left its window
        loaded_cpu_s, loaded_mb = at.bridge.cpu_s(), at.bridge.peak_mb()
        at.sink.ask("open")
        opened_ns = time.time_ns()
        totals = at.delivered(report["acknowledged"])
        spans, drained_s = report["acknowledged"], (totals["last_ns"] - opened_ns) / 1e9
        return {
            "spans": spans,
            "lost": spans - totals["distinct"],
            "loaded_peak_mb": loaded_mb,
            "peak_mb": at.bridge.peak_mb(),
            "loading_cpu_per_million": (loaded_cpu_s - started_cpu_s) / spans * 1e6,
            "draining_cpu_per_million": (at.bridge.cpu_s() - loaded_cpu_s) / spans * 1e6,
            "drained_a_second": spans / drained_s,
        }
