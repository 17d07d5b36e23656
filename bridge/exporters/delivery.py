"""Delivery: brings every committed tick to one exporter, retries, and keeps the exporter's cursor.

Guarantees: the cursor passes a tick only when its bodies, and those of all ticks before it, were taken or refused for
good. What a crash or a stop interrupts is delivered again after the next start, with equal ids. Memory holds what is
under way, `in_flight` bodies at most, however long the backend is away: what was not taken is encoded again.

A body that is not taken holds up no other one: it is parked, and its turn comes again beside the others. The cursor
does not pass it, and so payload behind it stays in the store until the backend takes it or an operator gives it up.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus

from bridge.component import Body, Exporter, SpanStore, TickSummary
from bridge.errors import BridgeError, PermanentError, RetryableError, StoreUnavailable
from bridge.exporters.circuit import Attempt, Circuit
from bridge.exporters.failures import NotTaken, Refused
from bridge.exporters.outbox import Outbox
from bridge.exporters.parked import Parked, Place
from bridge.exporters.repeats import Repeats
from bridge.exporters.retry import RetryPolicy
from bridge.spans import LinkedSpans
from bridge.telemetry import Instruments
from bridge.telemetry.own_traces import CLIENT, UNTRACED, Trace

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Args = TypeVarTuple("Args")

STORE_RETRY_S = 1.0
MAX_PARKED = 32
"""Bodies tried by turns while the backend takes none; beyond them no new one is begun until it does."""
ALONE = 3
"""A body that failed so often while others were taken is worth a word of its own."""


@dataclass(slots=True)
class _Tick:
    """The tick that is being encoded."""

    number: int
    bodies: Iterator[Body]
    index: int
    left: int
    """Spans of it that are in no body yet."""


class Delivery:
    """Delivers the ticks after an exporter's cursor, up to `in_flight` bodies at a time."""

    def __init__(
        self,
        exporter: Exporter,
        store: SpanStore,
        instruments: Instruments,
        *,
        retry: RetryPolicy | None = None,
        in_flight: int = 4,
        fresh_s: float | None = None,
    ) -> None:
        self.exporter = exporter
        self._store, self._instruments = store, instruments
        self._retry = retry or RetryPolicy()
        self._circuit = Circuit(self._retry)
        self._slots = anyio.Semaphore(in_flight)
        self._labels = {"exporter": exporter.name}
        # a counter that appears with its first event hides that event from whoever watches for an increase
        instruments.sent_spans.add(0, self._labels)
        for reason in ("refused", "operator", "quota"):
            instruments.failed_spans.add(0, {**self._labels, "reason": reason})
        # longer than it takes to notice that the backend is back: what was sent when it was already counts as new then
        self._outbox = Outbox(store, fresh_s=self._retry.max_s + 1.0 if fresh_s is None else fresh_s)
        self._tick: _Tick | None = None
        self._trace = UNTRACED
        """Of the body that was encoded last."""
        self._parked = Parked()
        self._parked_in_a_row = 0
        self._news = anyio.Event()
        self._settled = anyio.Event()
        self._advanced = anyio.Event()
        self._cursor = 0
        self._backend_error = ""
        self._parked_error = ""
        self._store_error = ""
        self._repeats = Repeats()
        self._giving_up = anyio.Lock()
        self._given_up_to = self._given_up = 0
        """What of ticks up to this one is not taken is given up; how many spans were."""
        self._give_up_reason = ""
        self.last_success_s = 0.0
        """When the backend took spans last, seconds since the epoch; 0 where it has not yet."""

    @property
    def cursor(self) -> int:
        """Every tick up to this one is delivered, and the store knows it."""
        return self._cursor

    @property
    def oldest_undelivered(self) -> int | None:
        """Number of the oldest tick that is being delivered, None when none is; those behind it are not counted."""
        return self._outbox.oldest_open

    @property
    def last_error(self) -> str:
        """What the latest failed attempt was answered, "" once a body was taken again and none is parked."""
        return self._backend_error or self._parked_error or self._store_error

    @property
    def up(self) -> bool:
        """Whether the backend takes bodies, as far as is known."""
        return not self._circuit.is_open

    @property
    def parked(self) -> int:
        """How many bodies were not taken and wait to be tried again."""
        return len(self._parked)

    @property
    def next_attempt_s(self) -> float | None:
        """Seconds until the backend is asked again, None where it takes what it is given; needs a running loop."""
        return self._circuit.next_attempt_s if self._circuit.is_open else None

    def notify(self, tick: int = 0) -> None:
        """Say that this tick was committed; 0: some tick. Never blocks; several calls may count as one."""
        if tick:
            self._outbox.committed(tick, time.monotonic())
        self._news.set()

    def retry_now(self) -> None:
        """End the present waits: ask the backend again, whatever it said, and try what is parked."""
        self._parked.release()
        self._circuit.retry_now()
        self._news.set()

    async def give_up(self, up_to_tick: int, reason: str) -> int:
        """Give up what is not delivered of the ticks up to and including this existing one; count it as lost.

        Returns how many spans, once the store knows. What is under way is waited for: where the backend takes it, it is
        not given up.
        """
        async with self._giving_up:
            if up_to_tick <= self._cursor:
                return 0
            self._given_up_to, self._give_up_reason, self._given_up = up_to_tick, reason, 0
            for after, last in self._outbox.give_up(up_to_tick):
                self._count_given_up((await self._store.summary(after, last)).spans)
            for place in self._parked.take_up_to(up_to_tick):
                self._count_given_up(place.spans)
                self._settle(place.tick)
            self._forget_parked_error()
            self._settled.set()
            self.retry_now()
            await self.drained(up_to_tick)
            return self._given_up

    async def standing(self) -> TickSummary:
        """What is not delivered yet; ticks of which a part is count as a whole."""
        ranges = self._outbox.undelivered(await self._store.last_tick())
        found = [await self._store.summary(after, last) for after, last in ranges]
        oldest_ns = min((part.oldest_ns for part in found if part.oldest_ns is not None), default=None)
        return TickSummary(sum(part.ticks for part in found), sum(part.spans for part in found), oldest_ns)

    async def drained(self, up_to_tick: int) -> None:
        """Return once the store knows that every tick up to this existing one is delivered."""
        while self._cursor < up_to_tick:
            await self._advanced.wait()

    async def run(self, cursor: int, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Deliver what comes after the cursor (as `SpanStore.register` gave it) until cancelled.

        Started once the exporter is running. Raises what its `running` raises.
        """
        self._outbox.start(cursor)
        self._move_cursor(cursor)
        async with self.exporter.running(), anyio.create_task_group() as tasks:
            task_status.started()
            tasks.start_soon(self._keep_cursor)
            while True:
                await self._slots.acquire()
                place, body = await self._next()
                attempt = await self._circuit.permit()
                tasks.start_soon(self._send, place, body, attempt, self._trace)
                del body  # it is as large as all that is encoded meanwhile

    # --- what is delivered next --------------------------------------------------------------------------------------

    async def _next(self) -> tuple[Place, Body]:
        """The body to deliver now; waits until there is one."""
        while True:
            self._news = anyio.Event()
            if (found := await self._parked_or_fresh()) is not None:
                return found
            with anyio.move_on_after(self._parked.next_due_s - anyio.current_time()):
                await self._news.wait()

    async def _parked_or_fresh(self) -> tuple[Place, Body] | None:
        """By turns, so that bodies that are never taken do not keep those that would be from being tried.

        While the backend is away each parked one is tried once before another is begun.
        """
        turns = len(self._parked) if self._circuit.is_open else 1
        full = self._circuit.is_open and len(self._parked) >= MAX_PARKED
        if self._parked_in_a_row < turns and (found := await self._parked_body()) is not None:
            self._parked_in_a_row += 1
            return found
        self._parked_in_a_row = 0
        if not full and (found := await self._fresh_body()) is not None:
            return found
        return await self._parked_body()

    async def _parked_body(self) -> tuple[Place, Body] | None:
        """The parked body that has been due for the longest. While the backend is away any may serve to ask it."""
        now_s = float("inf") if self._circuit.is_open else anyio.current_time()
        while (place := self._parked.pop(now_s)) is not None:
            linked = await self._read(place.tick)
            if linked is not None:
                bodies = islice(self.exporter.encode(linked), place.index, None)
                try:
                    body = await self._encoded(place.tick, bodies)
                except PermanentError as exc:
                    self._lose(exc, place.spans)
                else:
                    if body is not None:
                        return place, body
            self._settle(place.tick)
        return None

    async def _fresh_body(self) -> tuple[Place, Body] | None:
        """The next body of the tick that is being encoded, else the first of the next tick."""
        while True:
            tick = self._tick or await self._open_tick()
            if tick is None:
                return None
            if tick.number <= self._given_up_to:
                self._count_given_up(tick.left)
                self._end_tick(tick)
                continue
            try:
                body = await self._encoded(tick.number, tick.bodies)
            except PermanentError as exc:
                self._lose(exc, tick.left)
                body = None
            if body is not None:
                place = Place(0.0, tick.number, tick.index, body.spans)
                tick.index += 1
                tick.left -= body.spans
                self._outbox.add_body(tick.number)
                if not tick.left:
                    self._end_tick(tick)
                return place, body
            self._end_tick(tick)

    def _end_tick(self, tick: _Tick) -> None:
        """All of it is in bodies, or never will be."""
        self._tick = None
        self._settle(tick.number)

    async def _encoded(self, tick: int, bodies: Iterator[Body]) -> Body | None:
        trace = self._trace = self._instruments.tracer.follow(tick, "delivery", CLIENT, **self._labels)
        body = await to_thread.run_sync(next, bodies, None)
        trace.mark("encode")
        return body

    async def _open_tick(self) -> _Tick | None:
        while (number := await self._stored(self._outbox.next)) is not None:
            self._outbox.away = self._circuit.is_open
            linked = await self._read(number)
            if linked is not None:
                self._outbox.weigh(len(linked))
                self._tick = _Tick(number, iter(self.exporter.encode(linked)), 0, len(linked))
                return self._tick
            self._settle(number)
        return None

    async def _read(self, tick: int) -> LinkedSpans | None:
        """The tick, None where it was given up meanwhile: whoever did that has counted it."""
        try:
            return await self._stored(self._store.read_tick, tick)
        except LookupError:
            logger.info("a tick is gone before it was delivered", extra={**self._labels, "tick": tick})
            return None

    # --- delivering it -----------------------------------------------------------------------------------------------

    async def _send(self, place: Place, body: Body, attempt: Attempt, trace: Trace) -> None:
        """Try once; what is not taken is parked."""
        trace.mark("wait")
        try:
            with trace:
                later = await self._deliver(place, body, attempt)
                trace.mark("deliver")
                trace.note(spans=body.spans)
                trace.end("" if later is None else "not taken")
        finally:
            self._slots.release()
        if later is None:
            self._settle(place.tick)
        else:
            self._parked.add(later)
            self._news.set()

    async def _deliver(self, place: Place, body: Body, attempt: Attempt) -> Place | None:
        """Try once. Returns where and when to try again, None where that is settled."""
        started = time.perf_counter()
        try:
            with anyio.move_on_after(attempt.limit_s) as limit:
                await self._hand_over(body)
            if limit.cancelled_caught:
                raise NotTaken(f"no answer in {attempt.limit_s:g} s", reason="timeout")
        except RetryableError as exc:
            later = self._retry_later(exc, place, attempt)
            if place.tick > self._given_up_to:
                return later
            self._count_given_up(place.spans)
            self._forget_parked_error()
        except PermanentError as exc:
            lost = min(exc.spans, body.spans) if isinstance(exc, Refused) and exc.spans is not None else body.spans
            self._answered(place, attempt, body.spans - lost)
            self._lose(exc, lost)
        else:
            self._answered(place, attempt, body.spans)
        finally:
            self._instruments.delivery_duration.record(time.perf_counter() - started, self._labels)
        return None

    async def _hand_over(self, body: Body) -> None:
        """Have the exporter deliver it. What an exporter raises by mistake stops nobody else: its spans wait."""
        try:
            await self.exporter.deliver(body)
        except BridgeError:
            raise
        except Exception as exc:  # whatever it is
            if self._repeats.worth_logging(f"defect {type(exc).__name__}"):
                logger.exception("an exporter failed; its spans are kept and tried again", extra=self._labels)
            raise NotTaken(f"the exporter failed: {type(exc).__name__}", reason="internal") from exc

    def _answered(self, place: Place, attempt: Attempt, spans: int) -> None:
        if spans:
            self._instruments.sent_spans.add(spans, self._labels)
            self.last_success_s = time.time()
        if self._circuit.answered(attempt) and self._repeats.worth_logging("again"):
            logger.warning("backend takes spans again", extra=self._labels)
        self._backend_error = ""
        if place.alone:
            self._forget_parked_error()

    def _forget_parked_error(self) -> None:
        """Where no body is left that may have had it."""
        if not self._parked:
            self._parked_error = ""

    def _retry_later(self, exc: RetryableError, place: Place, attempt: Attempt) -> Place:
        reason = exc.reason if isinstance(exc, NotTaken) else "unavailable"
        self._instruments.retries.add(1, {**self._labels, "reason": reason})
        seen = attempt.taken_before if place.seen is None else place.seen
        if place.alone and self.up:
            seen = -1  # what failed alone once does so again, also where nothing else was there to be taken
        now_s = anyio.current_time()
        fields = {**self._labels, "reason": reason, "error": str(exc)}
        if self._circuit.failed(attempt, seen, exc.retry_after_s):
            self._outbox.away = True
            self._backend_error = str(exc)
            if self._repeats.worth_logging(f"{reason} {exc}"):
                if isinstance(exc, NotTaken) and exc.settings:
                    logger.error(
                        "backend refuses how it is asked; spans are kept until that is set right", extra=fields
                    )
                else:
                    logger.warning("backend does not take spans; they are kept and tried again", extra=fields)
            return replace(place, due_s=now_s, seen=attempt.taken_before)
        self._parked_error = str(exc)
        alone = place.alone + 1
        if alone >= ALONE and self._repeats.worth_logging(f"alone {reason} {exc}"):
            logger.warning(
                "backend takes other spans but not these; they are kept and tried again",
                extra={**fields, "tick": place.tick, "spans": place.spans, "attempts": alone},
            )
        wait_s = self._retry.body_wait_s(alone, random.random())  # noqa: S311 -- no secret
        return replace(place, due_s=now_s + wait_s, seen=attempt.taken_before, alone=alone)

    def _lose(self, exc: PermanentError, spans: int) -> None:
        reason = exc.reason if isinstance(exc, Refused) else "refused"
        self._backend_error = str(exc)
        if spans:
            self._instruments.failed_spans.add(spans, {**self._labels, "reason": reason})
        if self._repeats.worth_logging(f"{reason} {exc}"):
            logger.error(
                "spans lost: they will never be taken",
                extra={**self._labels, "reason": reason, "error": str(exc), "spans": spans},
            )

    def _count_given_up(self, spans: int) -> None:
        self._given_up += spans
        if spans:
            self._instruments.failed_spans.add(spans, {**self._labels, "reason": self._give_up_reason})

    def _settle(self, tick: int) -> None:
        self._outbox.settle(tick)
        self._settled.set()

    async def _keep_cursor(self) -> None:
        while True:
            self._settled = anyio.Event()
            delivered = self._outbox.delivered
            if delivered > self._cursor:
                await self._stored(self._store.advance, self.exporter.name, delivered)
                self._move_cursor(delivered)
            else:
                await self._settled.wait()

    def _move_cursor(self, tick: int) -> None:
        self._cursor = tick
        self._advanced.set()
        self._advanced = anyio.Event()

    async def _stored(self, call: Callable[[*Args], Awaitable[Result]], *args: *Args) -> Result:
        """Call the store until it can serve the call."""
        while True:
            try:
                result = await call(*args)
            except StoreUnavailable as exc:
                self._store_error = str(exc)
                if self._repeats.worth_logging(f"store {exc}"):
                    logger.warning(
                        "store cannot serve a delivery; tried again", extra={**self._labels, "error": str(exc)}
                    )
                await anyio.sleep(STORE_RETRY_S)
            else:
                self._store_error = ""
                return result
