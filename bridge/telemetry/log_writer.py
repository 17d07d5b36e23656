"""Writes log lines in a thread of its own: whoever logs never waits for whoever reads.

Standard error is often a pipe, and a pipe that nobody reads is full after 64 KiB: the next write to it waits, and with
it the event loop. Lines are queued instead, up to a bound in bytes; beyond it they are dropped and counted, and a line
says how many as soon as there is somebody who reads again.

Decided against: the standard library's QueueHandler, whose queue is bounded in events of any size, and which has no
way to say what was dropped.
"""

import logging
import os
import select
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

MAX_QUEUED_BYTES: Final = 4 << 20
FLUSH_S: Final = 2.0
"""How long an exit waits for lines to be written: a reader that is stuck does not keep the process."""
_WRITE_BYTES: Final = 1 << 16

_logger = logging.getLogger(__name__)


class BackgroundHandler(logging.Handler):
    """Formats where the event happens, writes to a descriptor in a thread; that is not closed at the end."""

    def __init__(self, descriptor: int, *, max_queued_bytes: int = MAX_QUEUED_BYTES) -> None:
        super().__init__()
        self.descriptor, self._max_bytes = descriptor, max_queued_bytes
        self._lines: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        # each is changed by one side alone, so that neither needs a lock the other could hold while it waits
        self._put_bytes = self._written_bytes = 0
        self.dropped = 0
        """Events that were not written, as there was no room."""
        self._told = 0
        self._count: Callable[[float], object] | None = None
        self._counted = 0
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def count_dropped_with(self, add: Callable[[float], object]) -> None:
        """Tell a counter of events that are dropped, and of those that were."""
        self.acquire()
        try:
            self._count = add
            self._tell_counter()
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the event, or drop and count it. Called with the handler's lock held."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 -- a field that cannot be shown must not end what logs it
            self.handleError(record)
            return
        if self._put_bytes - self._written_bytes + len(line) > self._max_bytes:
            self.dropped += 1
            self._tell_counter()
            return
        self._put_bytes += len(line)
        self._lines.put(line)

    def flush(self) -> None:
        """Return when what was logged so far is written, after FLUSH_S at most."""
        if self._thread.is_alive():
            written = threading.Event()
            self._lines.put(written)
            written.wait(FLUSH_S)

    def close(self) -> None:
        """End the thread once all is written; one that cannot write is left alone."""
        if self._thread.is_alive():
            self._lines.put(None)
            self._thread.join(FLUSH_S)
        super().close()

    def _tell_counter(self) -> None:
        if self._count is not None and self.dropped > self._counted:
            self._count(self.dropped - self._counted)
            self._counted = self.dropped

    def _run(self) -> None:
        item = self._lines.get()
        while item is not None:
            if isinstance(item, threading.Event):
                self._tell_dropped()
                item.set()
                item = self._lines.get()
            else:
                item = self._write_lines(item)

    def _write_lines(self, first: bytes) -> bytes | threading.Event | None:
        """Write this line and those that wait behind it, some at a time; returns what comes after them."""
        lines, size, following = [first], len(first), None
        while size < _WRITE_BYTES:
            try:
                following = self._lines.get_nowait()
            except Empty:
                following = b""
            if not isinstance(following, bytes) or not following:
                break
            lines.append(following)
            size += len(following)
        self._write(b"".join(lines))
        self._written_bytes += size
        self._tell_dropped()
        return self._lines.get() if isinstance(following, bytes) else following

    def _tell_dropped(self) -> None:
        dropped = self.dropped
        if dropped == self._told:
            return
        record = _logger.makeRecord(
            _logger.name, logging.ERROR, __file__, 0, "log events were dropped, as nobody read them", (), None,
            extra={"dropped": dropped - self._told},
        )  # fmt: skip
        self._told = dropped
        if self.filter(record):
            self._write(f"{self.format(record)}\n".encode(errors="backslashreplace"))

    def _write(self, data: bytes) -> None:
        """All of it; nothing where the other end is gone."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.descriptor, view) :]
            except BlockingIOError:  # somebody who shares it has made it so
                select.select([], [self.descriptor], [], 1.0)
            except OSError:
                return


def flushed() -> None:
    """Return when what was logged so far is written, as far as anybody reads it."""
    for handler in logging.getLogger().handlers:
        handler.flush()
