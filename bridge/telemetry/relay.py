"""Counts of a process that has no /metrics of its own: taken here, sent on, and added up by the one that has."""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from opentelemetry.metrics import Histogram, NoOpMeter

from bridge.telemetry.instruments import Instruments
from bridge.telemetry.tally import Attributes, Tally


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted and measured since the last time, by the instrument's name in `Instruments`."""

    added: tuple[tuple[str, Attributes, float], ...]
    """(instrument, attributes, sum); sums of 0 make a counter appear."""
    recorded: tuple[tuple[str, Attributes, tuple[float, ...]], ...]
    """(instrument, attributes, values)."""

    def __bool__(self) -> bool:
        return bool(self.added or self.recorded)


class RelayMeter(NoOpMeter):
    """A meter whose histograms keep what they are given until it is taken, as a `Tally` does with sums."""

    def __init__(self) -> None:
        super().__init__("bridge")

    def create_histogram(self, name: str, unit: str = "", description: str = "", **_: Any) -> Histogram:
        return _Values(name, unit, description)


class _Values(Histogram):
    def __init__(self, name: str, unit: str, description: str) -> None:
        self._values: dict[Attributes, list[float]] = {}
        self._lock = Lock()

    def record(self, amount: float, attributes: Mapping[str, Any] | None = None, context: object = None) -> None:
        key = tuple((attributes or {}).items())
        with self._lock:
            self._values.setdefault(key, []).append(amount)

    def take(self) -> dict[Attributes, list[float]]:
        with self._lock:
            values, self._values = self._values, {}
        return values


def take_counts(instruments: Instruments) -> Counts:
    """What instruments made from a `RelayMeter` were given since the last call."""
    added, recorded = [], []
    for name, instrument in vars(instruments).items():
        if isinstance(instrument, Tally):
            added += [(name, key, amount) for key, amount in instrument.take().items()]
        elif isinstance(instrument, _Values):
            recorded += [(name, key, tuple(values)) for key, values in instrument.take().items()]
    return Counts(tuple(added), tuple(recorded))


def add_counts(instruments: Instruments, counts: Counts) -> None:
    """Give these to instruments that are shown."""
    for name, attributes, amount in counts.added:
        getattr(instruments, name).add(amount, dict(attributes))
    for name, attributes, values in counts.recorded:
        for value in values:
            getattr(instruments, name).record(value, dict(attributes))
