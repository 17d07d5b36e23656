"""The tick: hands what arrived to the linker, commits what leaves, wakes the exporters, forgets what is past."""

import logging
import time
from collections.abc import Callable

import anyio

from bridge.component import SpanStore
from bridge.errors import StoreUnavailable
from bridge.linker import Assembler, Departed
from bridge.pipeline.catching_up import Backlog, Part
from bridge.pipeline.clock import Clock
from bridge.pipeline.departures import count_departed
from bridge.pipeline.effort import Effort
from bridge.pipeline.ingest import Arrivals
from bridge.telemetry import Instruments

logger = logging.getLogger(__name__)

FORGET_EVERY_NS = 5 * 10**9
RETRY_COMMIT_S = 1.0
ROW_BYTES = 1500
"""What a row takes while it is linked, decided on, read back and encoded, its payload apart."""
EFFORT_S = 0.25
"""Linking that takes longer is noted in parts: each is done with the effort that the one before leaves time for."""
FEWEST_ROWS = 1000
"""That leave in a tick whatever it takes: each tick is a transaction."""


class Drain:
    """Runs the linker on the bridge's clock; the only caller of the assembler."""

    def __init__(
        self,
        store: SpanStore,
        assembler: Assembler,
        ingest: Arrivals,
        clock: Clock,
        instruments: Instruments,
        *,
        tick_s: float,
        late_window_ns: int,
        committed: Callable[[], None],
        tick_bytes: int | None = None,
    ) -> None:
        """tick_bytes: what the rows that leave in one tick may take; the rest leaves in further ticks, at once."""
        self._store, self._assembler, self._ingest, self._clock = store, assembler, ingest, clock
        self._instruments, self._tick_s, self._late_window_ns = instruments, tick_s, late_window_ns
        self._committed, self._tick_bytes = committed, tick_bytes
        self._forgot_ns = clock.now_ns()
        self._effort = Effort(time.monotonic())
        self._backlog = Backlog(tick_s)
        self._linking_s = 0.0
        """How long the last tick took in linking."""
        self._given_up = False
        """Whether decisions were made that will not be committed: the linker is ahead of the store from then on."""
        self.leave_from_ns = 1 << 62
        """Nothing leaves before this time: receivers must have been open for a window after a start."""
        self.closed_ns = 1 << 62
        """When receivers stopped to take spans in: what is quiet since then is so for want of them, and stays."""
        self.last_tick = 0
        """Number of the newest committed tick."""
        self.stuck = ""
        """Why nothing can be committed at present, "" when it can."""

    async def recover(self) -> int:
        """Give the assembler back everything the store still keeps; return how many rows wait."""
        async for stored in self._store.recover():
            self._assembler.restore(
                stored.number,
                stored.columns,
                stored.arrival_ns,
                stored.left_rows,
                stored.left_ns,
                stored.decisions,
            )
        self.last_tick = await self._store.last_tick()
        self._ingest.waiting_in_linker = self._assembler.waiting
        return self._assembler.waiting

    async def run(self) -> None:
        """Tick until cancelled. An error of the linker ends it: decisions without it would be wrong for good."""
        while True:
            started = time.monotonic()
            more = await self.tick()
            await anyio.sleep(0 if more else max(0.0, self._tick_s - (time.monotonic() - started)))

    async def flush(self, *, force: bool = True) -> None:
        """Link all that arrived; with `force` let everything leave that waits, else what may."""
        while await self.tick(force=force):
            pass

    async def tick(self, *, force: bool = False) -> bool:
        """One tick; with `force` everything that waits may leave. Returns whether another one is due at once.

        When the caller is cancelled the tick is completed, unless the store refuses to commit it: then its decisions
        are given up, and made again from the store after the next start. Further ticks do nothing then.
        """
        if self._given_up:
            return False
        started = time.perf_counter()
        begun_ns = self._clock.now_ns()
        now = min(begun_ns, self.closed_ns)
        await self._ingest.collect()
        self._backlog.extend(self._ingest.take())
        part = self._backlog.next(now)
        force = force and part.last
        with self._instruments.tracer.begin("tick") as trace:
            if part.arrivals or self._assembler.retained:
                with anyio.CancelScope(shield=True):
                    departed = await anyio.to_thread.run_sync(self._link, part, force)
            else:
                departed = self._link(part, force)  # of nothing: done before a thread had begun
            trace.mark("link")
            self._ingest.waiting_in_linker = self._assembler.waiting + self._backlog.spans
            if len(departed.departure):
                await self._commit(departed, now)
                trace.mark("commit")
                trace.name_tick(self.last_tick)
                count_departed(self._instruments, departed)
                self._committed()
            else:
                trace.discard()
        self._instruments.tick_duration.record(time.perf_counter() - started)
        if now - self._forgot_ns >= FORGET_EVERY_NS:
            self._forgot_ns = now
            await self._forget(now)
        tick_s = (self._clock.now_ns() - begun_ns) / 1e9
        self._backlog.took(tick_s - self._linking_s, more=departed.more)
        return departed.more or not part.last

    def _link(self, part: Part, force: bool) -> Departed:
        started = begun = time.monotonic()
        while part.arrivals:  # columns are freed as they are taken over
            arrival = part.arrivals.popleft()
            self._assembler.add(arrival.number, arrival.columns, arrival.arrival_ns)
            if (now_s := time.monotonic()) - begun >= EFFORT_S:
                self._note_effort(now_s - begun, now_s)
                begun = now_s
        most = None
        if self._tick_bytes is not None:
            most = max(FEWEST_ROWS, int(self._tick_bytes / (ROW_BYTES + self._ingest.span_bytes)))
        leave = force or part.at_ns >= self.leave_from_ns
        departed = self._assembler.tick(part.at_ns, leave=leave, force=force, most=most)
        now_s = time.monotonic()
        self._note_effort(now_s - begun, now_s)
        self._linking_s = now_s - started
        return departed

    def _note_effort(self, linking_s: float, now_s: float) -> None:
        self._assembler.limit_timing(self._effort.note(linking_s, now_s))

    async def _commit(self, departed: Departed, now: int) -> None:
        """Commit until it works: the linker has decided, and a decision must not change."""
        self._given_up = True
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    self.last_tick = await self._store.commit_tick(departed.departure, now)
            except StoreUnavailable as exc:
                if not self.stuck:
                    logger.error("cannot commit decisions; nothing leaves until it works", extra={"reason": str(exc)})  # noqa: TRY400 -- an expected state, not a bug: no traceback
                self.stuck = str(exc)
                await anyio.sleep(RETRY_COMMIT_S)
            else:
                if self.stuck:
                    logger.warning("decisions can be committed again")
                self.stuck, self._given_up = "", False
                return

    async def _forget(self, now: int) -> None:
        try:
            await self._store.forget(now - self._late_window_ns)
        except StoreUnavailable as exc:
            logger.warning("cannot drop what is past; tried again later", extra={"reason": str(exc)})
