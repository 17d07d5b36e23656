"""Keeps some of what leaves for the page: reads ticks again from the store, within a small share of the time.

How small depends on whether somebody looks: what nobody asks for is not worth a hundredth of a core.
"""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf

import anyio
from anyio import to_thread
from google.protobuf.message import DecodeError

from bridge.codec.otlp_encode import TraceSpans, encode_traces
from bridge.component import SpanStore
from bridge.errors import InvalidData, StoreUnavailable
from bridge.pipeline.clock import Clock
from bridge.spans import LinkedSpans
from bridge.web.traces import RecentTraces

logger = logging.getLogger(__name__)

LOOKED_S = 60.0
"""So long after a request for kept traces somebody still looks at them."""
MIN_WAIT_S = 0.2
MAX_SPANS = 2_000
"""Read of one tick; the rest of a larger one is not kept."""
MAX_BEHIND = 64
"""Ticks; further back the reader skips to the newest."""
MARK_EVERY_S, MARKS = 30.0, 121
"""An hour of marks, and its begin."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be taken of the time of one core, unpacking for those who look included."""

    share: float
    """Under load not every trace is kept."""
    burst_s: float
    """So much of it may be taken at once after a while in which it was not: a quiet bridge shows everything soon."""


UNSEEN, SEEN = Allowance(0.002, 0.05), Allowance(0.01, 0.5)
"""While nobody looks, and while somebody does."""


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
    """What is allowed of the time that passes, saved up."""

    def __init__(self, now_s: float) -> None:
        self._allowed, self._saved_s, self._at_s = UNSEEN, UNSEEN.burst_s, now_s

    def allow(self, now_s: float, allowed: Allowance) -> None:
        """Count in what was allowed up to now; from now on it is this much."""
        saved_s = self._saved_s + self._allowed.share * (now_s - self._at_s)
        self._allowed, self._saved_s, self._at_s = allowed, min(allowed.burst_s, saved_s), now_s

    def spend(self, seconds: float) -> None:
        """Count out what was taken."""
        self._saved_s -= seconds

    @property
    def wait_s(self) -> float:
        """How long to wait until what was spent is there again."""
        return max(0.0, round(-self._saved_s / self._allowed.share, 3))


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
        self._news, self._looks = anyio.Event(), anyio.Event()
        self._looked_s = -inf
        self._read_spans = 0
        self._budget = Budget(timing.monotonic_s())
        self._marks = deque([_Mark(timing.now_s(), left_spans(), 0)], MARKS)
        self._told = False
        self.paused = False
        """Whether nothing is read for the time being."""

    def notify(self) -> None:
        """Say that a tick was committed."""
        self._news.set()

    def look(self) -> None:
        """Say that somebody looks at kept traces."""
        if not self._seen():
            self._looks.set()
        self._looked_s = self._timing.monotonic_s()

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
                self._allow()
                began_s, cpu_s = timing.monotonic_s(), timing.cpu_s()
                if not self.paused and not await self._keep(at):
                    at = max(at, newest - 1)  # what is older was forgotten as well, or will be soon
                # both have more than this took: one what others on the machine did meanwhile, one what the bridge did
                self._budget.spend(min(timing.monotonic_s() - began_s, timing.cpu_s() - cpu_s))
                await self._wait()
            await self._news.wait()

    def _seen(self) -> bool:
        return self._timing.monotonic_s() - self._looked_s < LOOKED_S

    def _allow(self) -> None:
        self._budget.allow(self._timing.monotonic_s(), SEEN if self._seen() else UNSEEN)

    async def _wait(self) -> None:
        """A moment, and until what was spent is there again, which is sooner once somebody looks."""
        least_s = MIN_WAIT_S
        while True:
            self._looks = anyio.Event()
            self._allow()
            self._budget.spend(self._traces.unpacking.taken())
            if not (wait_s := max(least_s, self._budget.wait_s)):
                return
            least_s = 0.0
            async with anyio.create_task_group() as either:
                either.start_soon(_then, self._looks.wait, either.cancel_scope.cancel)
                await self._timing.sleep(wait_s)
                either.cancel_scope.cancel()

    async def _keep(self, tick: int) -> bool:
        """Keep what is read of a tick; False where it is not there any more."""
        try:
            linked = await self._store.preview_tick(tick, MAX_SPANS)
            left_ns = (await self._store.summary(tick - 1, tick)).oldest_ns or self._timing.bridge_ns()
        except LookupError:
            return False  # delivered and forgotten meanwhile
        except StoreUnavailable:
            return True  # the store has worse to do
        left_s = self._timing.now_s() - (self._timing.bridge_ns() - left_ns) / 1e9
        await to_thread.run_sync(self._add, linked, left_s)
        self._read_spans += len(linked)
        return True

    def _add(self, linked: LinkedSpans, left_s: float) -> None:
        try:
            for spans in encode_traces(linked):
                self._add_trace(spans, left_s, linked.tick)
        except InvalidData as exc:
            self._tell(linked.tick, exc)

    def _add_trace(self, spans: TraceSpans, left_s: float, tick: int) -> None:
        try:
            self._traces.add(spans, left_s)
        except DecodeError as exc:
            self._tell(tick, exc)

    def _tell(self, tick: int, reason: Exception) -> None:
        """Exporters tell of such spans, too; that the page cannot show them must not end anything."""
        if not self._told:
            self._told = True
            logger.warning("the page cannot show some spans", extra={"tick": tick, "reason": str(reason)})

    def _mark(self) -> None:
        now_s = self._timing.now_s()
        if now_s - self._marks[-1].time_s >= MARK_EVERY_S:
            self._marks.append(_Mark(now_s, self._left_spans(), self._read_spans))


async def _then(event: Callable[[], Awaitable[object]], do: Callable[[], None]) -> None:
    await event()
    do()
