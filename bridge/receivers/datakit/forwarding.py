"""Copies of accepted bodies for another linker, so that both can be run side by side.

A copy is sent once, after its sender was answered; it is never waited for. What does not fit into the queue, or is not
answered with 2xx, is dropped and counted.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import anyio
from yarl import URL

from bridge.security import ClientTls, Identity, Reloaded
from bridge.telemetry import Instruments

log = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 32 << 20
_WORKERS = 4
_TIMEOUT_S = 30.0
_LOG_AGAIN_S = 60.0
_CONNECTION_HEADERS = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""What belongs to the connection a request came over, not to the request."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One request as it came."""

    target: str
    """Path and query, encoded as they were."""
    headers: Mapping[str, str]
    body: bytes


class Forwarder:
    """Sends copies to the same path at another server."""

    def __init__(
        self,
        url: str,
        *,
        instruments: Instruments,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
        tls: Reloaded[Identity] | None = None,
    ) -> None:
        """`tls`: for a url of https; without it the system's authorities are trusted."""
        self._tls = tls or Reloaded("receivers.datakit.forward_to", "certificates", (), ClientTls().load)
        parts = urlsplit(url)
        self._base, self._shown = url.rstrip("/"), f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._instruments, self._max_queued_bytes = instruments, max_queued_bytes
        self._queue: deque[Copy] = deque()
        self._queued_bytes = 0
        self._news = anyio.Semaphore(0)
        self._quiet_until = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send copies while the context is open; those still queued when it is left are dropped and counted."""
        self._tls.start()
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(
                timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            anyio.create_task_group() as workers,
        ):
            for _ in range(_WORKERS):
                workers.start_soon(self._work, session)
            yield
            workers.cancel_scope.cancel()
        while self._queue:
            self._take()
            self._drop("stopping")

    def offer(self, copy: Copy) -> None:
        """Queue a copy, or drop it where the queue is full. Never blocks."""
        if self._queue and self._queued_bytes + len(copy.body) > self._max_queued_bytes:
            self._drop("queue_full")
            return
        self._queue.append(copy)
        self._queued_bytes += len(copy.body)
        self._news.release()

    def _take(self) -> Copy:
        copy = self._queue.popleft()
        self._queued_bytes -= len(copy.body)
        return copy

    async def _work(self, session: aiohttp.ClientSession) -> None:
        while True:
            await self._news.acquire()
            copy, why_not = self._take(), "stopping"
            try:
                why_not = await self._send(session, copy)
            finally:  # also where the receiver stops meanwhile
                if why_not:
                    self._drop(why_not)
                else:
                    self._instruments.forwarded_requests.add(1)

    async def _send(self, session: aiohttp.ClientSession, copy: Copy) -> str:
        """Why the copy was not taken, "" where it was."""
        headers = [(k, v) for k, v in copy.headers.items() if k.lower() not in _CONNECTION_HEADERS]
        # what the request did not say is not said for it
        left_out = ("User-Agent", "Content-Type", "Accept", "Accept-Encoding")
        url = URL(self._base + copy.target, encoded=True)
        try:
            async with session.post(
                url,
                data=copy.body,
                headers=headers,
                skip_auto_headers=left_out,
                allow_redirects=False,
                ssl=self._tls.value.context,
            ) as response:
                return "" if 200 <= response.status < 300 else f"http_{response.status}"
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, OSError):
            return "connection"

    def _drop(self, reason: str) -> None:
        self._instruments.forward_dropped_requests.add(1, {"reason": reason})
        now = anyio.current_time()
        if now >= self._quiet_until:
            self._quiet_until = now + _LOG_AGAIN_S
            log.warning("copies are dropped", extra={"forward_to": self._shown, "reason": reason})
