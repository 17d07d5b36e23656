"""One load from its first span to its last delivery, and what it cost the bridge."""

from dataclasses import dataclass
from typing import Any

from tests.bench.load import Load
from tests.bench.scene import Scene, scene

DRIVER_LIMIT = 0.8
KEPT_UP_S = 2.0
"""What keeps up delivers its last span within the window and this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run came to."""

    load: Load
    report: dict[str, Any]
    """The generator's."""
    totals: dict[str, Any]
    """The sink's."""
    bridge_cpu_s: float
    peak_mb: float
    sink_cpu_s: float
    """During the load."""

    @property
    def spans(self) -> int:
        """Spans acknowledged."""
        return int(self.report["acknowledged"])

    @property
    def lost(self) -> int:
        """Spans acknowledged that never came."""
        return self.spans - int(self.totals["distinct"])

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds of all processes and threads of the bridge per million spans."""
        return self.bridge_cpu_s / max(self.spans, 1) * 1e6

    @property
    def driver_share(self) -> float:
        """Share of their core that generator and sink had in use during the load."""
        return float(self.report["cpu_s"] + self.sink_cpu_s) / float(self.report["elapsed_s"])

    @property
    def delivered_s(self) -> float:
        """From the first span to the last delivery."""
        return float(self.totals["last_ns"] - self.report["begun_ns"]) / 1e9

    @property
    def kept_up(self) -> bool:
        """Whether the bridge took the load as it came, and delivered it in time."""
        behind_s = self.delivered_s - self.report["elapsed_s"] - self.load.window_s
        taken = not self.report["refused"] and self.report["late_s"] < 1.0
        return taken and not self.lost and behind_s < KEPT_UP_S

    def values(self) -> dict[str, float]:
        """Everything a case may ask for."""
        report, elapsed_s = self.report, float(self.report["elapsed_s"])
        return {
            "spans": self.spans,
            "lost": self.lost,
            "copies": self.totals["copies"],
            "cpu_per_million": self.cpu_per_million,
            "core_share": self.cpu_per_million * self.load.rate / 1e6 * 100,
            "peak_mb": self.peak_mb,
            "requests_per_cpu_s": report["requests"] / self.bridge_cpu_s,
            "refused": report["refused"],
            "pushed_back": report["retries"],
            "taken_a_second": self.spans / elapsed_s,
            "late_s": report["late_s"],
            "beyond_window_p99_s": self.totals["late_p99_s"] - self.load.window_s,
            "beyond_window_p50_s": self.totals["late_p50_s"] - self.load.window_s,
            "through_a_second": self.spans / max(self.delivered_s - self.load.window_s, 0.1),
            "driver_share": self.driver_share,
        }

    def notes(self) -> list[str]:
        """What has to be known beside the values."""
        found = []
        if self.driver_share > DRIVER_LIMIT:
            found.append(f"does not count: generator and sink at {self.driver_share:.0%} of their core")
        if self.report["late_s"] > 1:
            found.append(f"{self.report['late_s']:.1f} s behind the rate, {self.report['unsent']} spans not sent")
        if self.report["refused"]:
            found.append(f"{self.report['refused']} refused")
        if self.lost:
            found.append(f"{self.lost} LOST")
        return found


def run(load: Load) -> Figures:
    """Put a load on a bridge of its own. Raises RunFailed where a process fails."""
    with scene(load) as at:
        return measured(at)


def measured(at: Scene) -> Figures:
    """Put the scene's load on its bridge."""
    cpu_s, sink_s = at.bridge.cpu_s(), at.sink.cpu_s()
    report = at.generate()
    sink_s = at.sink.cpu_s() - sink_s
    totals = at.delivered(report["acknowledged"])
    return Figures(
        load=at.load, report=report, totals=totals, bridge_cpu_s=at.bridge.cpu_s() - cpu_s,
        peak_mb=at.bridge.peak_mb(), sink_cpu_s=sink_s,
    )  # fmt: skip
