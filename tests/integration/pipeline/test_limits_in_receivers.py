"""Limits of the settings hold in the receivers that are built from them."""

import io
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import grpc
import grpc.aio
import pytest

from bridge.config import load
from bridge.pipeline.build import build_receivers
from bridge.spans import SpanBatch
from bridge.telemetry import Instruments
from tests.support.espans import espan_of, request_of
from tests.support.point_bodies import body_of, espan_point

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SETTINGS = """
[receivers.otlp_grpc]
port = 0
max_connections = 1
max_request_spans = 1
[receivers.otlp_http]
port = 0
max_connections = 1
max_request_spans = 1
max_json_bytes = 10
[receivers.datakit]
port = 0
max_connections = 1
max_request_spans = 1
[exporters.trees]
type = "console"
"""


class Nobody:
    """Takes everything, and forgets it."""

    async def consume(self, batch: SpanBatch) -> None:
        """See `SpanConsumer`."""


@pytest.fixture
async def addresses(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Where each receiver listens."""
    path = tmp_path / "bridge.toml"
    path.write_text(SETTINGS)
    receivers = build_receivers(load(path, {}).settings, Nobody(), Instruments())
    async with AsyncExitStack() as stack:
        for receiver in receivers:
            await stack.enter_async_context(receiver.running())
        yield {receiver.name: receiver.address.replace("localhost", "127.0.0.1") for receiver in receivers}


@pytest.mark.parametrize("name", ["otlp_grpc", "otlp_http", "datakit"])
async def test_connections_are_bounded(addresses: dict[str, str], name: str) -> None:
    """The second one of an address is closed."""
    host, _, port = addresses[name].rpartition(":")

    def second() -> bytes:
        with socket.create_connection((host, int(port)), 20), socket.create_connection((host, int(port)), 20) as sock:
            return sock.recv(1)

    assert await anyio.to_thread.run_sync(second) == b""


async def test_spans_of_a_request_are_bounded(addresses: dict[str, str]) -> None:
    """One is taken, two are not."""
    async with grpc.aio.insecure_channel(addresses["otlp_grpc"]) as channel:
        call = channel.unary_unary(EXPORT)
        assert await call(request_of(espan_of()), timeout=20) == b""
        assert await call(request_of(espan_of(), espan_of()), timeout=20).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    one_point, two_points = body_of(espan_point()), body_of(espan_point(), espan_point())
    for name, path, one, two in (
        ("otlp_http", "v1/traces", request_of(espan_of()), request_of(espan_of(), espan_of())),
        ("datakit", "v1/bpftracing", one_point, two_points),
    ):
        url, headers = f"http://{addresses[name]}/{path}", {"Content-Type": "application/x-protobuf"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for body, status in ((one, 200), (two, 413)):
                async with session.post(url, data=io.BytesIO(body)) as response:
                    assert response.status == status


async def test_json_is_bounded(addresses: dict[str, str]) -> None:
    """By a size of its own."""
    url = f"http://{addresses['otlp_http']}/v1/traces"
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
        for body, status in ((b"{}", 200), (b"{}" + b" " * 9, 413)):
            async with session.post(url, data=body) as response:
                assert response.status == status
