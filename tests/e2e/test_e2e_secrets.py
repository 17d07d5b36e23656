"""Secrets planted in every place a running bridge has for one, and peers that hand them back: none may show."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import grpc
import grpc.aio
import psutil
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from tests.support.agent import PATH, traffic
from tests.support.bridge_process import RETRY, Bridge, started
from tests.support.planted import Planted
from tests.support.senders import simulated

PROTOBUF = "application/x-protobuf"
PEER_S = 40.0
WORKERS = 2
CONFIG = """
workers = {workers}
[[inputs.ebpftrace]]
db_path = "{folder}/store"
window = "200ms"
sampling_rate = 1.0
[linker]
tick = "50ms"
[attributes]
hash = ["http.url"]
hash_key = "{hash_key}"
[receivers.otlp_grpc]
port = 0
tokens = ["{grpc_token}"]
[receivers.otlp_http]
port = 0
tokens_file = "{folder}/tokens"
[receivers.datakit]
port = 0
tokens = ["{datakit_token}"]
forward_to = "http://{forward_user}@127.0.0.1:{http}"
[web]
host = "0.0.0.0"
port = 0
auth_header = "x-api-key"
tokens = ["{web_token}"]
[telemetry]
log_level = "debug"
log_format = "json"
[exporters.over-http]
type = "otlp_http"
traces_endpoint = "http://{http_user}@127.0.0.1:{http}/v1/traces?api_key={http_query}"
headers = {{x-token = "Bearer {http_header}"}}
{retry}
[exporters.over-grpc]
type = "otlp_grpc"
endpoint = "http://{grpc_user}@127.0.0.1:{grpc}"
{retry}
[exporters.guance]
type = "dataway"
proxy = "http://{proxy_user}@127.0.0.1:{http}"
{retry}
"""


class Peers:
    """Backends and a proxy that answer with all they were sent, now as an error to try again, now as one that is final,
    now as a warning, now as somewhere else to go."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.requests: Counter[str] = Counter()
        self.changed = anyio.Event()
        self.http_port = self.grpc_port = 0

    def _take(self, kind: str, text: str) -> int:
        self.got.append(text)
        self.requests[kind] += 1
        self.changed.set()
        return self.requests[kind]

    async def had(self, requests: dict[str, int]) -> None:
        """Return once each kind of peer had so many."""
        with anyio.fail_after(PEER_S):
            while any(self.requests[kind] < count for kind, count in requests.items()):
                self.changed = anyio.Event()
                await self.changed.wait()

    async def http(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
        text = f"{request.raw_path} {request.path_qs} {headers}"
        kind = "forwarded" if "bpftracing" in text else "dataway" if "guance" in text else "otlp"
        match self._take(kind, text) % 4:
            case 1:
                return web.Response(status=503, text=text)
            case 2:
                return web.Response(status=307, headers={"Location": f"http://elsewhere/{request.raw_path}"}, text=text)
            case 0:
                answer = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(error_message=text))
                return web.Response(body=answer.SerializeToString(), content_type=PROTOBUF)
            case _:
                return web.Response(status=400, text=text)

    async def grpc(self, _request: bytes, context: Any) -> bytes:
        text = " ".join(f"{key}: {value}" for key, value in context.invocation_metadata())
        code = grpc.StatusCode.UNAVAILABLE if self._take("grpc", text) % 2 else grpc.StatusCode.INVALID_ARGUMENT
        await context.abort(code, text)
        raise AssertionError("abort raises")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Peers"]:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        method = grpc.unary_unary_rpc_method_handler(self.grpc)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        self.grpc_port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        runner = web.ServerRunner(web.Server(self.http), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.http_port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()
            await server.stop(0)


def configure(folder: Path, planted: Planted, peers: Peers) -> Path:
    (folder / "tokens").write_text(f"# agents\n{planted('otlp_http token')}\n")
    path = folder / "bridge.toml"
    values = {
        name: planted(name)
        for name in ("hash_key", "grpc_token", "datakit_token", "web_token", "http_query", "http_header")
    }
    users = {f"{name}_user": planted.user(name) for name in ("forward", "http", "grpc", "proxy")}
    ports = {"http": peers.http_port, "grpc": peers.grpc_port}
    text = CONFIG.format(folder=folder, workers=WORKERS, retry=RETRY, **values, **users, **ports)
    path.write_text(text)
    return path


def variables(planted: Planted, peers: Peers) -> dict[str, str]:
    """Secrets that come through the environment."""
    return {
        "ENV_DATAWAY": f"http://guance.example:{peers.http_port}?token={planted('ENV_DATAWAY')}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{planted('OTEL_EXPORTER_OTLP_HEADERS')}",
    }


async def send_what_is_known(bridge: Bridge, planted: Planted, first: int) -> None:
    """Spans that show the right tokens, each in another place."""
    requests, _ = simulated(first, 5, 1_764_000_000 * 10**9)
    bearer = {"Authorization": f"Bearer {planted('otlp_http token')}", "Content-Type": PROTOBUF}
    points = next(iter(traffic(5, start_ns=1_764_000_000 * 10**9).bodies.values()))
    agent = f"http://{bridge.address('datakit')}{PATH.partition('?')[0]}?token={planted('datakit_token')}?input=ebpf"
    async with (
        grpc.aio.insecure_channel(bridge.address("otlp_grpc")) as channel,
        aiohttp.ClientSession() as session,
    ):
        metadata = (("authorization", f"Bearer {planted('grpc_token')}"),)
        for request in requests:
            await TraceServiceStub(channel).Export(request, metadata=metadata, timeout=20)
            url, data = f"http://{bridge.address('otlp_http')}/v1/traces", request.SerializeToString()
            async with session.post(url, data=data, headers=bearer) as response:
                assert response.status == 200
        for body in points:
            headers = {"Content-Type": "application/protobuf; proto=com.guance.Point"}
            async with session.post(agent, data=body, headers=headers) as response:
                assert response.status == 200


async def send_what_is_wrong(bridge: Bridge, planted: Planted) -> list[str]:
    """Requests that are refused, or are not even HTTP, each with a secret of its sender; the answers."""
    secret = planted("sender")
    answers = []
    async with grpc.aio.insecure_channel(bridge.address("otlp_grpc")) as channel:
        for name in ("authorization", "x-api-key"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/x.Y/Z")(b"", metadata=((name, f"Bearer {secret}"),), timeout=20)
            answers.append(str(caught.value.details()))
    heads = (
        f"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Api-Key: {secret}\r\n\r\n",
        f"GET /{secret}?token={secret} HTTP/9.9\r\n\r\n",
        f"POST /v1/traces?token={secret} HTTP/1.1\r\nHost: x\r\nAuthorization: {secret}\r\nContent-Length: 0\r\n\r\n",
        f"POST /v1/bpftracing?token={secret} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\x01\r\n\r\n",
        f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {secret}\r\n\r\n",
        f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nAuthorization: {secret * 1000}\r\n\r\n",
        f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: {secret}\r\n\r\n",
        f"{secret}\r\n\r\n",
    )
    for name in ("otlp_http", "datakit", "web"):
        host, _, port = bridge.address(name).rpartition(":")
        for head in heads:
            async with await anyio.connect_tcp(host, int(port)) as stream:
                try:
                    await stream.send(head.encode())
                    await stream.send_eof()
                    answers.append((await stream.receive()).decode(errors="replace"))
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    continue
    return answers


async def ask(bridge: Bridge, planted: Planted) -> list[str]:
    """What the web listener shows."""
    shown = []
    async with aiohttp.ClientSession(headers={"x-api-key": planted("web_token")}) as session:
        for path in ("/healthz", "/readyz", "/metrics", "/nowhere"):
            async with session.get(f"http://{bridge.address('web')}{path}") as response:
                shown.append(await response.text())
    return shown


def processes(bridge: Bridge) -> list[psutil.Process]:
    top = psutil.Process(bridge.pid)
    return [top, *top.children(recursive=True)]


async def test_no_secret_shows_anywhere(tmp_path: Path) -> None:
    """Not in logs at their most talkative, metrics, answers, arguments of processes, variables of ingest processes, or
    the store; while every peer was indeed told what it should be, and said it back."""
    planted = Planted()
    async with Peers().running() as peers:
        config = configure(tmp_path, planted, peers)
        async with started(config, variables=variables(planted, peers)) as bridge:
            await bridge.ready()
            shown = await send_what_is_wrong(bridge, planted)
            await send_what_is_known(bridge, planted, 0)
            await peers.had({"otlp": 3, "grpc": 2, "dataway": 3, "forwarded": 1})
            await send_what_is_known(bridge, planted, 10)
            await peers.had({"otlp": 4, "grpc": 3})
            shown += await ask(bridge, planted)
            running = processes(bridge)
            assert len(running) == 1 + WORKERS
            shown += [" ".join(process.cmdline()) + process.name() for process in running]
            shown += [json.dumps(process.environ()) for process in running[1:]]
            assert {process.rlimit(psutil.RLIMIT_CORE)[0] for process in running} == {0}
            assert await bridge.stop() == 0
        shown += [json.dumps(bridge.log), bridge.text]
    outside = planted.found_in("\n".join(peers.got))
    assert set(outside) >= {"http_query", "http_header", "ENV_DATAWAY", "OTEL_EXPORTER_OTLP_HEADERS"}
    told = "\n".join(peers.got).encode()
    assert all(planted.basic_forms(name) in told for name in ("forward", "http", "proxy"))
    assert planted.found_in("\n".join(shown)) == []
    stored = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert stored
    assert {path.name: planted.found_in(path.read_bytes()) for path in stored} == {path.name: [] for path in stored}
    assert [e for e in bridge.log if "***" in e.get("error", "")], "the peers' answers were to be logged"
    (open_to_others,) = [e for e in bridge.log if e["message"] == "a listener is open to others"]
    assert open_to_others["level"] == "warning"
    assert open_to_others["warning"].startswith("web listens beyond this machine (web.host = 0.0.0.0) without TLS")
