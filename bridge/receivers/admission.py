"""Admission: how many requests, and bytes of them, may be in flight, and whether any still are."""

import asyncio
import math
import sys
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar

import anyio
from google.rpc.code_pb2 import Code

from bridge.errors import BridgeError, RetryableError, Throttled
from bridge.receivers.refusals import Refusal, Refused

T = TypeVar("T")
TIMED_OUT = "request_timeout"
_STOPPING = "the bridge is stopping, try again"
LOOK_AGAIN_S = 0.2
"""Memory that others free is noticed by looking."""


class Memory(Protocol):
    """What all listeners of a process have together, in bytes."""

    def take(self, size: int, *, alone: bool) -> None:
        """Count in bytes of a request. Raises Throttled where there is no room.

        alone: nothing else is under way at its listener, so that what does not fit now never would.
        """
        ...

    def give(self, size: int) -> None:
        """Count out bytes that were taken."""
        ...


class Unbounded:
    """As much as is asked for."""

    def take(self, size: int, *, alone: bool) -> None:
        """See `Memory.take`."""

    def give(self, size: int) -> None:
        """See `Memory.give`."""


UNBOUNDED = Unbounded()


class Admission:
    """Bounds the requests being handled and their bytes, and knows when none is left. For one event loop."""

    def __init__(self, limit_bytes: int, memory: Memory = UNBOUNDED, *, max_requests: int = sys.maxsize) -> None:
        self._limit_bytes, self._memory, self._max_requests = limit_bytes, memory, max_requests
        self._closed = False
        self._idle = anyio.Event()
        self._left: anyio.Event | None = None
        """Set when the next request leaves; there is one while somebody waits for that."""
        self._stalled_bytes = 0
        """Held by requests that wait for room for more: they will not leave before they got it."""
        self._inside: set[Lease] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.in_flight_bytes = 0

    @property
    def requests(self) -> int:
        """How many requests are inside."""
        return len(self._inside)

    def enter(self) -> "Lease":
        """Count a request in until its lease is closed.

        Raises RetryableError once `close` was called, and Throttled where as many are inside as may be.
        """
        if self._closed:
            raise RetryableError(_STOPPING)
        if len(self._inside) >= self._max_requests:
            text = f"{self.requests} requests are being handled (max_concurrent_requests = {self._max_requests})"
            raise Throttled(text, reason="max_concurrent_requests")
        lease = Lease(self)
        self._inside.add(lease)
        return lease

    async def enter_by(self, deadline: float) -> "Lease":
        """The same once there is room. Raises Throttled when there is none by the deadline, see `Lease.take_by`."""
        with anyio.CancelScope(deadline=deadline):
            while not self._closed and len(self._inside) >= self._max_requests:
                await self._next_left()
        return self.enter()

    def close(self) -> None:
        """Let no request in any more; those inside go on."""
        self._closed = True
        self._tell_left()

    async def drain(self, within_s: float) -> None:
        """Let no request in any more; give those inside this time, then cancel what is left, without waiting for it."""
        self.close()
        with anyio.move_on_after(within_s):
            await self.wait_idle()
        for lease in self._inside:
            lease.cancel()

    async def wait_idle(self) -> None:
        """Return when no request is inside."""
        while self.requests:
            if self._idle.is_set():
                self._idle = anyio.Event()
            await self._idle.wait()

    def _take(self, size: int, held: int) -> None:
        # what is alone is let in whatever its size: it would never fit, however often it were tried
        busy_bytes = self.in_flight_bytes - max(self._stalled_bytes, held)
        if busy_bytes and self.in_flight_bytes + size > self._limit_bytes:
            raise Throttled(
                f"{self.in_flight_bytes} bytes of requests are being handled, {size} more would exceed "
                f"max_in_flight_bytes = {self._limit_bytes}"
            )
        self._memory.take(size, alone=not busy_bytes)
        self.in_flight_bytes += size

    def _leave(self, lease: "Lease") -> None:
        self.in_flight_bytes -= lease.size
        self._memory.give(lease.size)
        self._inside.remove(lease)
        self._tell_left()
        if not self._inside:
            self._idle.set()

    def _watch(self, lease: "Lease", within_s: float) -> None:
        """Cancel what a lease runs when its time is over; all have one timer, as one for each would cost more."""
        lease._due_s = time.monotonic() + within_s  # the loop's clock; to ask for the loop itself costs more
        if self._timer is None or lease._due_s < self._timer.when():
            self._set_timer(lease._due_s)

    def _set_timer(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due_s, self._look_at_time) if due_s < math.inf else None

    def _look_at_time(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for lease in self._inside:
            if lease._due_s <= now_s:
                lease._due_s = math.inf
                lease._stop()
        self._timer = None
        self._set_timer(min((lease._due_s for lease in self._inside), default=math.inf))

    async def _next_left(self) -> None:
        """Return when a request leaves, or none is let in any more."""
        if self._left is None:
            self._left = anyio.Event()
        await self._left.wait()

    def _tell_left(self) -> None:
        if self._left is not None:
            self._left.set()
            self._left = None


class Lease:
    """One request's place; what it took is given back when it is closed."""

    __slots__ = ("_admission", "_due_s", "_ended", "_open", "_scope", "size")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._open = True
        self._scope: anyio.CancelScope | None = None
        self._ended: BridgeError | None = None
        self._due_s = math.inf
        self.size = 0

    def take(self, size: int) -> None:
        """Count in `size` further bytes. Raises Throttled when they would exceed the limit."""
        self._admission._take(size, self.size)
        self.size += size

    async def take_by(self, size: int, deadline: float) -> None:
        """Count in `size` further bytes once there is room. Raises Throttled when there is none by the deadline.

        deadline: on the clock of `anyio.current_time`.
        """
        admission, held = self._admission, self.size
        admission._stalled_bytes += held
        try:
            with anyio.CancelScope(deadline=deadline):
                while not self._fits(size):
                    with anyio.move_on_after(LOOK_AGAIN_S):
                        await admission._next_left()
                return
        finally:
            admission._stalled_bytes -= held
        self.take(size)

    def _fits(self, size: int) -> bool:
        try:
            self.take(size)
        except Throttled:
            return False
        return True

    async def run(self, work: Awaitable[T], within_s: float = math.inf) -> T:
        """What the work returns; may be called once.

        Raises what it was ended with, RetryableError where `cancel` did that, and Refused when it took longer than it
        may.
        """
        with anyio.CancelScope() as scope:
            self._scope = scope
            if self._ended:
                scope.cancel()
            self._admission._watch(self, within_s)
            return await work
        if self._ended:
            raise self._ended
        text = f"the request was not done within {within_s:g} s (request_timeout)"
        raise Refused(Refusal(TIMED_OUT, Code.UNAVAILABLE, 503, text, retry_after_s=1.0))

    def cancel(self) -> None:
        """End the work, so that its sender is still answered."""
        self.end(RetryableError(_STOPPING))

    def end(self, why: BridgeError) -> None:
        """End the work with this error."""
        self._ended = why
        self._stop()

    def _stop(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        """Give everything back; closing twice does nothing."""
        if self._open:
            self._open = False
            self._admission._leave(self)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
