"""The queue in front of the one task that writes."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

from bridge.errors import StoreUnavailable, Throttled

Operation = TypeVar("Operation")
Kept = TypeVar("Kept")

RETRY_AFTER_S = 1.0


class Pending(Generic[Operation]):
    """An operation in the queue. It has failed until its commit returned."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.cost = 0
        self.error: Exception | None = StoreUnavailable("the store stopped before this was written")
        self.done = anyio.Event()

    async def committed(self) -> Operation:
        """The operation, once it is committed. Being cancelled here changes nothing about the write."""
        await self.done.wait()
        if isinstance(self.error, StoreUnavailable):
            # several callers may wait for one commit: each gets an exception of its own
            raise StoreUnavailable(str(self.error), retry_after_s=RETRY_AFTER_S) from self.error
        if self.error is not None:
            raise self.error
        return self.operation


class Writer(Generic[Operation]):
    """Performs operations one at a time, in the order they were handed in, in a task of its own.

    What waits is bounded by its cost in bytes. Cancelling whoever handed something in does not touch the write.
    """

    def __init__(self, perform: Callable[[Operation], Awaitable[None]], max_bytes: int) -> None:
        self._perform, self._max_bytes = perform, max_bytes
        self._queue: deque[Pending[Operation]] = deque()
        self._bytes = 0
        self._news = anyio.Event()
        self.open = False

    @property
    def waiting_bytes(self) -> int:
        """Cost of what is not done yet."""
        return self._bytes

    @property
    def newest(self) -> Pending[Operation] | None:
        """The operation handed in last, if it has not been begun: more may still be added to it."""
        return self._queue[-1] if self._queue else None

    def admit(self, cost: int) -> None:
        """Raise Throttled where this would not fit in, StoreUnavailable where the store is closing.

        Whatever its size, something is admitted when nothing else waits.
        """
        self._check_open()
        if self._bytes and self._bytes + cost > self._max_bytes:
            raise Throttled(
                f"{self._bytes} bytes wait for their commit already (store.queue_bytes = {self._max_bytes})",
                retry_after_s=RETRY_AFTER_S,
            )

    def submit(self, operation: Operation) -> Pending[Operation]:
        """Put an operation at the end of the queue. Raises StoreUnavailable where the store is closing."""
        self._check_open()
        pending = Pending(operation)
        self._queue.append(pending)
        self._news.set()
        return pending

    def add_cost(self, pending: Pending[Operation], cost: int) -> None:
        """Count these bytes until the operation is done."""
        pending.cost += cost
        self._bytes += cost

    async def run(self) -> None:
        """Write until `close` was called and nothing is left; not to be cancelled."""
        with anyio.CancelScope(shield=True):
            while True:
                while self._queue:
                    await self._write(self._queue.popleft())
                if not self.open:
                    return
                self._news = anyio.Event()
                await self._news.wait()

    def close(self) -> None:
        """Take nothing more; `run` returns once the queue is empty."""
        self.open = False
        self._news.set()

    def _check_open(self) -> None:
        if not self.open:
            raise StoreUnavailable("the store is closed", retry_after_s=RETRY_AFTER_S)

    async def _write(self, pending: Pending[Operation]) -> None:
        try:
            await self._perform(pending.operation)
            pending.error = None
        except Exception as exc:  # noqa: BLE001 -- goes to those who wait for this write; the next one is theirs alone
            pending.error = exc
        finally:
            self._bytes -= pending.cost
            pending.done.set()
