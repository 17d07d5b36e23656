"""Keeps some of what leaves for the page: reads ticks again from the store, within a small share of the time."""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from anyio import to_thread
from google.protobuf.message import DecodeError

from bridge.codec.otlp_encode import encode_requests
from bridge.component import SpanStore
from bridge.errors import InvalidData, StoreUnavailable
from bridge.pipeline.clock import Clock
from bridge.spans import LinkedSpans
from bridge.web.traces import RecentTraces

logger = logging.getLogger(__name__)

SHARE = 0.01
"""Of the time of one core, which this may take: under load not every trace is kept."""
BURST_S = 2.0
"""So much of it may be taken at once after a while in which it was not: a quiet bridge shows everything soon."""
MIN_WAIT_S = 0.2
MAX_SPANS = 2_000
"""Read of one tick; the rest of a larger one is not kept."""
MAX_BEHIND = 64
"""Ticks; further back the reader skips to the newest."""
NO_LIMIT = 1 << 62
MARK_EVERY_S, MARKS = 30.0, 121
"""An hour of marks, and its begin."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Clocks, and how time is let pass."""

    now_s: Callable[[], float] = time.time
    """Seconds since the epoch."""
    bridge_ns: Callable[[], int] = Clock().now_ns
    """What ticks are dated by; a jump of the wall clock does not touch it."""
    monotonic_s: Callable[[], float] = time.monotonic
    cpu_s: Callable[[], float] = time.process_time
    """Of the whole process."""
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


@dataclass(frozen=True, slots=True)
class _Mark:
    time_s: float
    left: float
    """Spans that left up to then."""
    read: int
    """Spans that were read up to then."""


class Budget:
    """SHARE of the time that passes, saved up to BURST_S."""

    def __init__(self, now_s: float) -> None:
        self._saved_s, self._at_s = BURST_S, now_s

    def wait_s(self, began_s: float, took_s: float) -> float:
        """How long to wait after work that began then and took so long, so that what was spent is there again."""
        self._saved_s = min(BURST_S, self._saved_s + SHARE * (began_s - self._at_s)) - took_s
        self._at_s = began_s
        return max(0.0, -self._saved_s / SHARE)


class RecentReader:
    """Reads what leaves into `traces`; `run` does so until cancelled."""

    def __init__(
        self,
        store: SpanStore,
        traces: RecentTraces,
        left_spans: Callable[[], float],
        timing: Timing = Timing(),
    ) -> None:
        """left_spans: how many spans left to be exported since the start."""
        self._store, self._traces, self._left_spans, self._timing = store, traces, left_spans, timing
        self._news = anyio.Event()
        self._read_spans = 0
        self._budget = Budget(timing.monotonic_s())
        self._marks = deque([_Mark(timing.now_s(), left_spans(), 0)], MARKS)
        self._told = False
        self.paused = False
        """Whether nothing is read for the time being."""

    def notify(self) -> None:
        """Say that a tick was committed."""
        self._news.set()

    def share_since(self, time_s: float) -> float:
        """Of the spans that left since then (seconds since the epoch), the share that was read; 1 where none left."""
        marks = list(self._marks)  # another thread may add to it meanwhile
        mark = next((m for m in reversed(marks) if m.time_s <= time_s), marks[0])
        gone = self._left_spans() - mark.left
        return min(1.0, (self._read_spans - mark.read) / gone) if gone > 0 else 1.0

    async def run(self) -> None:
        """Read ticks as they come."""
        timing = self._timing
        at = await self._store.last_tick()
        while True:
            self._news = anyio.Event()
            while (tick := await self._store.next_tick(at)) is not None:
                newest = await self._store.last_tick()
                at = tick if newest - tick <= MAX_BEHIND else newest
                self._mark()
                began_s, cpu_s = timing.monotonic_s(), timing.cpu_s()
                if not self.paused:
                    await self._keep(at)
                # both have more than this took: one what others on the machine did meanwhile, one what the bridge did
                took_s = min(timing.monotonic_s() - began_s, timing.cpu_s() - cpu_s)
                await timing.sleep(max(MIN_WAIT_S, self._budget.wait_s(began_s, took_s)))
            await self._news.wait()

    async def _keep(self, tick: int) -> None:
        try:
            linked = await self._store.preview_tick(tick, MAX_SPANS)
            left_ns = (await self._store.summary(tick - 1, tick)).oldest_ns or self._timing.bridge_ns()
        except (LookupError, StoreUnavailable):
            return  # delivered and forgotten meanwhile, or the store has worse to do
        left_s = self._timing.now_s() - (self._timing.bridge_ns() - left_ns) / 1e9
        await to_thread.run_sync(self._add, linked, left_s)
        self._read_spans += len(linked)

    def _add(self, linked: LinkedSpans, left_s: float) -> None:
        try:
            self._traces.add(_requests(linked), left_s)
        except (DecodeError, InvalidData) as exc:
            # exporters tell of such spans, too; that the page cannot show them must not end anything
            if not self._told:
                self._told = True
                logger.warning("the page cannot show some spans", extra={"tick": linked.tick, "reason": str(exc)})

    def _mark(self) -> None:
        now_s = self._timing.now_s()
        if now_s - self._marks[-1].time_s >= MARK_EVERY_S:
            self._marks.append(_Mark(now_s, self._left_spans(), self._read_spans))


def _requests(linked: LinkedSpans) -> list[bytes]:
    return [request for request, _ in encode_requests(linked, max_spans=NO_LIMIT, max_bytes=NO_LIMIT)]
