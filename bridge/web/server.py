"""The listener of [web]: health, metrics, and the page with its data."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from bridge.connections import Connections, Handler, ListenerLimits, timed
from bridge.errors import ConfigError
from bridge.security import KnownHosts, ListenerSecurity, Misdirected, Unauthenticated
from bridge.security.listener import AUTHORIZATION
from bridge.web.api import Api, Guard

_IDLE_S = 120.0
_REFUSED_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
OPEN = frozenset(("/healthz", "/readyz", "/metrics"))
"""Answered whatever the Host: probes and scrapers have a service's name or any other, and there is no span in them."""
CLOSE_S = 0.5
"""How long answers that are being written may take once the server stops."""


class WebServer:
    """Serves what operators and probes ask for; holds no state of its own."""

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        port: int,
        not_ready: Callable[[], str],
        metrics: Callable[[], bytes],
        security: ListenerSecurity | None = None,
        limits: ListenerLimits = ListenerLimits(),  # noqa: B008 -- frozen
        closed: Callable[[str], None] = lambda _: None,
        refused: Callable[[str], None] = lambda _: None,
        known_hosts: KnownHosts | None = None,
        page: Callable[[Guard], Api] | None = None,
    ) -> None:
        """hosts: the addresses to listen on, all on one port (0: any free one).

        not_ready returns why the bridge is not ready, "" when it is; metrics the Prometheus text. security: TLS, and
        the tokens that are to be shown for all but health: probes have none, and learn no more than that. closed: told
        why for each connection that the limits close; refused: for each request. known_hosts: what browsers may ask it
        by, where it asks for no tokens. page: makes the page and its data, given what asks for tokens.
        """
        self._hosts, self.port = hosts, port
        self._not_ready, self._metrics = not_ready, metrics
        self._security = security or ListenerSecurity()
        self._known_hosts = None if self._security.asks_for_tokens else known_hosts or KnownHosts("web.allowed_hosts")
        self._refused = refused
        self._connections = Connections(limits, closed)
        self._page = page(self._refusal) if page else None

    @property
    def address(self) -> str:
        """host:port of the first address, the port bound once the server runs."""
        host = self._hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many there are."""
        return self._connections.open

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; raises ConfigError where the address cannot be bound."""
        app = web.Application(middlewares=[timed, self._meant_for_us])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._prometheus)
        if self._page:
            self._page.add_to(app)
        context = self._security.context()
        runner = web.AppRunner(app, shutdown_timeout=CLOSE_S)
        await runner.setup()
        try:
            for host in self._hosts:
                await self._listen(runner, host, context)
            yield
        finally:
            self._connections.close()
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    async def _listen(self, runner: web.AppRunner, host: str, context: ssl.SSLContext | None) -> None:
        assert runner.server is not None  # noqa: S101 -- it was set up
        try:
            self.port = await self._connections.listen(
                runner.server, (host, self.port), context, access_log=None, logger=_wire_log, keepalive_timeout=_IDLE_S
            )
        except OSError as exc:
            raise ConfigError(
                f"web.port = {self.port}: cannot listen on {host}: {exc.strerror or exc}; set another port, or "
                "web.enabled = false"
            ) from exc

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(text=f"{reason}\n", status=503) if reason else web.Response(text="ready\n")

    def _refusal(self, request: web.Request) -> web.Response | None:
        """What to answer a request that shows no token where one is asked for."""
        try:
            self._security.check(request.headers.get(self._security.header))
        except Unauthenticated as exc:
            self._refused("unauthenticated")
            header = self._security.header
            # how a browser's script learns where the token goes; no registered scheme is meant for other headers
            scheme = "Bearer" if header == AUTHORIZATION else f'Token header="{header}"'
            return web.Response(text=f"{exc}\n", status=401, headers={"WWW-Authenticate": scheme, **_REFUSED_HEADERS})
        return None

    @web.middleware
    async def _meant_for_us(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what is meant for a host that is not this one, before anything else does."""
        if self._known_hosts is not None and request.path not in OPEN:
            try:
                self._known_hosts.check(request.headers.getall("Host", ()))
            except Misdirected as exc:
                self._refused("misdirected")
                return web.Response(text=f"{exc}\n", status=421, headers=_REFUSED_HEADERS)
        return await handler(request)

    async def _prometheus(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a log record of aiohttp's is about us; bytes that are no HTTP are a client's, and may hold secrets."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.addFilter(_is_ours)
