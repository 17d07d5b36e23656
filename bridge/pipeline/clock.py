"""The bridge's clock: counts like a monotonic clock, reads like a wall clock."""

import time


class Clock:
    """Ns since the epoch as of the start, counted on monotonically: a jump of the wall clock does not touch windows."""

    def __init__(self, offset_ns: int | None = None) -> None:
        """offset_ns: that of another process's clock on this machine, to read the same."""
        self.offset_ns = time.time_ns() - time.monotonic_ns() if offset_ns is None else offset_ns

    def now_ns(self) -> int:
        """Ns since the epoch; never runs backwards."""
        return time.monotonic_ns() + self.offset_ns
