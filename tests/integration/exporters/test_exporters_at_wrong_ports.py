"""Exporters whose address is that of another protocol: nothing is lost, and the error says what to set."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from bridge.component import Body
from bridge.exporters import NotTaken
from bridge.exporters.dataway import DatawayExporter
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from bridge.exporters.protocols import SPEAKS_GRPC, SPEAKS_HTTP, WITH_TLS, WITHOUT_TLS, grpc_remedy
from bridge.security import ClientTls
from tests.support.linked import body_of
from tests.support.sink import Sink, running_sink

pytestmark = pytest.mark.anyio

TLS = Path("tests/support/tls").absolute()
TRUST = ClientTls(ca_file=TLS / "ca.pem", cert_file=TLS / "client.pem", key_file=TLS / "client.key")


async def failure_of(exporter: OtlpGrpcExporter | OtlpHttpExporter) -> NotTaken:
    """Why it could not deliver."""
    async with exporter.running():
        with pytest.raises(NotTaken) as caught:
            await exporter.deliver(body_of(1))
    return caught.value


async def test_grpc_to_a_port_for_http() -> None:
    """As a stock server of HTTP answers."""
    async with running_sink() as sink:
        failed = await failure_of(OtlpGrpcExporter("b", f"http://127.0.0.1:{sink.http_port}"))
    assert failed.settings
    assert str(failed).endswith(SPEAKS_HTTP)


async def test_http_to_a_port_for_grpc() -> None:
    """As gRPC's core answers."""
    async with running_sink() as sink:
        failed = await failure_of(OtlpHttpExporter("b", f"http://127.0.0.1:{sink.grpc_port}"))
    assert (failed.settings, failed.reason) == (True, "connection")
    assert str(failed).endswith(SPEAKS_GRPC)


@pytest.mark.parametrize("build", [OtlpGrpcExporter, OtlpHttpExporter])
async def test_tls_to_a_port_without(build: type[OtlpGrpcExporter] | type[OtlpHttpExporter]) -> None:
    """OpenSSL and BoringSSL have one name for it."""
    async with running_sink() as sink:
        port = sink.grpc_port if build is OtlpGrpcExporter else sink.http_port
        failed = await failure_of(build("b", f"https://localhost:{port}", tls=TRUST))
    assert failed.settings
    assert str(failed).endswith(WITHOUT_TLS)


async def test_a_dataway_at_a_port_for_grpc() -> None:
    """The same words, but for types it has no choice of; its token is not shown."""
    async with running_sink() as sink:
        exporter = DatawayExporter("guance", f"http://127.0.0.1:{sink.grpc_port}?token=tkn_0123456789abcdef")
        async with exporter.running():
            with pytest.raises(NotTaken) as caught:
                await exporter.deliver(Body(b"points", 1))
    assert caught.value.settings
    assert "this looks like gRPC" in str(caught.value)
    assert "tkn_" not in str(caught.value)


@asynccontextmanager
async def answering(status: int, text: str) -> AsyncIterator[str]:
    """The address of a server that says this to everything."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "text",
    [
        "Client sent an HTTP request to an HTTPS server.\n",
        "<center>The plain HTTP request was sent to HTTPS port</center>",
    ],
    ids=["go", "nginx"],
)
async def test_http_to_a_port_with_tls_is_kept(text: str) -> None:
    """The 400 of these servers is about the address, and says nothing against the spans."""
    async with answering(400, text) as endpoint:
        failed = await failure_of(OtlpHttpExporter("b", endpoint))
    assert (failed.settings, failed.reason) == (True, "http_400")
    assert str(failed).endswith(WITH_TLS)


async def test_a_proxy_whose_backend_is_away_is_not_taken_for_the_wrong_port() -> None:
    """5xx over HTTP/2 is what Envoy says then; 404 is somebody without gRPC."""
    assert grpc_remedy("Received http2 header with status: 503") == ""
    assert grpc_remedy("Received http2 header with status: 404") == SPEAKS_HTTP
    assert grpc_remedy("failed to connect to all addresses; last error: Connection refused") == ""


async def test_a_backend_that_is_away_is_no_matter_of_settings(caplog: pytest.LogCaptureFixture) -> None:
    """No remedy is named for what passes by itself."""
    async with Sink().running() as sink:
        ports = sink.grpc_port, sink.http_port
    with caplog.at_level(logging.WARNING):
        for build, port in zip((OtlpGrpcExporter, OtlpHttpExporter), ports, strict=True):
            failed = await failure_of(build("b", f"http://127.0.0.1:{port}"))
            assert not failed.settings
            assert "this looks like" not in str(failed)
