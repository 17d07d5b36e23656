"""Room on the disk: spans are refused while there is just enough for what is stored to leave.

A tick, a cursor, and even forgetting has to be written before anything is given back. A bridge that filled its disk to
the last byte would have no way out of it; so it stops taking spans a little before that.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 64 << 20
"""More than the log grows to between two checkpoints, and the decisions on what waits."""
RESERVE_SHARE: Final = 8
"""On a small disk no more than this part of it."""
ENOUGH: Final = 1.25
"""Spans are taken again once there is this many times the reserve: not to change one's mind with every batch."""


class Room:
    """Says whether spans may be taken. Blocks, and is asked in worker threads."""

    def __init__(self, folder: Path, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._folder, self._reserve_bytes = folder, reserve_bytes
        self._lacking = False

    def lacking(self, unused_bytes: Callable[[], int]) -> str:
        """Why no spans may be taken, "" when they may; a disk that cannot be asked is none that is full.

        unused_bytes: how much the database has for new rows without growing; asked when there is little else.
        """
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return ""
        free = found.f_bavail * found.f_frsize
        reserve = min(self._reserve_bytes, found.f_blocks * found.f_frsize // RESERVE_SHARE)
        wanted = int(reserve * ENOUGH) if self._lacking else reserve
        # pages that are free in the file need no room on the disk, but the log in front of it does
        self._lacking = free < wanted and (free < reserve // 2 or unused_bytes() < wanted)
        if not self._lacking:
            return ""
        return (
            f"the disk of {self._folder} is full: {free} bytes are free, {wanted} are needed, so that what is stored "
            "can leave; make room there"
        )
