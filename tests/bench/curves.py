"""How cost grows: with the rate, the window, the attributes, the length of traces, and a backlog."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from tests.bench.backlog import SCALE, backlog
from tests.bench.calibration import loop_s
from tests.bench.load import Load
from tests.bench.run import run

BASE = Load(rate=25_000, seconds=20, window_s=2)
RATES = (1_000, 5_000, 16_667, 50_000, 75_000, 100_000, 125_000, 150_000)
WINDOWS_S = (2, 5, 10, 20, 60)
ATTRIBUTES = (4, 8, 16, 26, 30)
TRACE_SPANS = (2, 9, 100, 1_000, 10_000)


def loads() -> Iterator[tuple[str, Load]]:
    """A name and a load a point. A window is measured until memory is at its full height."""
    for rate in RATES:
        yield f"{rate:,} spans/s", replace(BASE, rate=rate)
    for window_s in WINDOWS_S:
        yield f"window {window_s} s", replace(BASE, rate=16_667, window_s=window_s, seconds=4 * window_s + 10)
    for attributes in ATTRIBUTES:
        yield f"{attributes} attributes", replace(BASE, attributes=attributes)
    for spans in TRACE_SPANS:
        yield f"{spans:,} spans a trace", replace(BASE, trace_spans=spans)


def curves(say: Callable[[str], None], only: Sequence[str] = ("",)) -> int:
    """Measure and print every point with one of these texts in its name; spans lost over all."""
    say(f"calibration loop {loop_s():.3f} s\n| | CPU-s per million | peak MB | lost | |\n|---|---|---|---|---|")
    lost = 0
    for name, load in loads():
        if not any(text in name for text in only):
            continue
        figures = run(load)
        lost += figures.lost
        notes = "; ".join(figures.notes())
        say(f"| {name} | {figures.cpu_per_million:.1f} | {figures.peak_mb:.0f} | {figures.lost} | {notes} |")
    if not any(text in "backlog" for text in only):
        return lost
    piled = backlog(replace(BASE, rate=16_667, seconds=3600 / SCALE))
    say(f"\n{backlog.__doc__}")
    for key, value in piled.items():
        say(f"  {key:26s} {value:12,.1f}")
    return lost + _lost(piled)


def _lost(values: Mapping[str, float]) -> int:
    return int(values["lost"])
