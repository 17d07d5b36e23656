"""Why a body was not delivered: the two branches of the error tree with a reason that can be counted."""

from dataclasses import dataclass

from bridge.errors import PermanentError, RetryableError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a backend answered: a status code of its protocol, and its text with our secrets masked."""

    status: int
    text: str


class NotTaken(RetryableError):
    """The backend did not take the body this time.

    `reason` is a label with few values ("unavailable", "http_503", "timeout"); the text says what was answered.
    `settings`: a person has to change how the backend is asked, or what it allows; the text says what to look at.
    `answer`: what it answered, where an exporter of OTLP got an answer.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        retry_after_s: float | None = None,
        settings: bool = False,
        answer: Answer | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason
        self.settings = settings
        self.answer = answer


class Refused(PermanentError):
    """The backend will never take spans of this body: all of them, or `spans` of them where it took the others.

    `too_large`: because there are too many of them, or a single one is too large. `some`: perhaps because
    of some of them alone. `answer`: as in `NotTaken`.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        spans: int | None = None,
        too_large: bool = False,
        some: bool = False,
        answer: Answer | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.spans = spans
        self.too_large = too_large
        self.some = some
        self.answer = answer
