"""Certificates and tokens rotate under load, broken files in between: no request fails, nothing is lost.

Senders over gRPC and HTTP, on connections that stay and on a new one for each request, show client certificates and
tokens; exporters show theirs to a backend that asks for them. Certificates of listeners and exporters, and the tokens,
are replaced again and again; every other time a half-written certificate comes first.

KEYs: ROTATIONS.
"""

import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import anyio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from tests.support.bridge_process import RETRY, Bridge, Setup, started
from tests.support.certificates import Authority, Files, client_context, replace, secure_channel, server_names
from tests.support.senders import simulated, span_ids
from tests.support.sink import Sink

WORKERS = 2
RELOADED = "files have changed and were read again"
FAILED = "files have changed and cannot be used; what was read before stays in use"
RELOADS = (WORKERS + 1) * 4 + 2
"""Of one rotation: certificates and tokens of two listeners in each process, and certificates of two exporters."""
FAILURES = (WORKERS + 1) * 2
"""Of one broken file: that of both listeners in each process."""
WAIT_S = 60.0
PAUSE_S = 0.02
REQUESTS = 40
"""Answered after each rotation, before the next."""
LISTENER = """
[receivers.{name}]
tokens_file = "{tokens}"
[receivers.{name}.tls]
cert_file = "{files.cert}"
key_file = "{files.key}"
client_ca_file = "{files.ca}"
"""
EXPORTER = """
[exporters.{name}]
type = "{kind}"
endpoint = "https://localhost:{port}"
{retry}
[exporters.{name}.tls]
ca_file = "{files.ca}"
cert_file = "{files.cert}"
key_file = "{files.key}"
"""


@dataclass
class Rotating:
    """Everything that rotates, and what senders have now."""

    folder: Path
    listeners: Authority = field(default_factory=Authority)
    backends: Authority = field(default_factory=Authority)
    rotations: int = 0

    def __post_init__(self) -> None:
        self.server, self.exporter = Files(self.folder / "server"), Files(self.folder / "exporter")
        self.tokens = self.folder / "tokens"
        self.server.put(ca=self.listeners.pem)
        self.exporter.put(ca=self.backends.pem)
        sink = self.folder / "sink"
        sink.mkdir()
        cert, key = self.backends.issue(*server_names())
        for name, data in (("server.pem", cert), ("server.key", key), ("ca.pem", self.backends.pem)):
            (sink / name).write_bytes(data)
        self.sink_files = sink
        self.sender = self.listeners.issue("sender")
        self.put()

    @property
    def token(self) -> str:
        """What senders show: the newest that every process is known to have."""
        return _token(self.rotations)

    def put(self) -> None:
        """Replace all of it."""
        self.server.put(self.listeners.issue(*server_names()))
        self.exporter.put(self.backends.issue("bridge"))
        newest = self.rotations + 1
        replace(self.tokens, f"{_token(newest - 1)}\n{_token(newest)}\n".encode())

    def damage(self) -> None:
        """Write half of a certificate."""
        cert, _ = self.listeners.issue(*server_names())
        replace(self.server.cert, cert[: len(cert) // 2])

    def settings(self, sink: Sink) -> str:
        """What a bridge needs of it."""
        values = {"tokens": self.tokens, "files": self.server}
        ports = {"otlp_grpc": sink.grpc_port, "otlp_http": sink.http_port}
        return "".join(
            [
                *(LISTENER.format(name=name, **values) for name in ports),
                *(
                    EXPORTER.format(name=f"over-{kind[5:]}", kind=kind, port=port, retry=RETRY, files=self.exporter)
                    for kind, port in ports.items()
                ),
            ]
        )


def _token(number: int) -> str:
    return f"token-number-{number:012}"


@dataclass
class Load:
    """Senders that stop at nothing but the end, and count what they were told."""

    rotating: Rotating
    bridge: Bridge
    answers: Counter[str] = field(default_factory=Counter)
    spans: set[str] = field(default_factory=set)
    ending: bool = False
    _sent: int = 0
    _answered: anyio.Event = field(default_factory=anyio.Event)

    async def more(self, requests: int) -> None:
        """Return once so many further ones were answered, however."""
        wanted = self.answers.total() + requests
        with anyio.fail_after(WAIT_S):
            while self.answers.total() < wanted:
                self._answered = anyio.Event()
                await self._answered.wait()

    def _next(self) -> ExportTraceServiceRequest:
        self._sent += 1
        return simulated(10 * self._sent, 1, time.time_ns())[0][0]

    def _told(self, answer: str, request: ExportTraceServiceRequest) -> None:
        self.answers[answer] += 1
        self._answered.set()
        if answer == "ok":
            self.spans.update(span_ids(request))

    async def over_grpc(self) -> None:
        """On one channel."""
        it = self.rotating
        async with secure_channel(self.bridge.address("otlp_grpc"), it.listeners.pem, it.sender) as channel:
            stub = TraceServiceStub(channel)
            while not self.ending:
                request = self._next()
                try:
                    await stub.Export(request, timeout=WAIT_S, metadata=(("authorization", f"Bearer {it.token}"),))
                    self._told("ok", request)
                except Exception as exc:  # noqa: BLE001 -- whatever it is, it is one too many
                    self._told(f"grpc: {exc}", request)
                await anyio.sleep(PAUSE_S)

    async def over_http(self, context: ssl.SSLContext, *, anew: bool) -> None:
        """On one connection, or on a new one each time."""
        connector = aiohttp.TCPConnector(ssl=context, limit=1, force_close=anew)
        url = f"https://{self.bridge.address('otlp_http')}/v1/traces"
        async with aiohttp.ClientSession(connector=connector) as session:
            while not self.ending:
                request = self._next()
                headers = {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {self.rotating.token}"}
                try:
                    async with session.post(url, data=request.SerializeToString(), headers=headers) as response:
                        self._told("ok" if response.status == 200 else f"http: {response.status}", request)
                except Exception as exc:  # noqa: BLE001 -- as above
                    self._told(f"http: {exc!r}", request)
                await anyio.sleep(PAUSE_S)


@asynccontextmanager
async def sending(load: Load) -> AsyncIterator[None]:
    """Two senders of each kind."""
    context = client_context(load.rotating.listeners.pem, load.rotating.sender, load.rotating.folder)
    async with anyio.create_task_group() as senders:
        for _ in range(2):
            senders.start_soon(load.over_grpc)
        for anew in (False, True):
            senders.start_soon(lambda anew=anew: load.over_http(context, anew=anew))
        yield
        load.ending = True


async def rotate(load: Load, times: int) -> int:
    """Rotate so many times, each when the one before has reached every process; how many files were broken."""
    it, bridge, broken = load.rotating, load.bridge, 0
    for number in range(times):
        if number % 2:
            broken += 1
            it.damage()
            await bridge.logged(FAILED, FAILURES * broken)
        it.put()
        await bridge.logged(RELOADED, RELOADS * (number + 1))
        it.rotations += 1
        await load.more(REQUESTS)
    return broken


async def _run(folder: Path, times: int) -> dict[str, object]:
    it = Rotating(folder)
    async with Sink().running(tls_files=it.sink_files) as sink:
        security = folder / "security.toml"
        security.write_text(it.settings(sink))
        async with started(Setup(folder, workers=WORKERS).write(), security) as bridge:
            await bridge.ready()
            load = Load(it, bridge)
            async with sending(load):
                broken = await rotate(load, times)
            with anyio.move_on_after(WAIT_S):
                while not load.spans <= delivered(sink):
                    sink.arrived.clear()
                    await sink.arrived.wait()
            lost = len(load.spans - delivered(sink))
            metrics = await metrics_of(bridge)
            failed = {text: count for text, count in load.answers.items() if text != "ok"}
            assert await bridge.stop() == 0
    assert not failed, f"requests failed while files changed: {failed}"
    assert lost == 0, f"{lost} acknowledged spans were not delivered"
    errors = Counter(event["message"] for event in bridge.log if event["level"] == "error")
    unexpected = {text: n for text, n in errors.items() if not text.startswith(FAILED)}
    assert not unexpected, f"errors that have nothing to do with broken files: {unexpected}"
    for part in ("receivers.otlp_grpc", "receivers.otlp_http", "exporters.over-grpc", "exporters.over-http"):
        assert f'tls_certificate_expiry_timestamp_seconds{{part="{part}"}}' in metrics, (
            f"{part} does not say its expiry"
        )
    return {
        "rotations": times,
        "broken_files": broken,
        "reloads": sum(text == RELOADED for text in bridge.messages()),
        "requests": load.answers["ok"],
        "failed_requests": 0,
        "acknowledged_spans": len(load.spans),
        "lost_spans": 0,
    }


async def metrics_of(bridge: Bridge) -> str:
    """What /metrics says."""
    async with aiohttp.request("GET", f"http://{bridge.address('web')}/metrics") as response:
        return await response.text()


def delivered(sink: Sink) -> set[str]:
    """Ids of spans that both exporters together have brought."""
    return {
        span.hex()
        for body in sink.bodies
        for span in (
            s.span_id
            for r in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in r.scope_spans
            for s in scope.spans
        )
    }


def run(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    """Rotate, and return the figures."""
    times = int(options.get("ROTATIONS", "100" if long else "2"))
    with TemporaryDirectory(prefix="rotation-") as folder:
        return anyio.run(_run, Path(folder), times)
