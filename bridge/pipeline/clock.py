"""The bridge's clock: counts like a monotonic clock, reads like a wall clock."""

import time


class Clock:
    """Ns since the epoch as of the start, counted on monotonically: a jump of the wall clock does not touch windows."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        """Ns since the epoch; never runs backwards."""
        return time.monotonic_ns() + self._offset_ns
