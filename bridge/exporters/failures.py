"""Why a body was not delivered: the two branches of the error tree with a reason that can be counted."""

from bridge.errors import PermanentError, RetryableError


class NotTaken(RetryableError):
    """The backend did not take the body this time.

    `reason` is a label with few values ("unavailable", "http_503", "timeout"); the text says what was answered.
    `settings`: a person has to change how the backend is asked, or what it allows; the text says what to look at.
    """

    def __init__(
        self, message: str, *, reason: str, retry_after_s: float | None = None, settings: bool = False
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason
        self.settings = settings


class Refused(PermanentError):
    """The backend will never take spans of this body: all of them, or `spans` of them where it took the others.

    `too_large`: because there are too many of them, or a single one is too large.
    """

    def __init__(self, message: str, *, reason: str, spans: int | None = None, too_large: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.spans = spans
        self.too_large = too_large
