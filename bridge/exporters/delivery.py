"""Delivery: brings every committed tick to one exporter, retries, and keeps the exporter's cursor.

Guarantees: the cursor passes a tick only when its bodies, and those of all ticks before it, were taken or refused for
good. What a crash or a stop interrupts is delivered again after the next start, with equal ids.
"""

import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup, TaskStatus

from bridge.component import Body, Exporter, SpanStore
from bridge.errors import PermanentError, RetryableError, StoreUnavailable
from bridge.exporters.failures import NotTaken, Refused
from bridge.exporters.outbox import Outbox
from bridge.telemetry import Instruments

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Args = TypeVarTuple("Args")

LOG_AGAIN_S = 60.0
MAX_LOGGED_TEXTS = 64
STORE_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff without end; the defaults are those people know from the Collector."""

    initial_s: float = 5.0
    multiplier: float = 1.5
    max_s: float = 30.0
    jitter: float = 0.5
    """Each wait is drawn from (1 - jitter, 1 + jitter) times the backoff, so that many senders do not come in step."""
    max_retry_after_s: float = 3600.0
    """No backend may silence an exporter for longer, whatever its clock says."""

    def wait_s(self, attempt: int, retry_after_s: float | None, spread: float) -> float:
        """Seconds to wait after this failed attempt (1 is the first); `spread` is uniform in [0, 1).

        A time the backend named is honoured: never less, and up to a tenth more.
        """
        if retry_after_s is not None and retry_after_s > 0:
            return min(retry_after_s, self.max_retry_after_s) * (1 + 0.1 * spread)
        # past this many steps the backoff is at its maximum anyway, and the power would overflow one day
        steps = min(attempt - 1, 100)
        backoff = min(self.initial_s * self.multiplier**steps, self.max_s)
        return backoff * (1 - self.jitter + 2 * self.jitter * spread)


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
    ) -> None:
        self.exporter = exporter
        self._store, self._instruments = store, instruments
        self._retry = retry or RetryPolicy()
        self._slots = anyio.Semaphore(in_flight)
        self._labels = {"exporter": exporter.name}
        # a counter that appears with its first event hides that event from whoever watches for an increase
        instruments.sent_spans.add(0, self._labels)
        instruments.failed_spans.add(0, {**self._labels, "reason": "refused"})
        self._outbox = Outbox(store)
        self._news = anyio.Event()
        self._settled = anyio.Event()
        self._advanced = anyio.Event()
        self._cursor = 0
        self._failing = False
        self._backend_error = ""
        self._store_error = ""
        self._logged: dict[str, float] = {}

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
        """What the latest failed attempt was answered, "" once a body was taken again."""
        return self._backend_error or self._store_error

    def notify(self) -> None:
        """Say that a tick was committed. Never blocks; several calls may count as one."""
        self._news.set()

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
                self._news = anyio.Event()
                while (tick := await self._stored(self._outbox.next)) is not None:
                    await self._send_tick(tick, tasks)
                await self._news.wait()

    async def _send_tick(self, tick: int, tasks: TaskGroup) -> None:
        """Encode the tick body by body and hand each to a task of its own; waits while all slots are taken."""
        linked = await self._stored(self._store.read_tick, tick)
        bodies: Iterator[Body] = iter(self.exporter.encode(linked))
        left = len(linked)
        while True:
            try:
                body = await to_thread.run_sync(next, bodies, None)
            except PermanentError as exc:
                self._lose(exc, left)
                break
            if body is None:
                break
            left -= body.spans
            await self._slots.acquire()
            self._outbox.add_body(tick)
            tasks.start_soon(self._send, tick, body)
        self._settle(tick)

    async def _send(self, tick: int, body: Body) -> None:
        try:
            await self._deliver(body)
        finally:
            self._slots.release()
        self._settle(tick)

    async def _deliver(self, body: Body) -> None:
        """Try until the backend took the body or refused it for good."""
        for attempt in itertools.count(1):
            started = time.perf_counter()
            try:
                await self.exporter.deliver(body)
            except RetryableError as exc:
                self._retry_later(exc)
                wait_s = self._retry.wait_s(attempt, exc.retry_after_s, random.random())  # noqa: S311 -- no secret
            except PermanentError as exc:
                lost = exc.spans if isinstance(exc, Refused) and exc.spans is not None else body.spans
                self._count_sent(body.spans - lost)
                self._lose(exc, lost)
                return
            else:
                self._count_sent(body.spans)
                return
            finally:
                self._instruments.delivery_duration.record(time.perf_counter() - started, self._labels)
            await anyio.sleep(wait_s)

    def _count_sent(self, spans: int) -> None:
        if spans:
            self._instruments.sent_spans.add(spans, self._labels)
        if self._failing:
            logger.warning("backend takes spans again", extra=self._labels)
        self._backend_error, self._failing = "", False

    def _retry_later(self, exc: RetryableError) -> None:
        reason = exc.reason if isinstance(exc, NotTaken) else "unavailable"
        self._backend_error, self._failing = str(exc), True
        self._instruments.retries.add(1, {**self._labels, "reason": reason})
        if self._worth_logging(f"{reason} {exc}"):
            logger.warning(
                "backend does not take spans; they are kept and tried again",
                extra={**self._labels, "reason": reason, "error": str(exc)},
            )

    def _lose(self, exc: PermanentError, spans: int) -> None:
        reason = exc.reason if isinstance(exc, Refused) else "refused"
        self._backend_error = str(exc)
        if spans:
            self._instruments.failed_spans.add(spans, {**self._labels, "reason": reason})
        if self._worth_logging(f"{reason} {exc}"):
            logger.error(
                "spans lost: they will never be taken",
                extra={**self._labels, "reason": reason, "error": str(exc), "spans": spans},
            )

    def _worth_logging(self, text: str) -> bool:
        """Whether this text was not logged within the last minute; too many different ones count as one."""
        now = time.monotonic()
        self._logged = {known: until for known, until in self._logged.items() if until > now}
        if text in self._logged or len(self._logged) >= MAX_LOGGED_TEXTS:
            return False
        self._logged[text] = now + LOG_AGAIN_S
        return True

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
                if self._worth_logging(f"store {exc}"):
                    logger.warning(
                        "store cannot serve a delivery; tried again", extra={**self._labels, "error": str(exc)}
                    )
                await anyio.sleep(STORE_RETRY_S)
            else:
                self._store_error = ""
                return result
