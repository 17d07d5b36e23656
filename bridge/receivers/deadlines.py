"""Time limits of many things of a kind that all have the same time."""

import asyncio
import math
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """Says which things took longer than they may; they share one timer, as one for each would cost more.

    For one event loop of asyncio.
    """

    def __init__(self, within_s: float, late: Callable[[Key], None]) -> None:
        """late: told of each that was not taken off within this time, once."""
        self._within_s, self._late = within_s, late
        self._due_s: dict[Key, float] = {}
        """In the order in which they end."""
        self._timer: asyncio.TimerHandle | None = None

    def put(self, key: Key) -> None:
        """Its time begins, or begins anew."""
        self._due_s.pop(key, None)
        # the loop's clock; to ask for the loop itself is a system call before Python 3.12
        due_s = self._due_s[key] = time.monotonic() + self._within_s
        if self._timer is None and due_s < math.inf:
            self._timer = asyncio.get_running_loop().call_at(due_s, self._look)

    def take_off(self, key: Key) -> None:
        """It has ended; without effect where it has before, or was late."""
        self._due_s.pop(key, None)

    def _look(self) -> None:
        now_s, late = time.monotonic(), []
        for key, due_s in self._due_s.items():
            if due_s > now_s:
                break
            late.append(key)
        for key in late:
            del self._due_s[key]
        next_s = next(iter(self._due_s.values()), math.inf)
        self._timer = asyncio.get_running_loop().call_at(next_s, self._look) if next_s < math.inf else None
        for key in late:
            self._late(key)
