"""The highest rate that gets through without loss: nothing refused, delivery keeps up with the load."""

from collections.abc import Callable

from tests.bench.load import Load
from tests.bench.run import Figures, run

SATURATING = 250_000.0
"""Spans a second that no single core takes: the generator sends each request as soon as it is taken."""
PROBE_S, STEP_S, WINDOW_S = 10.0, 15.0, 2.0
STEPS = 4
LOW, HIGH = 0.6, 1.2
"""Where the limit lies, in what a saturated bridge got through."""


def lossless_limit(way: Load, say: Callable[[str], None]) -> dict[str, float]:
    """Search between rates by halving, each tried on a bridge of its own, with a short window."""
    saturated = run(_at(way, SATURATING, PROBE_S))
    through = saturated.values()["through_a_second"]
    low, high, lost = LOW * through, HIGH * through, saturated.lost
    best: Figures | None = None
    for _ in range(STEPS):
        rate = (low * high) ** 0.5
        figures = run(_at(way, rate, STEP_S))
        say(f"    {rate:8.0f}/s {'kept up' if figures.kept_up else 'too much'}")
        lost += figures.lost
        if figures.kept_up:
            low, best = rate, figures
        else:
            high = rate
    return {
        "rate": best.load.rate if best else 0.0,
        "lost": lost,
        "cpu_per_million": best.cpu_per_million if best else 0.0,
        "driver_share": best.driver_share if best else saturated.driver_share,
    }


def _at(way: Load, rate: float, seconds: float) -> Load:
    return Load(way=way.way, batch=way.batch, rate=round(rate), seconds=seconds, window_s=WINDOW_S)
