"""Health, readiness and metrics over real HTTP."""

import socket

import aiohttp
import pytest

from bridge.errors import ConfigError
from bridge.web import WebServer


class Bridge:
    """What the server shows."""

    reason = ""
    metrics = b"# HELP a b\n"

    def server(self, *, hosts: tuple[str, ...] = ("127.0.0.1",), port: int = 0) -> WebServer:
        return WebServer(hosts=hosts, port=port, not_ready=lambda: self.reason, metrics=lambda: self.metrics)


async def get(server: WebServer, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{server.address}{path}") as response:
        return response.status, await response.text(), response.headers["Content-Type"]


async def test_health_says_ok_whatever_the_bridge_does() -> None:
    """A process that answers is alive; restarting it would not help against a full disk."""
    bridge = Bridge()
    bridge.reason = "the store cannot commit"
    server = bridge.server()
    async with server.running():
        assert (await get(server, "/healthz"))[:2] == (200, "ok\n")


async def test_readiness_is_503_with_the_reason() -> None:
    """And turns to 200 when there is none any more, without a restart."""
    bridge = Bridge()
    bridge.reason = "receivers are not open"
    server = bridge.server()
    async with server.running():
        assert (await get(server, "/readyz"))[:2] == (503, "receivers are not open\n")
        bridge.reason = ""
        assert (await get(server, "/readyz"))[:2] == (200, "ready\n")


async def test_metrics_are_prometheus_text() -> None:
    """With the content type scrapers ask for."""
    server = Bridge().server()
    async with server.running():
        status, text, content_type = await get(server, "/metrics")
    assert (status, text) == (200, "# HELP a b\n")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"


async def test_an_unknown_path_is_404() -> None:
    """There is nothing else here."""
    server = Bridge().server()
    async with server.running():
        assert (await get(server, "/v1/traces"))[0] == 404


async def test_several_addresses_share_one_port() -> None:
    """Port 0 means one free port, not one for each address."""
    server = Bridge().server(hosts=("127.0.0.1", "127.0.0.2"))
    async with server.running():
        for host in ("127.0.0.1", "127.0.0.2"):
            with socket.create_connection((host, server.port), timeout=5):
                pass


async def test_a_port_in_use_is_a_configuration_error() -> None:
    """It names the key, the port and the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"web\.port = {port}: cannot listen on 127\.0\.0\.1: .*in use"):
            async with Bridge().server(port=port).running():
                pytest.fail("must not start")
