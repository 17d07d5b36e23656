"""What exporters are: they turn linked spans into bodies and deliver bodies. Retry and order are not their business."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from bridge.spans import LinkedSpans


@dataclass(frozen=True, slots=True)
class Body:
    """One request's worth of spans, ready to be sent."""

    data: bytes
    spans: int


class Exporter(Protocol):
    """Sends linked spans to one backend."""

    name: str
    """The key its cursor is kept under: unique among the exporters, stable over restarts."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Hold whatever delivering needs (channel, session, file) while the context is open."""
        ...

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        """Bodies within the backend's size limits; pure, and equal ids whenever it is called again.

        Spans of one trace stay together in one body as far as the limits allow. Each span is counted in one body at
        most: no body is asked for behind the one with which all are.
        """
        ...

    async def deliver(self, body: Body) -> None:
        """Return once the backend took the body.

        Raises RetryableError (with `retry_after_s` where the backend named a time) or PermanentError, whose text says
        what the backend answered. Has a deadline of its own.
        """
        ...
