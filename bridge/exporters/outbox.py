"""Which tick is delivered next, and how far the cursor may go."""

import heapq
from collections import deque

from bridge.component import SpanStore

BEHIND_TICKS = 8
"""An exporter further behind than this has a backlog; up to it, ticks simply go in order."""
LATE_S = 10.0
"""Where the backend was there all the time, what stays longer than this is a backlog too: it takes less than comes."""


class Outbox:
    """Hands out the ticks after a cursor, each once: new ones as they come, a backlog beside them, oldest first.

    A backlog is what was there at the start, or what piled up while the backend was away. While there is one, new ticks
    and the backlog take turns, so that fresh traces are seen at once, and the backlog has at least half of what is
    delivered, counted in spans. Where the bridge itself was held up for a few seconds meanwhile, new ticks stay new:
    they would come after a backlog of hours. One task calls `start`, `next` and `weigh`.
    """

    def __init__(self, store: SpanStore, *, fresh_s: float = 3.0) -> None:
        """fresh_s: ticks committed within this time are no backlog."""
        self._store, self._fresh_s, self._late_s = store, fresh_s, max(LATE_S, 2 * fresh_s)
        self.away = True
        """Whether the backend is away, or was since the last tick was handed out."""
        self._recent: deque[tuple[float, int]] = deque()
        """When ticks were committed, as far as that is known and not long ago, and their numbers."""
        self._late = 0
        """Newest tick that is older than those."""
        self._head = 0
        """Every existing tick up to this one was handed out or lies in the backlog."""
        self._backlog: deque[tuple[int, int]] = deque()
        """Ranges (after, up to and including) of ticks not handed out, oldest first."""
        self._ahead = 0
        """Spans of new ticks less those of the backlog, since there is a backlog: whose turn it is."""
        self._from_backlog = False
        """Whether the last tick was one of the backlog."""
        self._open: dict[int, int] = {}
        """Bodies on their way by tick, plus one while the tick is being encoded."""
        self._done: list[int] = []
        """Heap of ticks that are delivered but that the cursor has not passed."""
        self._delivered = 0

    def start(self, cursor: int) -> None:
        """Begin after this tick."""
        self._head = self._delivered = cursor

    def committed(self, tick: int, now_s: float) -> None:
        """A tick was committed now."""
        if not self._recent:
            self._late = tick - 1
        elif self._recent[-1][1] >= tick:
            return
        while self._recent and self._recent[0][0] <= now_s - self._late_s:
            self._late = self._recent.popleft()[1]
        self._recent.append((now_s, tick))

    def _stale(self, newest: int) -> int:
        """The newest tick that is not fresh."""
        if not self._recent:  # at a start
            return newest - 1
        last_s, last = self._recent[-1]
        since_s = last_s - self._fresh_s
        older = (tick for committed_s, tick in self._recent if committed_s <= since_s and tick < last)
        return max(older, default=self._late)

    async def next(self) -> int | None:
        """Number of the tick to deliver now, open from here on; None when all were handed out.

        Raises StoreUnavailable; then nothing was handed out.
        """
        newest = await self._store.last_tick()
        if newest - self._head > BEHIND_TICKS and (self.away or self._late > self._head):
            self._add_to_backlog(self._stale(newest))
        tick: int | None = None
        backlog_turn = self._ahead > 0 or (self._ahead == 0 and not self._from_backlog)
        if not (self._backlog and backlog_turn):
            tick = await self._next_of_new(newest)
        self._from_backlog = tick is None
        if tick is None:
            tick = await self._next_of_backlog()
        if tick is None:  # the backlog's turn, but what there was of it has ended
            tick = await self._next_of_new(newest)
            self._from_backlog = False
        if tick is not None:
            self._open[tick] = 1
        return tick

    def weigh(self, spans: int) -> None:
        """Say how many spans the tick has that was handed out last."""
        if not self._backlog:
            self._ahead = 0
        elif self._from_backlog:
            # what the backlog had while nothing new came is not held against it
            self._ahead = max(0, self._ahead - spans)
        else:
            self._ahead += spans

    def _add_to_backlog(self, last: int) -> None:
        if last <= self._head:
            return
        if self._backlog and self._backlog[-1][1] == self._head:
            self._backlog[-1] = (self._backlog[-1][0], last)
        else:
            self._backlog.append((self._head, last))
        self._head = last

    async def _next_of_new(self, newest: int) -> int | None:
        while newest > self._head:
            tick = await self._store.next_tick(self._head)
            if tick is None:
                return None
            if tick > self._head:  # else it was given up meanwhile
                self._head = tick
                return tick
        return None

    async def _next_of_backlog(self) -> int | None:
        while self._backlog:
            after, last = self._backlog[0]
            tick = await self._store.next_tick(after)
            if not self._backlog or self._backlog[0] != (after, last):
                continue  # given up meanwhile
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

    def give_up(self, up_to: int) -> list[tuple[int, int]]:
        """Hand out no further tick up to and including this existing one.

        Returns the ranges (after, up to and including) of those that were not handed out; the cursor may pass them.
        """
        given_up = [(after, min(last, up_to)) for after, last in self._backlog if after < up_to]
        self._backlog = deque((max(after, up_to), last) for after, last in self._backlog if last > up_to)
        if self._head < up_to:
            given_up.append((self._head, up_to))
            self._head = up_to
        for _, last in given_up:  # not `up_to` alone, which may be on its way still
            heapq.heappush(self._done, last)
        return given_up

    def undelivered(self, newest: int) -> list[tuple[int, int]]:
        """Ranges (after, up to and including) of ticks up to the newest that are not delivered as a whole."""
        ranges = [(tick - 1, tick) for tick in self._open] + [*self._backlog, (self._head, newest)]
        return [(after, last) for after, last in ranges if after < last]

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
