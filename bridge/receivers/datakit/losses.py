"""What agents lost for good, as errors in the log: seldom enough to be read, and complete."""

import logging
from collections import Counter
from collections.abc import Callable

import anyio

log = logging.getLogger(__name__)

LOST = frozenset({"held_too_long", "too_many_held"})
"""Reasons for which a body that could have been taken is refused, which its agent does not send again."""
LOG_AGAIN_S = 60.0


class Losses:
    """Says for each reason what is lost: at once, then at most once a minute, then what is left at the end."""

    def __init__(self, *, now_s: Callable[[], float] = anyio.current_time) -> None:
        """now_s: a clock that never goes back."""
        self._now_s = now_s
        self._requests: Counter[str] = Counter()
        self._points: Counter[str] = Counter()
        self._quiet_until: dict[str, float] = {}

    def add_points(self, reason: str, points: int) -> None:
        """Count the points of a request that is about to be refused; one whose body was not read has none known."""
        if reason in LOST:
            self._points[reason] += points

    def add_request(self, reason: str) -> None:
        """Count a refused request, and log what was lost since the last line if that is long ago."""
        if reason not in LOST:
            return
        self._requests[reason] += 1
        now_s = self._now_s()
        if now_s >= self._quiet_until.get(reason, now_s):
            self._quiet_until[reason] = now_s + LOG_AGAIN_S
            self._tell(reason)

    def tell_rest(self) -> None:
        """Log what no line has told yet."""
        for reason in sorted(LOST & self._requests.keys()):
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        fields = {"reason": reason, "requests": self._requests.pop(reason, 0), "points": self._points.pop(reason, 0)}
        log.error("agents lost what they sent: it could not be taken in time", extra=fields)
