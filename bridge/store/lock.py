"""One bridge owns a folder: a lock the kernel lets go of when its holder dies, however it dies."""

import asyncio
import fcntl
import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from bridge.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK_FILE = "espan.lock"


@asynccontextmanager
async def owned(folder: Path, wait_s: float) -> AsyncIterator[int]:
    """Own the folder while the context is open; waits up to `wait_s` for another owner to let go.

    Yields the descriptor of the lock. A process that inherits it shares the lock: the folder is free when all of them
    have closed it or ended.

    Raises ConfigError, which names the folder and the pid of the owner, or the reason it cannot be locked.
    """
    path = folder / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise ConfigError(f"inputs.ebpftrace.db_path: cannot use {folder}: {exc.strerror}") from exc
    request = _Request(descriptor)
    try:
        try:
            granted = request.granted_at_once()
            if not granted and wait_s > 0:
                logger.warning(
                    "another bridge uses db_path; waiting for it to end",
                    extra={"db_path": str(folder), "owner": _holder(path), "lock_wait_s": wait_s},
                )
                granted = await request.granted(wait_s)
            if not granted:
                raise ConfigError(
                    f"inputs.ebpftrace.db_path: {folder} is in use by another bridge (pid {_holder(path)}); "
                    f"waited {wait_s:g} s for it"
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as exc:
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot lock {folder}: {exc.strerror}") from exc
        yield descriptor
    finally:
        request.withdraw()


def _holder(path: Path) -> str:
    return path.read_text().strip() or "unknown"


class _Request:
    """A file lock that is asked for. The descriptor is closed when the request is withdrawn.

    The kernel has no file lock with a deadline, and a wait for one cannot be called off: a thread waits, and one that
    gets the lock after nobody wants it any more closes the file again.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mutex = threading.Lock()
        self._withdrawn = self._waiting = False
        self._error: OSError | None = None

    def granted_at_once(self) -> bool:
        """Whether nobody else has the lock. Raises OSError where the file system has no locks."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def granted(self, wait_s: float) -> bool:
        """Whether the lock was given within this time. Raises OSError where the file system has no locks."""
        loop, ended = asyncio.get_running_loop(), anyio.Event()
        self._waiting = True
        threading.Thread(target=self._block, args=(loop, ended), name="store lock", daemon=True).start()
        with anyio.move_on_after(wait_s):
            await ended.wait()
        with self._mutex:
            if self._error is not None:
                raise self._error
            return not self._waiting

    def _block(self, loop: asyncio.AbstractEventLoop, ended: anyio.Event) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as exc:
            self._error = exc
        with self._mutex:
            self._waiting = False
            if self._withdrawn:
                os.close(self._descriptor)
            else:
                loop.call_soon_threadsafe(ended.set)

    def withdraw(self) -> None:
        """Let go of the lock, or of the wish for it."""
        with self._mutex:
            self._withdrawn = True
            if not self._waiting:
                os.close(self._descriptor)
