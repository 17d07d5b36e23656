"""The socket in `db_path` through which an operator on the same machine speaks to a running bridge.

HTTP over a Unix socket that its owner alone may open (mode 0600): whoever can, can read the store's files as well, so
that no token is needed. It goes with the bridge; one that was left by a crash is replaced, which the lock on the folder
makes safe.
"""

import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from aiohttp import web

from bridge.component import Outboxes, OutboxStatus
from bridge.errors import StoreUnavailable

logger = logging.getLogger(__name__)

SOCKET_FILE = "espan.sock"
CLOSE_S = 0.5
ANSWER_S = 300.0
"""What is under way to a backend is waited for: a drop may take as long as attempts do."""
MAX_PATH_BYTES = 100
"""A little less than what fits into a socket's address."""


class NotRunning(Exception):
    """Nobody answers at the socket."""


class ControlServer:
    """Serves the outboxes of the bridge it belongs to."""

    def __init__(self, folder: Path, outboxes: Outboxes) -> None:
        self._folder, self._outboxes = folder, outboxes

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open. Where that is not possible a warning says so, and the bridge goes on."""
        app = web.Application()
        app.router.add_get("/outbox", self._status)
        app.router.add_post("/outbox/retry", self._retry)
        app.router.add_post("/outbox/drop", self._drop)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
        await runner.setup()
        try:
            try:
                await web.SockSite(runner, _listening(self._folder)).start()
            except OSError as exc:
                logger.warning(
                    "espan-bridge outbox will not reach this bridge: its socket cannot be made",
                    extra={"path": str(self._folder / SOCKET_FILE), "reason": exc.strerror or str(exc)},
                )
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()
                _remove(self._folder / SOCKET_FILE)

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response({"exporters": [asdict(status) for status in await self._outboxes.status()]})

    async def _retry(self, request: web.Request) -> web.Response:
        asked = await request.json()
        try:
            return web.json_response({"exporters": list(await self._outboxes.retry(asked["exporter"]))})
        except LookupError:
            return _unknown(asked["exporter"])

    async def _drop(self, request: web.Request) -> web.Response:
        asked = await request.json()
        try:
            spans = await self._outboxes.drop(asked["exporter"], asked["older_than_s"])
        except LookupError:
            return _unknown(asked["exporter"])
        except StoreUnavailable as exc:
            return web.json_response({"error": str(exc)}, status=503)
        return web.json_response({"spans": spans})


class ControlClient(Outboxes):
    """The outboxes of a running bridge, by its socket. Every method raises NotRunning where nobody answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def status(self) -> Sequence[OutboxStatus]:
        """See `Outboxes.status`."""
        answer = await self._ask("GET", "/outbox")
        return [OutboxStatus(**status) for status in answer["exporters"]]

    async def retry(self, exporter: str | None) -> Sequence[str]:
        """See `Outboxes.retry`."""
        answer = await self._ask("POST", "/outbox/retry", {"exporter": exporter})
        return [str(name) for name in answer["exporters"]]

    async def drop(self, exporter: str, older_than_s: float | None) -> int:
        """See `Outboxes.drop`."""
        answer = await self._ask("POST", "/outbox/drop", {"exporter": exporter, "older_than_s": older_than_s})
        return int(answer["spans"])

    async def _ask(self, method: str, path: str, asked: dict[str, object] | None = None) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            with _short(self._folder) as folder:
                connector = aiohttp.UnixConnector(path=str(folder / SOCKET_FILE))
                async with (
                    aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                    session.request(method, f"http://bridge{path}", json=asked) as answer,
                ):
                    told: dict[str, Any] = json.loads(await answer.read())
        except (OSError, aiohttp.ClientError) as exc:
            raise NotRunning(str(exc)) from exc
        if answer.status == web.HTTPNotFound.status_code:
            raise LookupError(told["error"])
        if answer.status != web.HTTPOk.status_code:
            raise StoreUnavailable(told["error"])
        return told


def _unknown(exporter: object) -> web.Response:
    return web.json_response({"error": f"no exporter {exporter!r}"}, status=web.HTTPNotFound.status_code)


def _listening(folder: Path) -> socket.socket:
    """A socket in the folder that its owner alone may open. Raises OSError."""
    _remove(folder / SOCKET_FILE)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # of the file that bind makes, so that it never was open to others
        with _short(folder) as short:
            listening.bind(str(short / SOCKET_FILE))
        (folder / SOCKET_FILE).chmod(0o600)  # where the system does not do the former
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _remove(path: Path) -> None:
    """Remove a socket; whatever else has its name is somebody else's."""
    try:
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
    except OSError:
        return


@contextmanager
def _short(folder: Path) -> Iterator[Path]:
    """A name for the folder that fits into a socket's address, which holds 108 bytes."""
    if len(os.fsencode(folder / SOCKET_FILE)) <= MAX_PATH_BYTES or not Path("/proc/self/fd").is_dir():
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
