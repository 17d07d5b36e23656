"""Keeps all processes of the bridge below `memory_limit`, whatever is sent, by pushing senders back.

The bounds in `memory` are estimates; this is the truth: resident memory, read many times a second where it is near a
threshold, and now and then where no growth could reach one before the next reading. Two thresholds:

- *full*: the linker's rows take no more memory. As many may wait as did when it was reached, in slots that are freed as
  others leave, and so on until memory falls again.
- *over*: nothing more is let in. What is under way goes on and leaves, which frees memory.

It never ends in a deadlock: where memory stays over although nothing is let in, an error says so once, and requests are
let in one at a time, a second apart.
"""

import logging
import time
from collections.abc import Callable

from bridge.errors import Throttled
from bridge.pipeline.memory import MIB, resident_bytes, trim

logger = logging.getLogger(__name__)

FULL, NOT_FULL, OVER = 0.85, 0.75, 0.92
"""Shares of the limit."""
FEWEST = 0.1
"""Share of the rows that may wait, and of those that may be remembered, that always may."""
READ_S, SELDOM_S = 0.02, 0.25
"""Resident memory is read again when the last reading is older: the one near a threshold, the other far from any."""
GROWTH = 1 << 30
"""Bytes a second by which a process grows at most: all it keeps it has to receive, read and pack first."""
TRIM_S = 10.0
"""It walks over all that is free, and nothing is allocated meanwhile."""
STAYS_S = 10.0
"""How long memory may stay over before that is an error."""
TRICKLE_S = 1.0
LATELY_S = 5.0
RETRY_AFTER_S, RETRY_LATER_S = 1.0, 5.0
"""What senders are told to wait. Stock ones try six times, whatever they are told: where senders have been pushed back
for long they are told half of that time, so that their tries outlast it, and fewer come at a time."""


class MemoryGuard:
    """One process's guard: knows its own memory, and is told that of the others. Not for several threads."""

    def __init__(
        self,
        limit_bytes: int,
        *,
        in_flight_bytes: int,
        max_waiting_spans: int,
        may_wait: int,
        processes: int = 1,
        resident: Callable[[], int] = resident_bytes,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """in_flight_bytes: what requests may take in this process, all listeners together. max_waiting_spans: as in
        the settings; may_wait: how many may within the limit. processes: of the bridge, each of which may grow."""
        self.limit_bytes, self.in_flight_bytes = limit_bytes, in_flight_bytes
        self._resident, self._now_s, self._growth = resident, now_s, GROWTH * processes
        self._configured = max_waiting_spans
        self._most_waiting = self.max_waiting_spans = min(max_waiting_spans, may_wait)
        """How many spans may wait; the second goes down while memory is full."""
        self.full = False
        self.others_bytes = 0
        """Resident memory of the bridge's other processes, as far as known."""
        self.own_bytes = 0
        self._in_flight = 0
        self._read_again_s = -1e9
        self._trimmed_s = self._let_in_s = -1e9
        self._refused_s = self._refusing_since_s = -1e9
        self._over_since_s: float | None = None
        self._told = False

    @property
    def bytes(self) -> int:
        """Resident memory of all processes, as of the last reading."""
        return self.own_bytes + self.others_bytes

    @property
    def over(self) -> bool:
        """Whether nothing is let in."""
        return self.bytes >= OVER * self.limit_bytes

    @property
    def stays_s(self) -> float:
        """How long it takes at least until memory is at the next threshold, within READ_S and SELDOM_S."""
        threshold = next((share for share in (FULL, OVER) if self.bytes < share * self.limit_bytes), None)
        if threshold is None:
            return READ_S
        return min(SELDOM_S, max(READ_S, (threshold * self.limit_bytes - self.bytes) / self._growth))

    @property
    def pushes_back(self) -> bool:
        """Whether a request was refused for memory within the last seconds."""
        return self._now_s() - self._refused_s < LATELY_S

    def read(self) -> None:
        """Read resident memory, unless that was done a moment ago."""
        now_s = self._now_s()
        if now_s >= self._read_again_s:
            self.own_bytes = self._resident()
            self._read_again_s = now_s + self.stays_s

    def take(self, size: int, *, alone: bool) -> None:
        """Count in bytes of a request. Raises Throttled.

        alone: nothing else is under way at its listener, so that what does not fit now never would.
        """
        self.read()
        if self.over and not self._trickles():
            raise self.memory_refusal(f"{self.bytes >> 20} MiB are in use")
        if not alone and self._in_flight + size > self.in_flight_bytes:
            raise self.memory_refusal(f"{self._in_flight} bytes of requests are being handled")
        self._in_flight += size

    def give(self, size: int) -> None:
        """Count out what was taken."""
        self._in_flight -= size

    def refusal(self, why: str) -> Throttled:
        """See `Room.refusal`: memory is the reason, unless the operator lets fewer spans wait than would fit."""
        if self.max_waiting_spans >= self._configured:
            text = f"{why} (linker.max_waiting_spans = {self._configured})"
            self.note_refusal()
            return Throttled(text, retry_after_s=self._retry_after_s())
        return self.memory_refusal(why)

    def memory_refusal(self, why: str) -> Throttled:
        """What a sender is told who is pushed back for memory."""
        self.note_refusal()
        text = f"{why} (memory_limit = {self.limit_bytes >> 20} MiB)"
        return Throttled(text, retry_after_s=self._retry_after_s(), reason="memory")

    def note_refusal(self) -> None:
        """A request was refused for memory, here or in another process."""
        now_s = self._now_s()
        if now_s - self._refused_s >= LATELY_S:
            self._refusing_since_s = now_s
        self._refused_s = now_s

    def _retry_after_s(self) -> float:
        return min(RETRY_LATER_S, max(RETRY_AFTER_S, (self._refused_s - self._refusing_since_s) / 2))

    def look(self, waiting: int) -> None:
        """Go by memory as it is now, with so many spans waiting; several times a second."""
        self.read()
        if self.full:
            self.full = self.bytes >= NOT_FULL * self.limit_bytes
            if not self.full:
                self.max_waiting_spans = self._most_waiting
        elif self.bytes >= FULL * self.limit_bytes:
            self.full = True
            self.max_waiting_spans = min(self._most_waiting, max(waiting, int(FEWEST * self._most_waiting)))
            logger.info("memory is full: senders are pushed back until traces leave", extra=self._fields(waiting))
        self.give_back()
        self._watch(waiting)

    def give_back(self) -> None:
        """Give what is free in this process back to the system where memory is full, now and then."""
        now_s = self._now_s()
        full = self.full or self.bytes >= FULL * self.limit_bytes
        if full and now_s - self._trimmed_s >= TRIM_S:
            self._trimmed_s = now_s
            trim()

    def _watch(self, waiting: int) -> None:
        if not self.over:
            if self._told:
                logger.warning("memory is below memory_limit again", extra=self._fields(waiting))
            self._over_since_s, self._told = None, False
            return
        now_s = self._now_s()
        self._over_since_s = now_s if self._over_since_s is None else self._over_since_s
        if not self._told and now_s - self._over_since_s >= STAYS_S:
            self._told = True
            logger.error(
                "memory stays at memory_limit although nothing is let in; raise the setting or send less at a time",
                extra=self._fields(waiting),
            )

    def _trickles(self) -> bool:
        """Whether a single request is let in all the same."""
        now_s = self._now_s()
        if not self._told or self._in_flight or now_s - self._let_in_s < TRICKLE_S:
            return False
        self._let_in_s = now_s
        return True

    def _fields(self, waiting: int) -> dict[str, int]:
        return {"memory_mib": self.bytes // MIB, "memory_limit_mib": self.limit_bytes // MIB, "waiting_spans": waiting}
