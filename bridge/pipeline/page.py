"""What the page of [web] shows, put together from the parts that know it."""

import time
from collections.abc import Callable, Mapping

import anyio

from bridge import __version__
from bridge.component import SpanStore
from bridge.config import Settings
from bridge.pipeline.clock import Clock
from bridge.pipeline.recent import RecentReader, Timing
from bridge.telemetry.metrics import Metrics
from bridge.web.api import Api, Guard
from bridge.web.history import History, total
from bridge.web.overview import About, Overview
from bridge.web.traces import RecentTraces


class Page:
    """Traces that left a short while ago, the last hour's counters, and the state in words; `run` keeps all current."""

    def __init__(
        self,
        settings: Settings,
        store: SpanStore,
        metrics: Metrics,
        *,
        not_ready: Callable[[], str],
        last_errors: Callable[[], Mapping[str, str]],
        clock: Clock,
        memory_bytes: int,
    ) -> None:
        """memory_bytes: what kept traces may take."""
        self.addresses: Mapping[str, str] = {}
        """Of listeners by name, once they listen."""
        about = About(
            version=__version__,
            started_s=time.time(),
            window_s=settings.window_ns / 1e9,
            sampling_rate=settings.ebpftrace.sampling_rate,
            workers=settings.workers,
            listeners=lambda: self.addresses,
            trace_url=settings.web.trace_url or "",
        )
        self._samples = metrics.samples
        self._history = History(metrics.samples, time.time)
        self._overview = Overview(about, self._history, metrics.samples, not_ready=not_ready, last_errors=last_errors)
        self._traces = RecentTraces(settings.web.keep_traces, memory_bytes)
        self._reader: RecentReader | None = None
        if settings.web.keep_traces:
            self._reader = RecentReader(store, self._traces, self._left_spans, Timing(bridge_ns=clock.now_ns))

    def api(self, guard: Guard) -> Api:
        """The page and its data, for those whom the guard lets in."""
        if self._reader is None:
            return Api(self._overview, self._traces, share_since=lambda _: 0.0, guard=guard)
        share_since, look = self._reader.share_since, self._reader.look
        return Api(self._overview, self._traces, share_since=share_since, looked=look, guard=guard)

    def notify(self) -> None:
        """Say that a tick was committed."""
        if self._reader:
            self._reader.notify()

    def give_way(self, *, full: bool) -> None:
        """Let kept traces go, and keep no more of them, while memory is full."""
        if self._reader:
            self._reader.paused = full
        if full:
            self._traces.clear()

    async def run(self) -> None:
        """Keep what is shown current until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._history.run)
            if self._reader:
                tasks.start_soon(self._reader.run)

    def _left_spans(self) -> float:
        samples = self._samples()
        name = "linker_left_spans_total"
        return total(samples, name, outcome="export") + total(samples, name, outcome="pass")
