"""Admission: how many bytes of requests may be in flight, and whether any still are."""

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from bridge.errors import RetryableError, Throttled

T = TypeVar("T")
_STOPPING = "the bridge is stopping, try again"


class Admission:
    """Bounds the bytes of the requests being handled, and knows when none is left. For one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._closed = False
        self._idle = anyio.Event()
        self._left = anyio.Event()
        """Set, and replaced, whenever a request leaves."""
        self._stalled_bytes = 0
        """Held by requests that wait for room for more: they will not leave before they got it."""
        self._inside: set[Lease] = set()
        self.in_flight_bytes = 0

    @property
    def requests(self) -> int:
        """How many requests are inside."""
        return len(self._inside)

    def enter(self) -> "Lease":
        """Count a request in until its lease is closed. Raises RetryableError once `close` was called."""
        if self._closed:
            raise RetryableError(_STOPPING)
        lease = Lease(self)
        self._inside.add(lease)
        return lease

    def close(self) -> None:
        """Let no request in any more; those inside go on."""
        self._closed = True

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

    def _take(self, size: int) -> None:
        # what is alone is let in whatever its size: it would never fit, however often it were tried
        busy_bytes = self.in_flight_bytes - self._stalled_bytes
        if busy_bytes and self.in_flight_bytes + size > self._limit_bytes:
            raise Throttled(
                f"{self.in_flight_bytes} bytes of requests are being handled, {size} more would exceed "
                f"max_in_flight_bytes = {self._limit_bytes}"
            )
        self.in_flight_bytes += size

    def _leave(self, lease: "Lease") -> None:
        self.in_flight_bytes -= lease.size
        self._inside.remove(lease)
        self._left.set()
        self._left = anyio.Event()
        if not self._inside:
            self._idle.set()


class Lease:
    """One request's place; what it took is given back when it is closed."""

    __slots__ = ("_admission", "_cancelled", "_open", "_scope", "size")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._open = True
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self.size = 0

    def take(self, size: int) -> None:
        """Count in `size` further bytes. Raises Throttled when they would exceed the limit."""
        self._admission._take(size)
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
                    await admission._left.wait()
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

    async def run(self, work: Awaitable[T]) -> T:
        """What the work returns. Raises RetryableError when `cancel` ended it; may be called once."""
        with anyio.CancelScope() as scope:
            self._scope = scope
            if self._cancelled:
                scope.cancel()
            return await work
        raise RetryableError(_STOPPING)

    def cancel(self) -> None:
        """End the work, so that its sender is still answered."""
        self._cancelled = True
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
