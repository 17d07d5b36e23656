"""Bodies that were not taken and are to be tried again. Of each only its place is kept: it is encoded again then."""

import heapq
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a body is: its tick, and the how manieth it is there."""

    due_s: float
    """When it may be tried again, on the event loop's clock."""
    tick: int
    index: int
    spans: int = field(compare=False)
    seen: int | None = field(default=None, compare=False)
    """How many bodies the backend had taken when it was tried last, None where it was not."""
    alone: int = field(default=0, compare=False)
    """How often it failed while others were taken."""


class Parked:
    """Places by the time at which they are due."""

    def __init__(self) -> None:
        self._heap: list[Place] = []

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due_s(self) -> float:
        """When the next one is due, infinity where there is none."""
        return self._heap[0].due_s if self._heap else float("inf")

    def add(self, place: Place) -> None:
        """Keep it until it is due."""
        heapq.heappush(self._heap, place)

    def pop(self, now_s: float) -> Place | None:
        """The one that has been due for the longest, None where none is."""
        return heapq.heappop(self._heap) if self._heap and self._heap[0].due_s <= now_s else None

    def take_up_to(self, tick: int) -> list[Place]:
        """Those of ticks up to this one, which are kept no longer."""
        taken = [place for place in self._heap if place.tick <= tick]
        self._heap = [place for place in self._heap if place.tick > tick]
        heapq.heapify(self._heap)
        return taken

    def release(self) -> None:
        """All of them are due now."""
        self._heap = [replace(place, due_s=0.0) for place in self._heap]
        heapq.heapify(self._heap)
