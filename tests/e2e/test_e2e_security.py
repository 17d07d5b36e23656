"""TLS, client certificates and tokens of a real bridge, changed while it runs."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from tests.support.bridge_process import Bridge, Setup, started
from tests.support.certificates import Authority, Files, client_context, replace, secure_channel, server_names
from tests.support.senders import simulated

OLD, NEW = "old-token-of-the-bridge-1", "new-token-of-the-bridge-2"
PROTOBUF = {"Content-Type": "application/x-protobuf"}
LISTENER = """
[{name}]
host = "127.0.0.1"
tokens_file = "{tokens}"
[{name}.tls]
cert_file = "{cert}"
key_file = "{key}"
"""


@dataclass
class Secured:
    """A bridge whose listeners all ask for TLS and a token, those of spans for a client certificate, too."""

    bridge: Bridge
    files: Files
    tokens: Path
    folder: Path
    server: Authority
    clients: Authority

    async def http(self, token: str, *, trusted: Authority | None = None, known: bool = True) -> int:
        """Send spans over a connection of its own; the status."""
        identity = self.clients.issue("sender") if known else None
        context = client_context((trusted or self.server).pem, identity, self.folder)
        url = f"https://{self.bridge.address('otlp_http')}/v1/traces"
        headers = {**PROTOBUF, "Authorization": f"Bearer {token}"}
        data = spans().SerializeToString()
        async with aiohttp.request("POST", url, data=data, headers=headers, ssl=context) as response:
            return response.status

    async def grpc(self, token: str, *, trusted: Authority | None = None, known: bool = True) -> grpc.StatusCode:
        """The same over gRPC."""
        identity = self.clients.issue("sender") if known else None
        async with secure_channel(self.bridge.address("otlp_grpc"), (trusted or self.server).pem, identity) as channel:
            try:
                metadata = (("authorization", f"Bearer {token}"),)
                await TraceServiceStub(channel).Export(spans(), timeout=20, metadata=metadata)
            except grpc.aio.AioRpcError as exc:
                return exc.code()
            return grpc.StatusCode.OK

    async def web(self, path: str, token: str = "") -> tuple[int, str]:
        """Ask the web listener."""
        url, context = f"https://{self.bridge.address('web')}{path}", client_context(self.server.pem)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers, ssl=context) as response:
            return response.status, await response.text()


def spans() -> ExportTraceServiceRequest:
    """One request; always the same, which the bridge folds."""
    return simulated(0, 1, 1_764_000_000 * 10**9)[0][0]


@asynccontextmanager
async def secured(folder: Path) -> AsyncIterator[Secured]:
    server, clients = Authority(), Authority()
    files = Files(folder / "server").put(server.issue(*server_names(), days=3), clients.pem)
    tokens = folder / "tokens"
    tokens.write_text(f"{OLD}\n")
    values = {"tokens": tokens, "cert": files.cert, "key": files.key}
    text = "".join(LISTENER.format(name=n, **values) for n in ("receivers.otlp_grpc", "receivers.otlp_http", "web"))
    for name in ("otlp_grpc", "otlp_http"):
        text = text.replace(f"[receivers.{name}.tls]", f'[receivers.{name}.tls]\nclient_ca_file = "{files.ca}"')
    security = folder / "security.toml"
    security.write_text(text)
    setup = Setup(folder).export_to_file(folder / "out.jsonl")
    async with started(setup.write(), security) as bridge:
        await bridge.ready()
        yield Secured(bridge, files, tokens, folder, server, clients)
        assert await bridge.stop() == 0


async def test_security_holds_and_follows_its_files(tmp_path: Path) -> None:
    """Who lacks a certificate or a token gets nothing through, on any port; new files are taken up while a connection
    of before goes on. With ingest processes, and under load: tests/torture/rotation.py."""
    async with secured(tmp_path) as it:
        assert await it.http(OLD) == 200
        assert await it.grpc(OLD) is grpc.StatusCode.OK
        assert await it.http(NEW) == 401
        assert await it.grpc(NEW) is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await it.http(OLD, known=False)
        assert await it.grpc(OLD, known=False) is grpc.StatusCode.UNAVAILABLE
        assert (await it.web("/healthz"))[0] == (await it.web("/readyz"))[0] == 200
        assert (await it.web("/metrics"))[0] == 401
        status, metrics = await it.web("/metrics", OLD)
        assert status == 200
        for part in ("receivers.otlp_grpc", "receivers.otlp_http", "web"):
            assert f'tls_certificate_expiry_timestamp_seconds{{part="{part}"}}' in metrics
        soon = [event for event in it.bridge.log if event["message"] == "a certificate expires soon"]
        assert {event["part"] for event in soon} == {"receivers.otlp_grpc", "receivers.otlp_http", "web"}
        await follow_new_files(it)


async def follow_new_files(it: Secured) -> None:
    context = client_context(it.server.pem, it.clients.issue("sender"), it.folder)
    url = f"https://{it.bridge.address('otlp_http')}/v1/traces"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=1)) as before:

        async def on_the_old_connection(token: str) -> int:
            headers = {**PROTOBUF, "Authorization": f"Bearer {token}"}
            async with before.post(url, data=spans().SerializeToString(), headers=headers) as response:
                return response.status

        assert await on_the_old_connection(OLD) == 200
        after = Authority()
        it.files.put(after.issue(*server_names()))
        replace(it.tokens, f"{NEW}\n".encode())
        await it.bridge.logged("files have changed and were read again", 6)  # certificates and tokens of three
        assert await on_the_old_connection(NEW) == 200
        assert await on_the_old_connection(OLD) == 401
    it.server, before_it = after, it.server
    assert await it.http(NEW) == 200
    assert await it.grpc(NEW) is grpc.StatusCode.OK
    assert await it.grpc(OLD) is grpc.StatusCode.UNAUTHENTICATED
    assert await it.grpc(NEW, trusted=before_it) is grpc.StatusCode.UNAVAILABLE
    _, metrics = await it.web("/metrics", NEW)
    assert [sum_of(metrics, part) for part in ("receivers.otlp_grpc", "receivers.otlp_http", "web")] == [2, 2, 2]
    assert 'reason="unauthenticated"' in metrics


def sum_of(metrics: str, part: str) -> float:
    """Reloads of a part that went well."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("credential_reloads_total{") and f'part="{part}"' in line and 'result="ok"' in line
    )
