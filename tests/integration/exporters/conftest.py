"""Parts around a delivery: a store that keeps ticks in memory, an exporter that answers as it is told, its counts."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bridge.component import Body, TickSummary
from bridge.errors import PermanentError, StoreUnavailable
from bridge.spans import LinkedSpans
from bridge.telemetry import Instruments
from tests.support.linked import linked_spans


class TickStore:
    """The part of a SpanStore that a delivery meets. Tick numbers need not be dense."""

    def __init__(self) -> None:
        self.ticks: dict[int, LinkedSpans] = {}
        self.cursors: list[int] = []
        """Every cursor that was noted, in order."""
        self.failures: dict[str, int] = defaultdict(int)
        """How often each method still raises StoreUnavailable."""
        self.gone: set[int] = set()
        """Ticks whose payload was given up."""

    def add(self, tick: int, spans: int = 2) -> int:
        self.ticks[tick] = linked_spans(spans, tick=tick)
        return tick

    def _maybe_fail(self, method: str) -> None:
        if self.failures[method]:
            self.failures[method] -= 1
            raise StoreUnavailable("disk full")

    async def last_tick(self) -> int:
        return max(self.ticks, default=0)

    async def next_tick(self, after: int) -> int | None:
        self._maybe_fail("next_tick")
        return min((tick for tick in self.ticks if tick > after), default=None)

    async def read_tick(self, number: int) -> LinkedSpans:
        self._maybe_fail("read_tick")
        if number in self.gone:
            raise LookupError(f"tick {number} is gone")
        return self.ticks[number]

    async def summary(self, after: int, up_to: int) -> TickSummary:
        """Of ticks that left at the time of their number."""
        found = [tick for tick in self.ticks if after < tick <= up_to]
        return TickSummary(len(found), sum(len(self.ticks[tick]) for tick in found), min(found, default=None))

    async def advance(self, exporter: str, tick: int) -> None:
        self._maybe_fail("advance")
        self.cursors.append(tick)


class ScriptedExporter:
    """One body a span, named tick:position; raises what the script has for a body, one after another, then takes it."""

    def __init__(self, name: str = "scripted") -> None:
        self.name = name
        self.script: dict[str, list[Exception]] = defaultdict(list)
        self.gates: dict[str, anyio.Event] = {}
        """Bodies that wait for an event before they are answered."""
        self.taken: list[str] = []
        self.attempts: list[str] = []
        self.running_now = False
        self.at_once = self.most_at_once = 0
        self.unreadable: set[int] = set()
        self.attempted = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.running_now = True
        yield
        self.running_now = False

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        if linked.tick in self.unreadable:
            raise PermanentError("payload cannot be read")
        for position in range(len(linked)):
            yield Body(f"{linked.tick}:{position}".encode(), 1)

    async def deliver(self, body: Body) -> None:
        assert self.running_now
        key = body.data.decode()
        self.attempts.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.attempted.set()
        try:
            if key in self.gates:
                await self.gates[key].wait()
            if self.script[key]:
                raise self.script[key].pop(0)
            self.taken.append(key)
        finally:
            self.at_once -= 1


class Counts:
    """Instruments that can be read."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])
        self.instruments = Instruments(self.provider.get_meter("test"))

    def read(self, name: str) -> dict[str, int]:
        """Sum by reason, or under "" where there is none; sums of 0 left out."""
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in (data.resource_metrics if data else []) for scope in resource.scope_metrics]
        metrics = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
        return {str(p.attributes.get("reason", "")): p.value for m in metrics for p in m.data.data_points if p.value}


@pytest.fixture
def counts() -> Iterator[Counts]:
    counts = Counts()
    yield counts
    counts.provider.shutdown()


@pytest.fixture
def store() -> TickStore:
    return TickStore()


@pytest.fixture
async def exporter(anyio_backend: str) -> ScriptedExporter:
    return ScriptedExporter()
