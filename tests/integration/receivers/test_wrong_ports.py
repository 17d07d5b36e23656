"""Senders at the wrong port: gRPC at one that takes HTTP, and HTTP at the one that takes gRPC."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.connections import NO_GRPC, ListenerLimits
from bridge.http2 import PREFACE, begins_as_server
from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.otlp import GrpcReceiver, HttpReceiver
from bridge.web import WebServer
from tests.support.senders import stock_stub

LIMITS = ListenerLimits(header_timeout_s=0.5)
RECEIVERS = {"otlp_http": HttpReceiver, "datakit": DatakitReceiver}


@asynccontextmanager
async def listening(kind: str, consumer: Any, meter: Any) -> AsyncIterator[int]:
    """The port of one that takes HTTP."""
    server: Any
    if kind == "web":
        closed = meter.instruments.closed_connections_of("web")
        server = WebServer(
            hosts=("127.0.0.1",), port=0, not_ready=lambda: "", metrics=bytes, limits=LIMITS, closed=closed
        )
    else:
        instruments = meter.instruments
        server = RECEIVERS[kind](consumer, instruments=instruments, host="127.0.0.1", port=0, limits=LIMITS)
    async with server.running():
        yield server.port


def rest_of(port: int, sent: bytes) -> bytes:
    """What a server says to these bytes until it hangs up."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(sent)
        try:
            while piece := sock.recv(65536):
                found += piece
        except ConnectionResetError:
            pass
    return found


@pytest.mark.parametrize("kind", [*RECEIVERS, "web"])
async def test_grpc_at_a_port_for_http_is_told_where_to_go(
    kind: str, consumer: Any, meter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A stock client reads it as the text of UNAVAILABLE, after which it keeps its spans; counted, and logged once."""
    async with listening(kind, consumer, meter) as port:
        for _ in range(2):
            async with stock_stub(f"127.0.0.1:{port}") as stub:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Export(ExportTraceServiceRequest())
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, NO_GRPC)
    assert meter.read("listener_closed_connections") == {(kind, "http2"): 2}
    (event,) = [e for e in caplog.records if e.message == "a client sends gRPC to a port that takes HTTP"]
    assert (event.port, event.remedy) == (port, NO_GRPC)  # type: ignore[attr-defined]


async def test_one_that_does_not_hang_up_is_cut_off(consumer: Any, meter: Any) -> None:
    """When a request's head would have had to be there; it is counted once."""
    async with listening("otlp_http", consumer, meter) as port:
        said = await anyio.to_thread.run_sync(rest_of, port, PREFACE)
    assert begins_as_server(said)
    assert meter.read("listener_closed_connections") == {("otlp_http", "http2"): 1}


async def test_http_at_the_port_for_grpc_is_hung_up_on(consumer: Any, meter: Any) -> None:
    """gRPC's core answers with the beginning of HTTP/2, whatever was said: docs/faq.md says how senders show that."""
    receiver = GrpcReceiver(consumer, instruments=meter.instruments, host="127.0.0.1", port=0)
    async with receiver.running():
        request = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
        said = await anyio.to_thread.run_sync(rest_of, receiver.port, request)
    assert begins_as_server(said)
    assert b"HTTP/1" not in said
