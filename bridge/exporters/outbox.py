"""Which tick is delivered next, and how far the cursor may go."""

import heapq
from collections import deque

from bridge.component import SpanStore

BEHIND_TICKS = 8
"""An exporter further behind than this has a backlog; up to it, ticks simply go in order."""


class Outbox:
    """Hands out the ticks after a cursor, each once: new ones as they come, a backlog beside them, oldest first.

    A backlog is what was there at the start, or what piled up while the backend was away. While there is one, new ticks
    and the backlog take turns, so that fresh traces are seen at once. One task calls `start` and `next`.
    """

    def __init__(self, store: SpanStore) -> None:
        self._store = store
        self._head = 0
        """Every existing tick up to this one was handed out or lies in the backlog."""
        self._backlog: deque[tuple[int, int]] = deque()
        """Ranges (after, up to and including) of ticks not handed out, oldest first."""
        self._backlog_turn = True
        self._open: dict[int, int] = {}
        """Bodies on their way by tick, plus one while the tick is being encoded."""
        self._done: list[int] = []
        """Heap of ticks that are delivered but that the cursor has not passed."""
        self._delivered = 0

    def start(self, cursor: int) -> None:
        """Begin after this tick."""
        self._head = self._delivered = cursor

    async def next(self) -> int | None:
        """Number of the tick to deliver now, open from here on; None when all were handed out.

        Raises StoreUnavailable; then nothing was handed out.
        """
        newest = await self._store.last_tick()
        if newest - self._head > BEHIND_TICKS:
            self._backlog.append((self._head, newest - 1))
            self._head = newest - 1
        tick: int | None = None
        if newest > self._head and not (self._backlog and self._backlog_turn):
            tick = await self._store.next_tick(self._head)
        if tick is not None:
            self._head = tick
            self._backlog_turn = True
        else:
            tick = await self._next_of_backlog()
            self._backlog_turn = False
        if tick is not None:
            self._open[tick] = 1
        return tick

    async def _next_of_backlog(self) -> int | None:
        while self._backlog:
            after, last = self._backlog[0]
            tick = await self._store.next_tick(after)
            if tick is not None and tick <= last:
                self._backlog[0] = (tick, last)
                return tick
            self._backlog.popleft()
        return None

    def add_body(self, tick: int) -> None:
        """One more body of this open tick is on its way."""
        self._open[tick] += 1

    def settle(self, tick: int) -> None:
        """One body of the tick, or its encoding, is done for good."""
        self._open[tick] -= 1
        if not self._open[tick]:
            del self._open[tick]
            heapq.heappush(self._done, tick)

    @property
    def oldest_open(self) -> int | None:
        """Oldest tick that is on its way."""
        return min(self._open, default=None)

    @property
    def delivered(self) -> int:
        """Newest tick that is delivered together with every tick before it; never goes back."""
        low = min(min(self._open, default=self._head + 1), self._backlog[0][0] + 1 if self._backlog else self._head + 1)
        while self._done and self._done[0] < low:
            self._delivered = heapq.heappop(self._done)
        return self._delivered
