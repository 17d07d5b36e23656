"""GET /healthz, /readyz and /metrics."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from aiohttp import web

from bridge.errors import ConfigError

CLOSE_S = 0.5
"""How long answers that are being written may take once the server stops."""


class WebServer:
    """Serves what operators and probes ask for; holds no state of its own."""

    def __init__(
        self, *, hosts: Sequence[str], port: int, not_ready: Callable[[], str], metrics: Callable[[], bytes]
    ) -> None:
        """hosts: the addresses to listen on, all on one port (0: any free one).

        not_ready returns why the bridge is not ready, "" when it is; metrics the Prometheus text.
        """
        self._hosts, self.port = hosts, port
        self._not_ready, self._metrics = not_ready, metrics

    @property
    def address(self) -> str:
        """host:port of the first address, the port bound once the server runs."""
        host = self._hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; raises ConfigError where the address cannot be bound."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._prometheus)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
        await runner.setup()
        try:
            for host in self._hosts:
                await self._listen(runner, host)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    async def _listen(self, runner: web.AppRunner, host: str) -> None:
        try:
            await web.TCPSite(runner, host, self.port).start()
        except OSError as exc:
            raise ConfigError(
                f"web.port = {self.port}: cannot listen on {host}: {exc.strerror or exc}; set another port, or "
                "web.enabled = false"
            ) from exc
        self.port = runner.addresses[0][1]

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(text=f"{reason}\n", status=503) if reason else web.Response(text="ready\n")

    async def _prometheus(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
