"""How much room the store may take, and whether there is some for further batches.

What counts are pages in use, of all files together. Pages that were freed are used again before a file grows, so that
no file is larger than what it once held; what stays free for long is given back (bridge.store.shrinking). Appends stop
before the quota is reached: ticks, cursors and forgetting go on, as they are what makes room again.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from bridge.errors import Throttled
from bridge.store.room import RESERVE_BYTES

logger = logging.getLogger(__name__)

MIB = 1 << 20
RETRY_AFTER_S = 5.0
"""Room comes with deliveries and forgetting, which is a matter of seconds."""
LOG_AGAIN_S = 60.0
UNLIMITED = 1 << 62
LOG_BYTES = 64 * MIB
KEEP_BYTES = 16 * MIB
LOG_SHARE = 64
STEP_BYTES = 256 * MIB
STEP_SHARE = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator allows."""

    max_bytes: int = UNLIMITED
    """Of all files of the store together, their logs included."""
    min_free_bytes: int = RESERVE_BYTES
    """Of the file system they are on, to be left free (bridge.store.room)."""

    @property
    def log_bytes(self) -> int:
        """What the log of one file may keep once its content was copied over."""
        return min(LOG_BYTES, self.max_bytes // LOG_SHARE)

    @property
    def keep_bytes(self) -> int:
        """Free pages that one file may keep, whatever is in use."""
        return min(KEEP_BYTES, self.max_bytes // LOG_SHARE)

    @property
    def step_bytes(self) -> int:
        """The reserve of ticks; and how much has to be freed before batches are taken again."""
        return min(STEP_BYTES, self.max_bytes // STEP_SHARE)


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class FileSpace:
    """What a database file takes."""

    page_bytes: int
    pages: int
    free_pages: int
    """Of these; they are used again before the file grows."""
    log_bytes: int = 0
    """What its log takes, as far as it was looked at: more than it may keep while somebody reads what it holds."""

    @property
    def used_bytes(self) -> int:
        """What its content takes."""
        return (self.pages - self.free_pages) * self.page_bytes

    @property
    def free_bytes(self) -> int:
        """What could be given back."""
        return self.free_pages * self.page_bytes


NOTHING = FileSpace(0, 0, 0)


class Space:
    """Decides whether batches are taken; told what is measured, it measures nothing itself.

    Once there is no room it takes a step (`Limits.step_bytes`) of freed bytes until there is some again, so that
    senders are not told one thing and another in turn.
    """

    def __init__(
        self, limits: Limits, files: int, *, others: int = 0, refused: Callable[[str], None] = lambda _: None
    ) -> None:
        """files: how many there are. others: processes that append to theirs at the same time; what they took since
        they were measured is taken to be as much as this one did. refused: told the reason for each batch that is not
        taken.
        """
        self.limits, self._refused = limits, refused
        self._close_bytes = limits.max_bytes - limits.step_bytes - files * limits.log_bytes
        self.own = NOTHING
        """Of the file this process writes to."""
        self._elsewhere_bytes = self._elsewhere_free_bytes = self._used_then_bytes = 0
        self._others = others
        self._at_quota = self._told = False
        self._quiet_until_s = 0.0

    @property
    def used_bytes(self) -> int:
        """In use in all files."""
        own = self.own.used_bytes
        return own + self._elsewhere_bytes + self._others * max(0, own - self._used_then_bytes)

    @property
    def close_bytes(self) -> int:
        """From here on no batch is taken."""
        return self._close_bytes

    @property
    def open_bytes(self) -> int:
        """Once this is reached from above, batches are taken again."""
        return self._close_bytes - self.limits.step_bytes

    @property
    def full(self) -> str:
        """Why no batch is taken, "" while batches are."""
        return f"the store is at its quota (store.max_bytes = {self.limits.max_bytes})" if self._at_quota else ""

    def measured(self, own: FileSpace) -> None:
        """The file of this process is like this from now on."""
        self.own = own
        self._compare()

    def measured_elsewhere(self, used_bytes: int, free_bytes: int = 0) -> None:
        """All other files together use this much, and have so much in free pages."""
        self._elsewhere_bytes, self._elsewhere_free_bytes = used_bytes, free_bytes
        self._used_then_bytes = self.own.used_bytes
        self._compare()

    def admit(self, waiting_bytes: int) -> None:
        """Raise Throttled while there is no room for another batch, besides the bytes that wait for their commit."""
        waiting_bytes *= 1 + self._others
        grows = waiting_bytes >= self.own.free_bytes
        # a log that cannot be copied over yet grows with every batch
        log_bytes = max(0, self.own.log_bytes - self.limits.log_bytes)
        size_bytes = self.used_bytes + log_bytes + (self.own.free_bytes + self._elsewhere_free_bytes if grows else 0)
        if self._at_quota or size_bytes + waiting_bytes >= self._close_bytes:
            self._refused("quota")
            raise Throttled(
                f"the store is at its quota (store.max_bytes = {self.limits.max_bytes})",
                retry_after_s=RETRY_AFTER_S,
                reason="quota",
            )

    def _compare(self) -> None:
        was, used = self._at_quota, self.used_bytes
        self._at_quota = used >= (self.open_bytes if was else self._close_bytes)
        if self._at_quota and not was and time.monotonic() >= self._quiet_until_s:
            self._quiet_until_s, self._told = time.monotonic() + LOG_AGAIN_S, True
            logger.error(
                "the store is at its quota; senders are pushed back until it has room again",
                extra={"used_bytes": used, "max_bytes": self.limits.max_bytes},
            )
        elif was and not self._at_quota and self._told:
            self._told = False
            logger.warning("the store has room again", extra={"used_bytes": used})
