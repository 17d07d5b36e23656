"""Writes OTLP/JSON lines, one request a line, as the Collector's file exporter does.

Guarantees: whoever reads the file finds whole lines only. A write that fails half-way is cut off again; what a crash
tore is cut off at the next start, and delivered again because the cursor had not passed it. A file that somebody moved
away or deleted is begun anew under its name. A file system that hangs is waited for in a thread of its own.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from glob import escape as glob_escape
from pathlib import Path

from bridge.component import Body
from bridge.errors import ConfigError
from bridge.exporters.failures import NotTaken
from bridge.exporters.thread import OneThread
from bridge.spans import LinkedSpans

logger = logging.getLogger(__name__)

TAIL_BYTES = 1 << 20
WRITE_S = 10.0


class FileExporter:
    """Appends to `path`; a file that would grow over `max_bytes` is set aside under its name and the time (UTC).

    `max_backups` and `max_age_days` bound what is kept of those, 0 keeps all. `fsync` makes a delivered line survive
    a power cut too; without it, it survives a crash of the process. `timeout_s`: how long one write may take.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        max_bytes: int = 100 << 20,
        max_backups: int = 0,
        max_age_days: float = 0,
        fsync: bool = False,
        max_spans: int = 8192,
        max_body_bytes: int = 4 << 20,
        timeout_s: float = WRITE_S,
    ) -> None:
        self.name = name
        self._path, self._fsync = path, fsync
        self._max_bytes, self._max_backups, self._max_age_days = max_bytes, max_backups, max_age_days
        self._max_spans, self._max_body_bytes = max_spans, max_body_bytes
        self._thread, self._timeout_s = OneThread(f"exporter {name}"), timeout_s
        self._file = -1
        self._size = 0
        self._identity = (0, 0)
        """Device and inode of the file that is open."""
        self._set_aside = datetime.min.replace(tzinfo=UTC)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold the file open. Raises ConfigError where it cannot be opened."""
        try:
            await self._thread.run(self._open, timeout_s=self._timeout_s)
        except OSError as exc:
            path = f"exporters.{self.name}.path = {str(self._path)!r}"
            raise ConfigError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
        try:
            yield
        finally:
            if not self._thread.hangs:
                self._close()

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        """Lines, each with its newline."""
        from bridge.codec.otlp_encode import encode_requests
        from bridge.codec.otlp_json import encode_json

        for request, spans in encode_requests(linked, max_spans=self._max_spans, max_bytes=self._max_body_bytes):
            yield Body(encode_json(request) + b"\n", spans)

    async def deliver(self, body: Body) -> None:
        """Raises NotTaken where the file cannot be written at present (disk full, say), or not within the timeout."""
        try:
            await self._thread.run(self._append, body.data, timeout_s=self._timeout_s)
        except TimeoutError as exc:
            raise NotTaken(f"writing {self._path} hangs", reason="timeout") from exc
        except OSError as exc:
            raise NotTaken(f"cannot write {self._path}: {exc.strerror}", reason="io") from exc

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        found = os.fstat(self._file)
        self._size, self._identity = found.st_size, (found.st_dev, found.st_ino)
        whole = self._end_of_last_line()
        if whole < self._size:
            logger.warning(
                "cut off a line torn by a crash", extra={"path": str(self._path), "bytes": self._size - whole}
            )
            os.ftruncate(self._file, whole)
            self._size = whole

    def _end_of_last_line(self) -> int:
        end = self._size
        while end:
            begin = max(0, end - TAIL_BYTES)
            newline = os.pread(self._file, end - begin, begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
        return 0

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _is_elsewhere(self) -> bool:
        """Whether the file that is open has its name no more: somebody moved or deleted it."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def _append(self, line: bytes) -> None:
        if self._file >= 0 and self._is_elsewhere():
            logger.info("the file was moved away or deleted; a new one is begun", extra={"path": str(self._path)})
            self._close()
            self._open()
        if self._file < 0 or (self._size and self._size + len(line) > self._max_bytes):
            self._rotate()
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            if self._fsync:
                os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        """Set the file aside and begin a new one; after an error here the next write tries again."""
        now = datetime.now(UTC)
        if self._file >= 0:
            self._path.rename(self._free_backup(now))
            self._close()
        self._open()
        self._drop_backups(now)

    def _free_backup(self, now: datetime) -> Path:
        """A name after those of all earlier ones, also of those within this millisecond that are gone already."""
        now = max(now, self._set_aside + timedelta(milliseconds=1))
        while (backup := self._backup(now)).exists():
            now += timedelta(milliseconds=1)
        self._set_aside = now
        return backup

    def _backup(self, now: datetime) -> Path:
        stamp = f"{now:%Y-%m-%dT%H-%M-%S}.{now.microsecond // 1000:03d}"
        return self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")

    def _drop_backups(self, now: datetime) -> None:
        digits = "[0-9]" * 4 + "-[0-9][0-9]" * 2 + "T[0-9][0-9]" + "-[0-9][0-9]" * 2 + "." + "[0-9]" * 3
        backups = sorted(
            self._path.parent.glob(f"{glob_escape(self._path.stem)}-{digits}{glob_escape(self._path.suffix)}")
        )
        excess = set(backups[: -self._max_backups]) if self._max_backups else set()
        if self._max_age_days:
            oldest = now.timestamp() - self._max_age_days * 86_400
            excess.update(backup for backup in backups if backup.stat().st_mtime < oldest)
        for backup in excess:
            backup.unlink(missing_ok=True)
