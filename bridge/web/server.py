"""GET /healthz, /readyz and /metrics."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from bridge.errors import ConfigError


class WebServer:
    """Serves what operators and probes ask for; holds no state of its own."""

    def __init__(self, *, host: str, port: int, not_ready: Callable[[], str], metrics: Callable[[], bytes]) -> None:
        """not_ready returns why the bridge is not ready, "" when it is; metrics the Prometheus text."""
        self._host, self.port = host, port
        self._not_ready, self._metrics = not_ready, metrics

    @property
    def address(self) -> str:
        """host:port"""
        return f"{self._host}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; raises ConfigError where the address cannot be bound."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._prometheus)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, self._host, self.port).start()
            except OSError as exc:
                raise ConfigError(
                    f"web.port: cannot listen on {self._host}:{self.port} ({exc.strerror}); set another port"
                ) from exc
            self.port = runner.addresses[0][1]
            yield
        finally:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(text=f"{reason}\n", status=503) if reason else web.Response(text="ready\n")

    async def _prometheus(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
