"""Keeps a log from saying the same thing over and over."""

import time

LOG_AGAIN_S = 60.0
MAX_TEXTS = 64


class Repeats:
    """Knows what was said within the last minute."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def worth_logging(self, text: str) -> bool:
        """Whether this text is news, which it is not for a minute after; too many different ones count as one."""
        now = time.monotonic()
        self._said = {known: until for known, until in self._said.items() if until > now}
        if text in self._said or len(self._said) >= MAX_TEXTS:
            return False
        self._said[text] = now + LOG_AGAIN_S
        return True
