"""Keeps some of what leaves for the page: reads ticks again from the store, within a small share of the time."""

import time
from collections.abc import Callable

import anyio
from anyio import to_thread

from bridge.codec.otlp_encode import encode_requests
from bridge.component import SpanStore
from bridge.errors import StoreUnavailable
from bridge.spans import LinkedSpans
from bridge.web.traces import RecentTraces

SHARE = 0.01
"""Of the time of one core, which this may take: under load not every trace is kept."""
MIN_WAIT_S = 0.2
MAX_SPANS = 2_000
"""Read of one tick; the rest of a larger one is not kept."""
MAX_BEHIND = 64
"""Ticks; further back the reader skips to the newest."""
NO_LIMIT = 1 << 62
FORGET_S = 300.0


class RecentReader:
    """Reads what leaves into `traces`; `run` does so until cancelled."""

    def __init__(self, store: SpanStore, traces: RecentTraces, left_spans: Callable[[], float]) -> None:
        """left_spans: how many spans left to be exported since the start."""
        self._store, self._traces, self._left_spans = store, traces, left_spans
        self._news = anyio.Event()
        self._read_spans = 0
        self._marks: list[tuple[float, float, int]] = [(time.monotonic(), left_spans(), 0)]

    def notify(self) -> None:
        """Say that a tick was committed."""
        self._news.set()

    @property
    def share(self) -> float:
        """Of the spans that left in the last minutes, the share that was read."""
        _, left, read = self._marks[0]
        gone = self._left_spans() - left
        return min(1.0, (self._read_spans - read) / gone) if gone > 0 else 1.0

    async def run(self) -> None:
        """Read ticks as they come."""
        at = await self._store.last_tick()
        while True:
            self._news = anyio.Event()
            while (tick := await self._store.next_tick(at)) is not None:
                at = tick if await self._store.last_tick() - tick <= MAX_BEHIND else await self._store.last_tick()
                began = time.monotonic()
                await self._keep(at)
                self._mark()
                await anyio.sleep(max(MIN_WAIT_S, (time.monotonic() - began) / SHARE))
            await self._news.wait()

    async def _keep(self, tick: int) -> None:
        try:
            linked = await self._store.preview_tick(tick, MAX_SPANS)
        except (LookupError, StoreUnavailable):
            return  # delivered and forgotten meanwhile, or the store has worse to do
        await to_thread.run_sync(self._add, linked)
        self._read_spans += len(linked)

    def _add(self, linked: LinkedSpans) -> None:
        requests = [r for r, _ in encode_requests(linked, max_spans=NO_LIMIT, max_bytes=NO_LIMIT)]
        self._traces.add(requests, time.time())

    def _mark(self) -> None:
        now = time.monotonic()
        if now - self._marks[-1][0] >= FORGET_S / 5:
            self._marks.append((now, self._left_spans(), self._read_spans))
        while len(self._marks) > 1 and now - self._marks[0][0] > FORGET_S:
            self._marks.pop(0)
