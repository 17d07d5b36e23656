"""What forwarding is: telemetry other than traces goes on as it came, and its sender gets the backend's own answer."""

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias

Signal: TypeAlias = Literal["metrics", "logs"]


class SignalForwarder(Protocol):
    """Passes requests of other signals on to one OTLP backend. Nothing is kept: what fails its sender sends again."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Hold a connection while the context is open."""
        ...

    async def forward(self, signal: Signal, request: bytes, *, as_json: bool) -> bytes:
        """The backend's answer to a serialized export request of this signal; has a deadline.

        as_json: request and answer are OTLP/JSON. Raises RetryableError or PermanentError, whose texts say what the
        backend answered, or that it cannot be given JSON.
        """
        ...
