"""Answers held back while what was sent cannot be taken, up to a bound in time and in number."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from google.rpc.code_pb2 import Code

from bridge.errors import RetryableError
from bridge.receivers.admission import Lease
from bridge.receivers.refusals import Refusal, Refused

_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 1.0
"""A sender waits for its answer and nothing else: it is tried again soon, whatever time the error names."""


class Holding:
    """Knows how many requests are being held. For one event loop."""

    def __init__(self, *, hold_s: float, max_held: int, held: Callable[[], None]) -> None:
        """held: called once for each request whose answer is held back."""
        self.hold_s, self._max_held, self._count_held = hold_s, max_held, held
        self._held = 0

    @property
    def requests(self) -> int:
        """How many requests are being held now."""
        return self._held

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
        async with self._holding():
            while (left_s := deadline - anyio.current_time()) > 0:
                await anyio.sleep(min(wait_s, left_s))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                try:
                    return await attempt()
                except RetryableError as exc:
                    last = exc
        raise Refused(self._held_too_long(last)) from last

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

    def _held_too_long(self, exc: RetryableError) -> Refusal:
        text = f"could not be taken within receivers.datakit.hold = {self.hold_s:g} s: {exc}"
        return Refusal("held_too_long", Code.UNAVAILABLE, 503, text, retry_after_s=1.0)
