"""TLS of every exporter that uses a network: whom it trusts, what it shows, and files that change while it runs."""

import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp.web
import anyio
import grpc
import grpc.aio
import pytest

from bridge.component import Body
from bridge.errors import ConfigError, RetryableError
from bridge.exporters.dataway import DatawayExporter
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from bridge.security import ClientTls, FileWatch
from tests.support.certificates import Authority, Files, server_names

KINDS = ("otlp_grpc", "otlp_http", "dataway")
every_exporter = pytest.mark.parametrize("kind", KINDS)
BODY = Body(b"", 1)
EXPORTERS = {"otlp_grpc": OtlpGrpcExporter, "otlp_http": OtlpHttpExporter, "dataway": DatawayExporter}
Identity = tuple[bytes, bytes]


class Exporter(Protocol):
    """What all of them can do."""

    async def deliver(self, body: Body) -> None: ...


class Backend:
    """Takes everything over TLS, on a port that stays; counts connections by whether their client was known."""

    def __init__(self, folder: Path) -> None:
        self._files = Files(folder / "backend")
        self.port = 0
        self.taken = 0
        self.gate = anyio.Event()
        self.gate.set()
        self.entered = anyio.Event()

    async def take(self) -> None:
        self.entered.set()
        await self.gate.wait()
        self.taken += 1

    @asynccontextmanager
    async def running(self, kind: str, identity: Identity, clients: bytes | None = None) -> AsyncIterator[None]:
        """Listen with this certificate, and ask for one of these authorities."""
        serve = self._grpc if kind == "otlp_grpc" else self._http
        async with serve(identity, clients):
            yield

    @asynccontextmanager
    async def _grpc(self, identity: Identity, clients: bytes | None) -> AsyncIterator[None]:
        async def export(_data: bytes, _context: Any) -> bytes:
            await self.take()
            return b""

        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        method = grpc.unary_unary_rpc_method_handler(export)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        cert, key = identity
        credentials = grpc.ssl_server_credentials([(key, cert)], clients, require_client_auth=clients is not None)
        self.port = server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)

    @asynccontextmanager
    async def _http(self, identity: Identity, clients: bytes | None) -> AsyncIterator[None]:
        async def post(request: aiohttp.web.BaseRequest) -> aiohttp.web.Response:
            await request.read()
            if request.method == "POST":
                await self.take()
            return aiohttp.web.Response()

        files = self._files.put(identity)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        if clients is not None:
            context.load_verify_locations(cadata=clients.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        runner = aiohttp.web.ServerRunner(aiohttp.web.Server(post), shutdown_timeout=0.1)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()


def exporter(
    kind: str, backend: Backend, tls: ClientTls, watch: FileWatch | None = None
) -> OtlpGrpcExporter | OtlpHttpExporter | DatawayExporter:
    return EXPORTERS[kind]("backend", f"https://localhost:{backend.port}", tls=tls, watch=watch, timeout_s=20)


class Reloads:
    """Results of reloads, in order."""

    def __init__(self) -> None:
        self.results: list[str] = []
        self.first = anyio.Event()

    def add(self, amount: int, attributes: Mapping[str, str]) -> None:
        self.results += [attributes["result"]] * amount
        if amount:
            self.first.set()


async def why_not(exporting: Exporter) -> str:
    with pytest.raises(RetryableError) as caught:
        await exporting.deliver(BODY)
    return str(caught.value)


async def delivered(exporting: Exporter) -> None:
    """Return once a delivery went through; those before it may have been retryable failures, as a connection can be
    slow to be given up."""
    with anyio.fail_after(30):
        while True:
            try:
                await exporting.deliver(BODY)
            except RetryableError:
                await anyio.sleep(0.02)
            else:
                return


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    """The exporter's."""
    return Files(tmp_path / "exporter").put(authority.issue("bridge"), authority.pem)


@every_exporter
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("expired", "certificate has expired"),
        ("authority", "unable to get local issuer certificate"),
        ("name", "(?i)hostname (mismatch|verification)"),
    ],
)
async def test_a_backend_with_a_wrong_certificate_gets_nothing_until_it_has_a_right_one(
    kind: str, fault: str, says: str, tmp_path: Path, authority: Authority, files: Files
) -> None:
    """The failure is one that is tried again, its text says what is wrong, and delivery resumes by itself."""
    wrong = {
        "expired": lambda: authority.issue(*server_names(), days=-1),
        "authority": lambda: Authority().issue(*server_names()),
        "name": lambda: authority.issue("elsewhere.example"),
    }[fault]()
    backend = Backend(tmp_path)
    async with AsyncExitStack() as stack:
        async with backend.running(kind, wrong):
            exporting = exporter(kind, backend, ClientTls(files.ca))
            await stack.enter_async_context(exporting.running())
            assert re.search(says, await why_not(exporting))
        assert backend.taken == 0
        async with backend.running(kind, authority.issue(*server_names())):
            await delivered(exporting)
        assert backend.taken == 1


@every_exporter
async def test_exporters_offer_nothing_older_than_tls_1_2(
    kind: str, tmp_path: Path, authority: Authority, files: Files
) -> None:
    """Read off the first message of the handshake."""
    offered: list[str] = []
    done = anyio.Event()

    async def look(stream: anyio.abc.SocketStream) -> None:
        hello = await stream.receive(4096)
        offered.extend(versions(hello))
        done.set()
        await stream.aclose()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    backend = Backend(tmp_path)
    backend.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 -- no Django here
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, look)
        exporting = exporter(kind, backend, ClientTls(files.ca))
        async with exporting.running():
            await why_not(exporting)
            with anyio.fail_after(10):
                await done.wait()
        tasks.cancel_scope.cancel()
    await listener.aclose()
    assert offered
    assert min(offered) >= "1.2"


def versions(hello: bytes) -> list[str]:
    """Versions a ClientHello offers (RFC 8446, 4.2.1): those of its extension, or its one version of old."""
    body = hello[9:]  # record header, handshake header
    at = 34 + 1 + body[34]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    end = at + 2 + int.from_bytes(body[at : at + 2])
    at += 2
    while at < end:
        kind, size = int.from_bytes(body[at : at + 2]), int.from_bytes(body[at + 2 : at + 4])
        if kind == 43:
            listed = body[at + 5 : at + 4 + size]
            return [f"1.{minor - 1}" for major, minor in zip(listed[::2], listed[1::2], strict=True) if major == 3]
        at += 4 + size
    return [f"1.{body[1] - 1}"]


@every_exporter
async def test_a_new_client_certificate_is_shown_to_new_connections_and_ends_no_delivery(
    kind: str, tmp_path: Path, authority: Authority, files: Files
) -> None:
    """A delivery that is under way when the files change is answered; the next one comes with the new certificate."""
    reloads = Reloads()
    watch = FileWatch(reloads.add, poll_s=0.02)
    backend, others, identity = Backend(tmp_path), Authority(), authority.issue(*server_names())
    async with AsyncExitStack() as stack:
        async with backend.running(kind, identity, authority.pem):
            exporting = exporter(kind, backend, ClientTls(files.ca, files.cert, files.key), watch)
            await stack.enter_async_context(exporting.running())
            await stack.enter_async_context(watch.running())
            await exporting.deliver(BODY)
            backend.gate, backend.entered = anyio.Event(), anyio.Event()
            async with anyio.create_task_group() as under_way:
                under_way.start_soon(exporting.deliver, BODY)
                await backend.entered.wait()
                async with anyio.create_task_group() as changing:
                    assert exporting._tls
                    changing.start_soon(exporting._tls.changed)
                    files.put(others.issue("bridge"))
                backend.gate.set()
            assert backend.taken == 2
            await why_not(exporting)
        async with backend.running(kind, identity, others.pem):
            await delivered(exporting)
    assert backend.taken == 3
    assert reloads.results == ["ok"]


@every_exporter
async def test_a_new_authority_is_trusted_and_the_old_one_no_more(
    kind: str, tmp_path: Path, authority: Authority, files: Files
) -> None:
    """Also where a half-written file came between, which changes nothing."""
    reloads = Reloads()
    watch = FileWatch(reloads.add, poll_s=0.02)
    backend, others = Backend(tmp_path), Authority()
    async with AsyncExitStack() as stack:
        async with backend.running(kind, authority.issue(*server_names())):
            exporting = exporter(kind, backend, ClientTls(files.ca), watch)
            await stack.enter_async_context(exporting.running())
            await stack.enter_async_context(watch.running())
            files.put(ca=others.pem[: len(others.pem) // 2])
            with anyio.fail_after(20):
                await reloads.first.wait()
            await exporting.deliver(BODY)
            async with anyio.create_task_group() as changing:
                assert exporting._tls
                changing.start_soon(exporting._tls.changed)
                files.put(ca=others.pem)
            assert "unable to get local issuer" in await why_not(exporting)
        async with backend.running(kind, others.issue(*server_names())):
            await delivered(exporting)
    assert reloads.results == ["failed", "ok"]


@every_exporter
@pytest.mark.parametrize("name", ["ca", "cert", "key"])
async def test_a_start_with_files_that_cannot_be_used_is_a_config_error(
    kind: str, name: str, tmp_path: Path, files: Files
) -> None:
    """It names the exporter and the file."""
    backend = Backend(tmp_path)
    backend.port = 1
    (files.folder / f"{name}.pem").write_bytes(b"nothing")
    exporting = exporter(kind, backend, ClientTls(files.ca, files.cert, files.key))
    with pytest.raises(ConfigError, match=rf"^exporters\.backend: TLS: .*{name}\.pem"):
        async with exporting.running():
            pass
