"""What forwarding is: telemetry other than traces goes on as it came, and its sender gets the backend's own answer."""

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias

from bridge.errors import BridgeError

Signal: TypeAlias = Literal["metrics", "logs"]


class NotForwarded(BridgeError):
    """The backend did not take a request of another signal; its sender gets what it answered, in either protocol.

    `code`: of gRPC; `http_status`: of HTTP; `retry_after_s`: when its sender may try again, None where it need not.
    """

    def __init__(self, message: str, *, code: int, http_status: int, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.code, self.http_status, self.retry_after_s = code, http_status, retry_after_s


class SignalForwarder(Protocol):
    """Passes requests of other signals on to one OTLP backend. Nothing is kept: what fails its sender sends again."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Hold a connection while the context is open."""
        ...

    async def forward(self, signal: Signal, request: bytes, *, as_json: bool) -> bytes:
        """The backend's answer to a serialized export request of this signal; has a deadline.

        as_json: request and answer are OTLP/JSON. Raises NotForwarded where the backend does not take it, and
        PermanentError where it cannot be given it (JSON over gRPC).
        """
        ...
