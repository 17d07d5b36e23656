"""What `make bench` measures: runs, and the cases that are read off them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from bridge.config.settings import Settings
from tests.bench.calibration import Calibrated
from tests.bench.limit import lossless_limit
from tests.bench.link_stage import link_stage
from tests.bench.load import WINDOW_S, Load
from tests.bench.run import run

MILLION_A_MINUTE = 16_667
RETAINED_S = 4 * WINDOW_S + 10
"""Spans wait for one window and are remembered for three: memory is at its full height only after that."""
OVERLOAD = 4
OVERLOAD_S = 20.0
SENDERS = 128
"""So many requests are under way at most; what is due when all wait for an answer is offered, and not sent."""
DATAKIT = Load(way="datakit", rate=50_000, seconds=40, batch=256)
OTLP_512 = Load(rate=75_000, seconds=40, batch=512)
OTLP_8192 = replace(OTLP_512, batch=8192)
SHORT = 2.0
"""A window for runs that are not about memory."""
SMALL = Load(rate=10_000, seconds=20, batch=5, window_s=SHORT, connections=32)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to."""

    values: Mapping[str, float]
    loop_s: float
    """The calibration loop beside it."""
    notes: tuple[str, ...] = ()
    failed: bool = False

    @property
    def broken(self) -> bool:
        """Whether it failed, or lost spans."""
        return self.failed or self.values.get("lost", 0) > 0


class Skipped(Exception):
    """A run that cannot be made here; says why."""


@dataclass(slots=True)
class Bench:
    """Runs in order, each once."""

    say: Callable[[str], None]
    limits: dict[str, float]
    """Lossless rates by way, spans a second: of this bench, else as committed."""

    def load(self, load: Load) -> Outcome:
        """A single load."""
        with Calibrated() as calibrated:
            figures = run(load)
        return Outcome(figures.values(), calibrated.loop_s, tuple(figures.notes()))

    def limit(self, way: Load) -> Outcome:
        """The lossless rate; later runs go by it."""
        with Calibrated() as calibrated:
            values = lossless_limit(way, self.say)
        notes = () if values["rate"] else ("no rate that was tried kept up",)
        self.limits[way.way] = values["rate"] or self.limits[way.way]
        return Outcome(values, calibrated.loop_s, notes)

    def overload(self, way: Load) -> Outcome:
        """Far more than gets through, offered at its rate whatever becomes of it."""
        rate = round(OVERLOAD * self.limits[way.way])
        return self.load(replace(way, rate=rate, seconds=OVERLOAD_S, connections=SENDERS, open_loop=True))

    def half(self, way: Load) -> Outcome:
        """Half of what gets through."""
        return self.load(replace(way, rate=round(self.limits[way.way] / 2), seconds=30))

    def workers(self, load: Load) -> Outcome:
        """Two workers against one at the same load, on the same core."""
        if "workers" not in Settings.model_fields:
            raise Skipped("there is no setting `workers`")
        one, two = self.load(load), self.load(replace(load, workers=2))
        ratio = two.values["cpu_per_million"] / one.values["cpu_per_million"]
        lost = one.values["lost"] + two.values["lost"]
        return Outcome({"ratio": ratio, "lost": lost}, one.loop_s, one.notes + two.notes)

    def link(self, rows: int, threads: str) -> Outcome:
        """The link stage alone."""
        with Calibrated() as calibrated:
            values = link_stage(rows, threads)
        return Outcome(values, calibrated.loop_s)


RUNS: Mapping[str, Callable[[Bench], Outcome]] = MappingProxyType(
    {
        "link exact": lambda bench: bench.link(1_000_000, "exact"),
        "link agent": lambda bench: bench.link(1_000_000, "agent"),
        "datakit": lambda bench: bench.load(DATAKIT),
        "otlp 512": lambda bench: bench.load(OTLP_512),
        "otlp 8192": lambda bench: bench.load(OTLP_8192),
        "million a minute": lambda bench: bench.load(replace(OTLP_512, rate=MILLION_A_MINUTE, seconds=RETAINED_S)),
        "workers": lambda bench: bench.workers(replace(OTLP_512, rate=50_000, seconds=20, window_s=SHORT)),
        "small": lambda bench: bench.load(SMALL),
        "small http": lambda bench: bench.load(replace(SMALL, way="otlp_http")),
        "limit": lambda bench: bench.limit(OTLP_512),
        "datakit limit": lambda bench: bench.limit(DATAKIT),
        "half": lambda bench: bench.half(OTLP_512),
        "overload": lambda bench: bench.overload(OTLP_512),
        "datakit overload": lambda bench: bench.overload(DATAKIT),
        "short otlp": lambda bench: bench.load(Load(rate=25_000, seconds=5, window_s=1)),
        "short datakit": lambda bench: bench.load(Load(way="datakit", rate=25_000, seconds=5, batch=256, window_s=1)),
        "short link": lambda bench: bench.link(100_000, "agent"),
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """One figure, and what it is to be."""

    name: str
    run: str
    value: str
    """Which of the run's values."""
    unit: str
    goal: float | None = None
    """None: a figure to look at."""
    better: Literal["less", "more"] = "less"
    loops: Literal[-1, 0, 1] = 0
    """How a faster machine changes it: 1 for times, which are compared in calibration loops, -1 for rates."""

    def normal(self, value: float, loop_s: float) -> float:
        """The value of a machine whose calibration loop takes a second."""
        return float(value / loop_s**self.loops)

    def reached(self, value: float) -> bool:
        """Whether the goal is."""
        if self.goal is None:
            return True
        return value <= self.goal if self.better == "less" else value >= self.goal


CPU, RATE, MB = "CPU-s per million", "spans/s", "MB"
CASES = (
    Case("DataKit -> Dataway, 256 a body, 50,000/s", "datakit", "cpu_per_million", CPU, 5, loops=1),
    Case("OTLP -> OTLP, 512 a request, 75,000/s", "otlp 512", "cpu_per_million", CPU, 6, loops=1),
    Case("OTLP -> OTLP, 8,192 a request, 75,000/s", "otlp 8192", "cpu_per_million", CPU, 5, loops=1),
    Case("lossless on one core, OTLP", "limit", "rate", RATE, 150_000, "more", -1),
    Case("lossless on one core, DataKit", "datakit limit", "rate", RATE, None, "more", -1),
    Case("workers = 2 against 1", "workers", "ratio", "x", 1.15),
    Case("16,667/s: share of a core", "million a minute", "core_share", "%", 12, loops=1),
    Case("16,667/s: peak memory", "million a minute", "peak_mb", MB, 350),
    Case("four times the limit, OTLP: lost", "overload", "lost", "spans", 0),
    Case("four times the limit, OTLP: taken", "overload", "taken_a_second", RATE, None, "more", -1),
    Case("four times the limit, OTLP: sent again", "overload", "pushed_back", "requests"),
    Case("four times the limit, OTLP: refused", "overload", "refused", "spans"),
    Case("four times the limit, OTLP: peak memory", "overload", "peak_mb", MB),
    Case("four times the limit, DataKit: lost", "datakit overload", "lost", "spans", 0),
    Case("four times the limit, DataKit: taken", "datakit overload", "taken_a_second", RATE, None, "more", -1),
    Case("four times the limit, DataKit: refused", "datakit overload", "refused", "spans"),
    Case("four times the limit, DataKit: peak memory", "datakit overload", "peak_mb", MB),
    Case("small requests, 3 to 5 spans", "small", "requests_per_cpu_s", "requests per CPU-s", 2_500, "more", -1),
    Case("small requests over HTTP", "small http", "requests_per_cpu_s", "requests per CPU-s", 2_500, "more", -1),
    Case("link alone, 1,000,000 rows, exact threads", "link exact", "cpu_s", "CPU-s", 0.5, loops=1),
    Case("link alone, 1,000,000 rows, agent threads", "link agent", "cpu_s", "CPU-s", None, loops=1),
    Case("last span to delivery beyond window, p99", "half", "beyond_window_p99_s", "s", 1),
    Case("last span to delivery beyond window, p50", "half", "beyond_window_p50_s", "s"),
)
SHORT_CASES = (
    Case("short: DataKit -> Dataway, 25,000/s", "short datakit", "cpu_per_million", CPU, loops=1),
    Case("short: OTLP -> OTLP, 25,000/s", "short otlp", "cpu_per_million", CPU, loops=1),
    Case("short: OTLP -> OTLP, peak memory", "short otlp", "peak_mb", MB),
    Case("short: link alone, 100,000 rows, agent threads", "short link", "cpu_s", "CPU-s", loops=1),
)
"""What CI measures in half a minute."""
