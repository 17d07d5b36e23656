"""What arrived and is not linked yet, in parts: a linker that is behind catches up as if it had kept up."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.component import Arrival

PART_TICKS = 4
"""A part is what came within the time of so many ticks, or of what a tick takes besides linking."""
LEAST_PART_S = 0.1
MOST_TICK_S = 15.0
"""Of what a tick took besides linking; longer ones waited for the store."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is linked in one tick."""

    arrivals: deque[Arrival]
    at_ns: int
    """The time as of which it is linked, and what is quiet may leave; parts of a backlog have different ones."""
    last: bool
    """Whether nothing is left behind it."""


class Backlog:
    """Batches in order of their numbers.

    Were all of a backlog linked at once, no trace could leave before every row of it had been compared with all others.
    """

    def __init__(self, tick_s: float) -> None:
        self._tick_s, self._part_s = tick_s, 0.0
        self._arrivals: deque[Arrival] = deque()
        self._at_ns = 0
        self._more = self._behind = False
        self.took(0.0, more=False)

    @property
    def spans(self) -> int:
        """How many spans are in it."""
        return sum(len(arrival.columns) for arrival in self._arrivals)

    def extend(self, arrivals: Iterable[Arrival]) -> None:
        """Add what arrived since."""
        self._arrivals.extend(arrivals)

    def next(self, now_ns: int) -> Part:
        """The oldest part: everything, where that is not much more than what comes in a tick."""
        arrivals: deque[Arrival] = deque()
        at_ns = self._at_ns
        if self._arrivals and not self._more:
            until_ns = max(self._arrivals[0].arrival_ns, at_ns) + int(self._part_s * 1e9)
            while self._arrivals and self._arrivals[0].arrival_ns <= until_ns:
                arrivals.append(self._arrivals.popleft())
                at_ns = max(at_ns, arrivals[-1].arrival_ns)
        last = not self._arrivals
        # what leaves in two ticks did so one after the other, also for a linker that is told of it after a restart
        after_ns = self._at_ns + (self._behind or not last)
        self._at_ns = max(after_ns, now_ns if last else min(at_ns, now_ns))
        self._behind = not last
        return Part(arrivals, self._at_ns, last)

    def took(self, besides_s: float, *, more: bool) -> None:
        """Take note of the last tick: what it took besides linking, and whether it let not all go that is due."""
        self._part_s = PART_TICKS * max(self._tick_s, LEAST_PART_S / PART_TICKS, min(besides_s, MOST_TICK_S))
        self._more = more
