"""docs/metrics.md lists every instrument as /metrics shows it."""

import re
from pathlib import Path

from opentelemetry.metrics import Counter, Histogram

from bridge.telemetry import Instruments
from bridge.telemetry.levels import Level
from bridge.telemetry.metrics import running_metrics

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([\w, ]*)\| (.+) \|$", re.M)


def shown() -> dict[str, tuple[str, str]]:
    """Type and text of each metric, by name, as /metrics has it once everything was used."""
    with running_metrics("0") as metrics:
        instruments = Instruments(metrics.meter)
        for instrument in vars(instruments).values():
            if isinstance(instrument, Counter):
                instrument.add(1)
            elif isinstance(instrument, Histogram):
                instrument.record(1)
        instruments.watch_waiting_spans(lambda: 1)
        instruments.watch_retained_spans(lambda: 1)
        instruments.watch_memory(lambda: 1, 2, lambda: True)
        instruments.watch_undelivered_ticks(lambda: {"backend": 1})
        instruments.watch_oldest_undelivered(lambda: {"backend": 1.0})
        each = {"backend": 1}
        instruments.watch_exporters(up=lambda: each, parked=lambda: each, last_success_s=lambda: {"backend": 1.5})
        instruments.watch_store(lambda: {"used": 1, "free": 1, "limit": 1})
        instruments.watch_certificate_expiries(lambda: {"web": 1.5})
        instruments.watch_process(cpu_s=lambda: 1.5, uptime_s=lambda: 1.5, version="0")
        instruments.levels.watch("web", lambda: Level(1, 1, 1))
        instruments.watch_listeners()
        text = metrics.prometheus_text().decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    texts = dict(re.findall(r"^# HELP (\w+) (.+)$", text, re.M))
    return {name: (types[name], texts[name]) for name in types if name != "target_info"}


def listed() -> dict[str, tuple[str, str]]:
    return {name: (kind, meaning) for name, kind, _, meaning in ROW.findall(PAGE.read_text())}


def test_every_instrument_is_listed_with_its_type_and_meaning() -> None:
    """And nothing is listed that is not there."""
    assert listed() == shown()


def test_histograms_of_time_have_buckets_below_a_second() -> None:
    """The SDK's own buckets are made for milliseconds: all our times would lie in the first."""
    with running_metrics("0") as metrics:
        Instruments(metrics.meter).tick_duration.record(0.003)
        text = metrics.prometheus_text().decode()
    assert 'linker_tick_duration_seconds_bucket{le="0.002"} 0.0' in text
    assert 'linker_tick_duration_seconds_bucket{le="0.005"} 1.0' in text
