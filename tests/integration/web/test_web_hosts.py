"""Where no token is asked for, the page answers to its own names alone: a site cannot have its name lead there."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest

from bridge.config import load
from bridge.pipeline.run import Bridge
from bridge.security import KnownHosts, ListenerSecurity
from bridge.telemetry.metrics import running_metrics
from bridge.web.server import WebServer
from tests.integration.web.test_web_api import DATA, SHOWN, serving

WAIT_S = 30.0
MACHINE = socket.gethostname()
KNOWN = ("127.0.0.1", "127.0.0.1:1", "[::1]:4319", "10.0.0.7", "[fe80::1]", "localhost:80", "LocalHost.", MACHINE)
STRANGE = (
    "evil.example",
    "evil.example:4319",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "localhost:80:evil.example",
    "evil.example,localhost",
    "127.1",
    "2130706433",
    "[::1",
    "",
    ":4319",
)
PATHS = ("/", "/static/page.js", "/api/openapi.json", "/api/nothing", "/nothing", *DATA)
CONFIG = """
[[inputs.ebpftrace]]
db_path = "{folder}/store"
[receivers.otlp_grpc]
enabled = false
[receivers.otlp_http]
port = 0
[web]
port = 0
{web}
[exporters.lines]
type = "file"
path = "{folder}/lines.jsonl"
"""


async def status(url: str, host: str, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers={"Host": host, **headers}) as answer,
    ):
        return answer.status, await answer.text()


async def said(address: str, head: str) -> str:
    """The first line of what the server says to this head."""
    host, _, port = address.rpartition(":")
    with anyio.fail_after(WAIT_S):
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(head.encode())
            return (await stream.receive()).decode().partition("\r\n")[0]


@pytest.mark.parametrize("host", KNOWN)
async def test_addresses_and_own_names_are_answered(host: str) -> None:
    """With any port: who forwards one has another."""
    async with serving() as url:
        assert [path for path in ("/", "/api/traces") if (await status(url + path, host))[0] != 200] == []


@pytest.mark.parametrize("host", STRANGE)
async def test_other_names_are_misdirected(host: str) -> None:
    """With what to do; nothing of a trace is in it."""
    async with serving() as url:
        code, text = await status(url + DATA[2], host)
    assert code == 421
    assert "web.allowed_hosts" in text
    assert "shop" not in text


@pytest.mark.parametrize("path", PATHS)
async def test_no_path_of_the_page_answers_to_another_name(path: str) -> None:
    """Nor tells whether there is anything."""
    async with serving() as url:
        assert (await status(url + path, "evil.example"))[0] == 421


async def test_a_request_names_one_host() -> None:
    """Neither none, as HTTP/1.0 may, nor two, of which somebody in between may have looked at the other."""
    async with serving() as url:
        address = url.removeprefix("http://")
        assert " 421 " in await said(address, "GET /api/traces HTTP/1.0\r\n\r\n")
        two = "GET /api/traces HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        assert " 400 " in await said(address, two)


async def test_with_tokens_the_name_does_not_matter() -> None:
    """A site has none: it is the token that lets in."""
    async with serving(security=ListenerSecurity(tokens=[SHOWN])) as url:
        assert (await status(url + "/api/traces", "evil.example"))[0] == 401
        assert (await status(url + "/api/traces", "evil.example", Authorization=f"Bearer {SHOWN}"))[0] == 200


@pytest.mark.parametrize(
    ("own", "allowed", "names"),
    [
        ("localhost", ("bridge.example", "two.example"), ("bridge.example:443", "Two.Example")),
        ("bridge.example", (), ("bridge.example",)),
        ("0.0.0.0", ("*",), ("evil.example", "", "anything")),  # noqa: S104
    ],
)
async def test_names_may_be_allowed(own: str, allowed: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Those of the settings, and the one it listens on; a star allows all."""
    server = WebServer(
        hosts=("127.0.0.1",),
        port=0,
        not_ready=lambda: "",
        metrics=lambda: b"",
        known_hosts=KnownHosts("web.allowed_hosts", own=own, allowed=allowed),
    )
    async with server.running():
        assert {(await status(f"http://{server.address}/", name))[0] for name in names} == {404}
        strange = (await status(f"http://{server.address}/", "three.example"))[0]
    assert strange == (404 if "*" in allowed else 421)


@asynccontextmanager
async def a_bridge(folder: Path, web: str) -> AsyncIterator[str]:
    """http://HOST:PORT of the page of a whole bridge."""
    path = folder / "bridge.toml"
    path.write_text(CONFIG.format(folder=folder, web=web))
    with running_metrics("0") as metrics:
        async with Bridge(load(path, {}).settings, metrics).running() as addresses:
            yield f"http://{addresses['web']}"


async def test_probes_and_scrapers_may_use_any_name_and_refusals_are_counted(tmp_path: Path) -> None:
    """They have a service's name; of spans there is nothing in what they get."""
    async with a_bridge(tmp_path, 'allowed_hosts = ["bridge.example"]') as url:
        assert (await status(f"{url}/api/status", "bridge.example"))[0] == 200
        assert (await status(f"{url}/api/status", "evil.example"))[0] == 421
        for path in ("/healthz", "/readyz", "/metrics"):
            code, text = await status(url + path, "espan-bridge.observability.svc:4319")
            assert code == 200
    assert 'web_refused_requests_total{reason="misdirected"} 1.0' in text


async def test_a_token_that_is_missing_is_counted(tmp_path: Path) -> None:
    """Under its own reason, whatever the name."""
    async with a_bridge(tmp_path, f'tokens = ["{SHOWN}"]') as url:
        assert (await status(f"{url}/api/status", "evil.example"))[0] == 401
        _, text = await status(f"{url}/metrics", "evil.example", Authorization=f"Bearer {SHOWN}")
    assert 'web_refused_requests_total{reason="unauthenticated"} 1.0' in text
