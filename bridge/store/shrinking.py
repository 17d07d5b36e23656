"""Gives back what a backlog left behind: free pages of the file, step by step, and its log."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import to_thread

from bridge.errors import StoreUnavailable
from bridge.store.database import Database
from bridge.store.space import FileSpace, Space

T = TypeVar("T")

STEP_PAGES = 128
"""Given back in one go, 2 MiB: 3 to 6 ms in which nothing is committed."""
REST = 3.0
"""How many times what a step took is left to commits after it."""
KEEP_SHARE = 4
"""A quarter of what is in use may lie free: what is forgotten every few seconds is used again at once."""
KEEP_LOG_BYTES = 1 << 20
LOOK_S = 1.0


class Shrinking:
    """Keeps the file and its log no larger than they have to be.

    Whatever it does in the file shares the limiter of commits, so that neither is in the other's way for longer than
    one step takes.
    """

    def __init__(self, database: Database, space: Space, writing: anyio.CapacityLimiter) -> None:
        self._database, self._space, self._writing = database, space, writing
        self._freed, self._written = anyio.Event(), anyio.Event()
        self._fixed = False
        """Whether the file keeps its size, as one of an earlier bridge does until it is made over."""

    def noted(self) -> None:
        """Say that something was committed; never blocks."""
        self._written.set()
        if self._surplus >= STEP_PAGES and not self._fixed:
            self._freed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_at_log)
            while True:
                await self._freed.wait()
                self._freed = anyio.Event()
                try:
                    await self._shrink()
                except StoreUnavailable:
                    await anyio.sleep(LOOK_S)  # commits fail as well, and say so

    async def _shrink(self) -> None:
        while self._surplus and not self._fixed:
            started = time.monotonic()
            await self._in_turn(self._step)
            await anyio.sleep(REST * (time.monotonic() - started))
        await self._in_turn(self._database.truncate_log)

    @property
    def _surplus(self) -> int:
        return surplus(self._space.own, self._space.limits.keep_bytes)

    def _step(self) -> None:
        before = self._space.own
        after = self._database.shrink(min(self._surplus, STEP_PAGES))
        self._fixed = after.pages >= before.pages
        self._space.measured(after)

    async def _look_at_log(self) -> None:
        """Empty the log once nothing is written any more."""
        while True:
            await self._written.wait()
            self._written = anyio.Event()
            await anyio.sleep(LOOK_S)
            if not self._written.is_set():
                try:
                    await self._in_turn(self._empty_log)
                except StoreUnavailable:
                    self._written.set()  # tried again

    def _empty_log(self) -> None:
        path = self._database.log_path
        if path.exists() and path.stat().st_size > KEEP_LOG_BYTES:
            self._database.truncate_log()

    async def _in_turn(self, work: Callable[[], T]) -> T:
        return await to_thread.run_sync(work, limiter=self._writing)


def surplus(file: FileSpace, keep_bytes: int) -> int:
    """Free pages that are worth giving back; so many bytes of them are kept at least."""
    keep = max(keep_bytes, file.used_bytes // KEEP_SHARE)
    return max(0, file.free_bytes - keep) // max(1, file.page_bytes)
