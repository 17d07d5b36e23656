"""How fast this machine is just now: virtual machines drift, and ratios to this loop are what to compare."""

import time
from dataclasses import dataclass
from types import TracebackType

STEPS = 2_000_000


def loop_s() -> float:
    """CPU seconds of fixed work in pure Python."""
    started, total = time.process_time(), 0
    for i in range(STEPS):
        total += i * i % 7
    return time.process_time() - started


@dataclass
class Calibrated:
    """Times the loop before and after a block; `loop_s` is the better of the two, which others disturbed less."""

    loop_s: float = 0.0

    def __enter__(self) -> "Calibrated":
        self.loop_s = loop_s()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.loop_s = min(self.loop_s, loop_s())
