"""Why requests are refused, in the words of every protocol, and what a sender is told about an error."""

import math
from dataclasses import dataclass
from functools import cached_property

from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from bridge.component.forwarding import NotForwarded
from bridge.errors import PermanentError, RetryableError, Throttled, TooLarge
from bridge.security import Unauthenticated

DEFAULT_RETRY_AFTER_S = 1.0
# the text travels in a header as well, and headers are small
_MAX_MESSAGE_CHARS = 1000


@dataclass(frozen=True)
class Refusal:
    """Why a request was not taken, in the words of each protocol."""

    reason: str
    """Value of the metric attribute."""
    code: int
    """A google.rpc.Code, which is the gRPC status code as well."""
    http_status: int
    message: str
    retry_after_s: float | None = None
    """When the sender may try again; None: it need not."""

    @cached_property
    def status(self) -> Status:
        """The refusal as a google.rpc.Status, with RetryInfo where the sender may try again."""
        status = Status(code=self.code, message=self.message[:_MAX_MESSAGE_CHARS])
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            status.details.add().Pack(RetryInfo(retry_delay=delay))
        return status

    @property
    def retry_after_header(self) -> str:
        """Whole seconds, rounded up, at least one: HTTP knows no fractions."""
        return str(max(1, math.ceil(self.retry_after_s or 0)))


class Refused(PermanentError):
    """Raised where a request is refused for something only its own protocol knows."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refusal_of(error: Exception) -> Refusal:
    """What a sender is told about an error; what we did not expect is told without its inner workings."""
    match error:
        case Refused():
            return error.refusal
        case NotForwarded():
            return Refusal("not_forwarded", error.code, error.http_status, str(error), error.retry_after_s)
        case RetryableError():
            wait = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
            if isinstance(error, Throttled):
                return Refusal(error.reason, Code.RESOURCE_EXHAUSTED, 429, str(error), wait)
            return Refusal("unavailable", Code.UNAVAILABLE, 503, str(error), wait)
        case TooLarge():
            return Refusal("too_large", Code.RESOURCE_EXHAUSTED, 413, str(error))
        case Unauthenticated():
            return Refusal("unauthenticated", Code.UNAUTHENTICATED, 401, str(error))
        case PermanentError():
            return Refusal("invalid", Code.INVALID_ARGUMENT, 400, str(error))
        case _:
            return Refusal("internal", Code.INTERNAL, 500, "an error inside the bridge; its log says which")
