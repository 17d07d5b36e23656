"""What receivers are and what they hand spans to."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bridge.spans import SpanBatch


class SpanConsumer(Protocol):
    """Takes spans over for good."""

    async def consume(self, batch: SpanBatch) -> None:
        """Return once the batch is committed; only then may its sender be told so.

        Raises Throttled (too much is waiting already) or StoreUnavailable; then nothing of the batch was kept. When
        the caller is cancelled the batch may or may not be kept, and is never kept in part.
        """
        ...


class Receiver(Protocol):
    """Listens for senders and hands what they send to the consumer it was built with."""

    name: str

    def running(self) -> AbstractAsyncContextManager[None]:
        """Listen while the context is open; the sockets are bound when it is entered.

        Leaving it refuses new requests as retryable, answers those in flight, and returns when no handler is left.
        Raises ConfigError where the address cannot be bound.
        """
        ...
