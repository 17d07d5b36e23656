"""Answers held back while what was sent cannot be taken, up to a bound in time and in number."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from google.rpc.code_pb2 import Code

from bridge.errors import BridgeError, RetryableError, Throttled
from bridge.receivers.admission import TIMED_OUT, Admission, Lease
from bridge.receivers.refusals import Refusal, Refused

T = TypeVar("T")
_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.25
"""A sender waits for its answer and nothing else: it is tried again soon, whatever time the error names."""
_TURNS = 8
"""So many of those that are held are tried, the ones that came first: where all were, some would lose to OTLP's senders
and to each other time after time, until they are lost."""


class Holding:
    """Knows how many requests are being held. For one event loop."""

    def __init__(self, *, hold_s: float, max_held: int, held: Callable[[], None]) -> None:
        """held: called once for each request whose answer is held back."""
        self.hold_s, self._max_held, self._count_held = hold_s, max_held, held
        self._held = 0
        self._turns = anyio.Semaphore(_TURNS)

    @property
    def requests(self) -> int:
        """How many requests are being held now."""
        return self._held

    async def enter(self, admission: Admission, deadline: float) -> Lease:
        """Count a request in, waiting for room. Raises Refused when there is none by the deadline."""
        try:
            return admission.enter()
        except Throttled:
            async with self._holding():
                try:
                    return await admission.enter_by(deadline)
                except Throttled as exc:
                    raise Refused(self._held_too_long(exc)) from exc

    async def run(self, lease: Lease, work: Awaitable[T], within_s: float) -> T:
        """What the work returns; see `Lease.run`. What takes longer was held too long, too."""
        try:
            return await lease.run(work, within_s)
        except Refused as exc:
            if exc.refusal.reason == TIMED_OUT:
                raise Refused(self._held_too_long(exc)) from exc
            raise

    async def claim(self, lease: Lease, size: int, deadline: float) -> None:
        """Count in bytes, waiting for room. Raises Refused when there is none by the deadline."""
        try:
            lease.take(size)
        except RetryableError:
            async with self._holding():
                try:
                    await lease.take_by(size, deadline)
                except RetryableError as exc:
                    raise Refused(self._held_too_long(exc)) from exc

    async def until_taken(self, attempt: Callable[[], Awaitable[None]], deadline: float) -> None:
        """Return when an attempt succeeds. Raises Refused when none did by the deadline.

        An attempt that fails with anything but RetryableError is the last one. If cancelled between two attempts
        nothing was taken.
        """
        try:
            return await attempt()
        except RetryableError as exc:
            last = exc
        wait_s = _FIRST_WAIT_S
        async with self._holding(), self._turn(deadline):
            while (left_s := deadline - anyio.current_time()) > 0:
                await anyio.sleep(min(wait_s, left_s))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                try:
                    return await attempt()
                except RetryableError as exc:
                    last = exc
        raise Refused(self._held_too_long(last)) from last

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[None]:
        """Wait until it is this one's turn, until the deadline at most."""
        mine = False
        with anyio.CancelScope(deadline=deadline):
            await self._turns.acquire()
            mine = True
        try:
            yield
        finally:
            if mine:
                self._turns.release()

    @asynccontextmanager
    async def _holding(self) -> AsyncIterator[None]:
        if self._held >= self._max_held:
            text = f"{self._held} requests are being held already (receivers.datakit.max_held_requests)"
            raise Refused(Refusal("too_many_held", Code.UNAVAILABLE, 503, text, retry_after_s=self.hold_s))
        self._held += 1
        self._count_held()
        try:
            yield
        finally:
            self._held -= 1

    def _held_too_long(self, exc: BridgeError) -> Refusal:
        text = f"could not be taken within receivers.datakit.hold = {self.hold_s:g} s: {exc}"
        return Refusal("held_too_long", Code.UNAVAILABLE, 503, text, retry_after_s=1.0)
