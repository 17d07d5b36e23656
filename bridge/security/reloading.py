"""What is made of files, and made anew when they change; one task looks after all of them."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import anyio
from anyio.to_thread import run_sync

from bridge.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S = 2.0
DAY_S = 86_400.0
WARNING_S = 14 * DAY_S
_Signature = tuple[tuple[int, ...] | None, ...]


CountReload: TypeAlias = Callable[[int, Mapping[str, str]], None]
"""Adds to a counter of reloads by part, kind and result."""


def not_counted(amount: int, attributes: Mapping[str, str]) -> None:
    """For where another process counts the same."""


class Reloaded(Generic[T]):
    """Something made of files. `value` is there once `start` was called, and is the newest that could be made."""

    def __init__(self, part: str, kind: str, files: tuple[Path, ...], load: Callable[[], T]) -> None:
        """part: whose it is, as the settings call it; kind: "certificates" or "tokens"."""
        self.part, self.kind, self.files = part, kind, files
        self._load = load
        self._value: T | None = None
        self._changed = anyio.Event()
        self._used: _Signature = ()
        """Of the files as they were tried last, whether or not they could be used."""
        self._seen: _Signature = ()

    @property
    def value(self) -> T:
        """What was made of the files last."""
        if self._value is None:
            raise RuntimeError(f"{self.kind} of {self.part} were not read yet")
        return self._value

    @property
    def started(self) -> bool:
        """Whether there is a value."""
        return self._value is not None

    def start(self) -> T:
        """Read the files unless that was done before. Raises ConfigError, which names the part."""
        if self._value is None:
            self._used = self._seen = self._signature()
            try:
                self._value = self._load()
            except ConfigError as exc:
                raise ConfigError(f"{self.part}: {exc}") from exc
        return self._value

    async def changed(self) -> None:
        """Return once there is another value."""
        await self._changed.wait()

    def reload(self) -> T | None:
        """Another value where the files have changed since they were tried last; for a thread.

        What changes from one call to the next is still being written, and left alone. Raises ConfigError.
        """
        now = self._signature()
        settled, self._seen = now == self._seen, now
        if now == self._used or not settled:
            return None
        self._used = now
        return self._load()

    def replace(self, value: T) -> None:
        """Have this value from now on."""
        self._value = value
        self._changed.set()
        self._changed = anyio.Event()

    def _signature(self) -> _Signature:
        return tuple(_signature(path) for path in self.files)


def _signature(path: Path) -> tuple[int, ...] | None:
    """What is another once a file was written, replaced, or reached through other links; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class FileWatch:
    """Looks after things made of files while it runs: reloads them, and says in time which certificates expire."""

    def __init__(
        self,
        count: CountReload = not_counted,
        *,
        poll_s: float = POLL_S,
        warning_s: float = WARNING_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """count: told each reload, its result "ok" or "failed"; warning_s: how long before a
        certificate expires that is logged, once a day, 0 for never; now_s: the wall clock."""
        self._count, self._poll_s, self._warning_s, self._now_s = count, poll_s, warning_s, now_s
        self._watched: list[Reloaded[Any]] = []

    def add(self, reloaded: Reloaded[T]) -> Reloaded[T]:
        """Look after this, too; returns it."""
        if reloaded.files:
            self._watched.append(reloaded)
            # a counter that appears with its first event hides that event from whoever watches for an increase
            self._count(0, {"part": reloaded.part, "kind": reloaded.kind, "result": "failed"})
        return reloaded

    def expiries_s(self) -> dict[str, float]:
        """When the certificate of each part expires, in seconds since the epoch."""
        known = ((r.part, getattr(r.value, "expires_s", None)) for r in self._watched if r.started)
        return {part: expires_s for part, expires_s in known if expires_s is not None}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reload while the context is open. Raises ConfigError where files that nobody read yet cannot be used."""
        for reloaded in self._watched:
            reloaded.start()
        async with anyio.create_task_group() as tasks:
            if self._watched:
                tasks.start_soon(self._keep_reloading)
                tasks.start_soon(self._keep_warning)
            yield
            tasks.cancel_scope.cancel()

    async def _keep_reloading(self) -> None:
        while True:
            await anyio.sleep(self._poll_s)
            for reloaded in self._watched:
                await self._reload(reloaded)

    async def _reload(self, reloaded: Reloaded[Any]) -> None:
        fields = {"part": reloaded.part, "kind": reloaded.kind}
        try:
            value = await run_sync(reloaded.reload)
        except ConfigError as exc:
            self._count(1, {**fields, "result": "failed"})
            text = "files have changed and cannot be used; what was read before stays in use"
            log.error(text, extra={**fields, "error": str(exc)})  # noqa: TRY400 -- the text says it all
            return
        if value is None:
            return
        reloaded.replace(value)
        self._count(1, {**fields, "result": "ok"})
        log.info("files have changed and were read again", extra=fields)
        self._warn(reloaded)

    async def _keep_warning(self) -> None:
        while True:
            for reloaded in self._watched:
                self._warn(reloaded)
            await anyio.sleep(DAY_S)

    def _warn(self, reloaded: Reloaded[Any]) -> None:
        expires_s, now_s = getattr(reloaded.value, "expires_s", None), self._now_s()
        if expires_s is None or not 0 < self._warning_s >= expires_s - now_s:
            return
        when = datetime.fromtimestamp(expires_s, UTC).isoformat()
        text = "a certificate has expired" if expires_s <= now_s else "a certificate expires soon"
        log.warning(text, extra={"part": reloaded.part, "expires": when})
