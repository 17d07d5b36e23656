"""Spans of OpenTelemetry's SDKs in several languages: what passes a bridge equals what goes to a backend directly."""

import sys
from pathlib import Path

import anyio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.interop.peers import HERE
from tests.support.bridge_process import Bridge, Setup, running
from tests.support.sink import Sink, running_sink

SPANS = 700
SENT_S = 60.0
ARRIVED_S = 30.0
WAYS = ["grpc:none", "grpc:gzip", "http:none", "http:gzip"]


def spans_by_id(sink: Sink) -> dict[bytes, list[str]]:
    """Every span a backend has, by its id, each with its resource and scope, as text to compare."""
    found: dict[bytes, list[str]] = {}
    for body in sink.bodies:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in group.scope_spans:
                for span in scope.spans:
                    about = f"{group.resource}{group.schema_url}{scope.scope}{scope.schema_url}{span}"
                    found.setdefault(span.span_id, []).append(about)
    return found


async def compare(tmp_path: Path, way: str, *command: str | Path) -> None:
    """Run the sender with the bridge in this way, and with a backend directly; both backends have the same."""
    async with (
        running_sink() as through,
        running_sink() as directly,
        running(Setup(tmp_path).export_to("one", "otlp_grpc", through.grpc_port)) as bridge,
    ):
        targets = (f"{way}:{_address(bridge, way)}", f"grpc:none:127.0.0.1:{directly.grpc_port}")
        with anyio.fail_after(SENT_S):
            ended = await anyio.run_process([*map(str, command), str(SPANS), *targets], check=False)
        assert ended.returncode == 0, ended.stderr.decode()
        with anyio.fail_after(ARRIVED_S):
            while through.totals().distinct < SPANS:
                through.arrived.clear()
                await through.arrived.wait()
    expected = spans_by_id(directly)
    assert len(expected) == SPANS
    assert spans_by_id(through) == expected


def _address(bridge: Bridge, way: str) -> str:
    return bridge.address("otlp_grpc" if way.startswith("grpc") else "otlp_http")


@pytest.mark.parametrize("way", WAYS)
async def test_python(tmp_path: Path, way: str) -> None:
    """OpenTelemetry's Python SDK."""
    await compare(tmp_path, way, sys.executable, HERE / "python_sender.py")


@pytest.mark.parametrize("way", WAYS)
async def test_go(tmp_path: Path, go_sender: Path, way: str) -> None:
    """OpenTelemetry's Go SDK."""
    await compare(tmp_path, way, go_sender)


@pytest.mark.parametrize("way", [*WAYS, "json:none", "json:gzip"])
async def test_node(tmp_path: Path, node_sender: Path, way: str) -> None:
    """OpenTelemetry's JavaScript SDK, whose HTTP exporters are the only ones here that write JSON."""
    await compare(tmp_path, way, "node", node_sender)
