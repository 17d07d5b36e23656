"""A scripted OTLP backend: answers as it is told, then takes everything; counts distinct span ids.

In a test:      async with running_sink(["unavailable", "partial:3:no room"]) as sink: ... sink.grpc_port
As a process:   python -m tests.support.sink [--script unavailable,hang] [--output FILE]
It prints one JSON line with its ports, and on SIGTERM one with its totals. GET /totals on the HTTP port gives the same.

Answers: ok, lost (takes the spans, then says unavailable), hang, partial:N[:text], or a gRPC status in lower case with
an optional wait, like unavailable, unavailable:0.2 or resource_exhausted:0.2; HTTP answers with the status that OTLP
pairs with it. http:502[:seconds] names an HTTP status (unavailable in gRPC). Shares no code with the bridge.
"""

import argparse
import asyncio
import base64
import json
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import grpc.aio
import numpy as np
from aiohttp import web
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PROTOBUF = "application/x-protobuf"
HTTP_STATUS = {"resource_exhausted": 429, "unavailable": 503, "invalid_argument": 400, "unauthenticated": 401}


@dataclass(frozen=True)
class Answer:
    """One scripted answer; `kind` is ok, lost, hang, partial, http, or a gRPC status in lower case."""

    kind: str = "ok"
    retry_after_s: float | None = None
    message: str = "scripted"
    number: int = 0
    """Rejected spans of a partial success, or an HTTP status."""

    @classmethod
    def parse(cls, text: str) -> "Answer":
        kind, *rest = text.split(":", 2)
        if kind == "partial":
            return cls(kind, number=int(rest[0]), message=rest[1] if len(rest) > 1 else "scripted")
        if kind == "http":
            return cls(kind, number=int(rest[0]), retry_after_s=float(rest[1]) if len(rest) > 1 else None)
        return cls(kind, float(rest[0]) if rest and rest[0] else None, rest[1] if len(rest) > 1 else "scripted")

    @property
    def takes(self) -> bool:
        return self.kind in ("ok", "lost", "partial")

    @property
    def grpc_status(self) -> grpc.StatusCode:
        name = "unavailable" if self.kind in ("lost", "http") else self.kind
        return grpc.StatusCode[name.upper()]

    @property
    def http_status(self) -> int:
        return self.number or HTTP_STATUS.get(self.grpc_status.name.lower(), 500)

    @property
    def status(self) -> bytes:
        status = Status(code=self.grpc_status.value[0], message=self.message)
        if self.retry_after_s is not None:
            info, wrapped = RetryInfo(), AnyMessage()
            info.retry_delay.FromNanoseconds(int(self.retry_after_s * 1e9))
            wrapped.Pack(info)
            status.details.append(wrapped)
        return status.SerializeToString()

    @property
    def response(self) -> bytes:
        response = ExportTraceServiceResponse()
        if self.kind == "partial":
            response.partial_success.rejected_spans = self.number
            response.partial_success.error_message = self.message
        return response.SerializeToString()


@dataclass(frozen=True)
class Totals:
    """What a sink was sent: `requests` in all, of which it took all but `refused`; spans and ids of those taken."""

    requests: int
    refused: int
    spans: int
    distinct: int
    copies: int
    body_bytes: int
    cpu_s: float


class Sink:
    """What both servers share: the script, the counts, the requests it took."""

    def __init__(
        self, script: Iterable[str] = (), *, keep: bool = True, always: str = "ok", output: BinaryIO | None = None
    ) -> None:
        self.bodies: list[bytes] = []
        """Requests taken, serialized and decompressed, unless `keep` is false."""
        self.headers: list[dict[str, str]] = []
        """Headers of every request while `keep` is true."""
        self.grpc_port = self.http_port = 0
        self.arrived = asyncio.Event()
        """Set by each request; a test may clear it."""
        self._script = [Answer.parse(text) for text in script]
        self._always = Answer.parse(always)
        self._keep, self._output = keep, output
        self._ids: list[NDArray[np.uint64]] = []
        self._requests = self._refused = self._bytes = 0
        self._stopping = asyncio.Event()

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        """The requests taken, parsed."""
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    def totals(self) -> Totals:
        ids = np.concatenate(self._ids) if self._ids else np.zeros(0, np.uint64)
        distinct = int(np.unique(ids).size)
        return Totals(
            self._requests, self._refused, ids.size, distinct, ids.size - distinct, self._bytes, time.process_time()
        )

    def always(self, text: str) -> None:
        """From now on answer so when the script is used up."""
        self._always = Answer.parse(text)

    async def _next_answer(self, body: bytes, headers: dict[str, str]) -> Answer:
        answer = self._script.pop(0) if self._script else self._always
        self._requests += 1
        self._bytes += len(body)
        if self._keep:
            self.headers.append(headers)
        if answer.takes:
            self._ids.append(span_ids(body))
            if self._keep:
                self.bodies.append(body)
            if self._output:
                self._output.write(as_line(body))
                self._output.flush()
        else:
            self._refused += 1
        self.arrived.set()
        if answer.kind == "hang":
            await self._stopping.wait()
            return Answer("unavailable")
        return answer

    async def export(self, body: bytes, context: Any) -> bytes:
        """The gRPC method."""
        metadata = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
        answer = await self._next_answer(body, metadata)
        if answer.kind in ("ok", "partial"):
            return answer.response
        context.set_trailing_metadata((("grpc-status-details-bin", answer.status),))
        await context.abort(answer.grpc_status, answer.message)
        raise AssertionError("abort raises")

    async def post(self, request: web.Request) -> web.Response:
        """The HTTP method."""
        answer = await self._next_answer(await request.read(), {k.lower(): v for k, v in request.headers.items()})
        if answer.kind in ("ok", "partial"):
            return web.Response(body=answer.response, content_type=PROTOBUF)
        wait = {} if answer.retry_after_s is None else {"retry-after": f"{answer.retry_after_s:g}"}
        return web.Response(status=answer.http_status, body=answer.status, content_type=PROTOBUF, headers=wait)

    async def get_totals(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.totals()))

    @asynccontextmanager
    async def running(
        self,
        *,
        grpc_port: int = 0,
        http_port: int = 0,
        tls_files: Path | None = None,
    ) -> AsyncIterator["Sink"]:
        """Serve on both ports of 127.0.0.1 while the context is open.

        With `tls_files`, a folder of server.pem, server.key and ca.pem, clients must show a certificate of that
        authority.
        """
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)])
        method = grpc.unary_unary_rpc_method_handler(self.export)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        address = f"127.0.0.1:{grpc_port}"
        if tls_files:
            key, cert, ca = ((tls_files / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem"))
            credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
            self.grpc_port = server.add_secure_port(address, credentials)
        else:
            self.grpc_port = server.add_insecure_port(address)
        app = web.Application(client_max_size=64 << 20)
        app.add_routes([web.post("/v1/traces", self.post), web.get("/totals", self.get_totals)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", http_port, ssl_context=_server_tls(tls_files))
        await server.start()
        await site.start()
        self.http_port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self._stopping.set()
            await runner.cleanup()
            await server.stop(0.1)


def _server_tls(files: Path | None) -> ssl.SSLContext | None:
    if files is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files / "ca.pem")
    context.load_cert_chain(files / "server.pem", files / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@asynccontextmanager
async def running_sink(script: Iterable[str] = (), **options: Any) -> AsyncIterator[Sink]:
    """A sink on free ports."""
    async with Sink(script, **options).running() as sink:
        yield sink


def _narrow_request() -> type[Any]:
    """A view of ExportTraceServiceRequest that knows span ids alone: everything else is skipped in C."""
    file = descriptor_pb2.FileDescriptorProto(name="tests/support/sink.proto", package="sink", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name: str, number: int, of: str) -> None:
        added = file.message_type.add(name=name)
        if of:
            added.field.add(name="f", number=number, label=field.LABEL_REPEATED, type=field.TYPE_MESSAGE, type_name=of)
        else:
            added.field.add(name="f", number=number, label=field.LABEL_OPTIONAL, type=field.TYPE_BYTES)

    message("Span", 2, "")
    message("ScopeSpans", 2, ".sink.Span")
    message("ResourceSpans", 2, ".sink.ScopeSpans")
    message("Request", 1, ".sink.ResourceSpans")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sink.Request"))


_NARROW = _narrow_request()


def span_ids(body: bytes) -> NDArray[np.uint64]:
    """Span ids of a serialized request, as numbers. Raises ValueError where one is not 8 bytes."""
    ids = [span.f for rs in _NARROW.FromString(body).f for scope in rs.f for span in scope.f]
    if any(len(span_id) != 8 for span_id in ids):
        raise ValueError("a span id is not 8 bytes long")
    return np.frombuffer(b"".join(ids), ">u8").astype(np.uint64)


def as_line(body: bytes) -> bytes:
    """A request as one OTLP/JSON line, made with protobuf's own JSON and hex ids."""
    node = MessageToDict(ExportTraceServiceRequest.FromString(body), use_integers_for_enums=True)
    return json.dumps(_hex_ids(node), separators=(",", ":")).encode() + b"\n"


def _hex_ids(node: Any) -> Any:
    if isinstance(node, dict):
        ids = ("traceId", "spanId", "parentSpanId")
        return {k: base64.b64decode(v).hex() if k in ids else _hex_ids(v) for k, v in node.items()}
    return [_hex_ids(item) for item in node] if isinstance(node, list) else node


async def serve(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    output = args.output.open("ab") if args.output else None
    sink = Sink(filter(None, args.script.split(",")), keep=False, always=args.always, output=output)
    async with sink.running(grpc_port=args.port, http_port=args.http_port):
        say(json.dumps({"grpc_port": sink.grpc_port, "http_port": sink.http_port}))
        await stop.wait()
    say(json.dumps(asdict(sink.totals())))
    if output:
        output.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="gRPC port, 0 for a free one")
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--script", default="", help="answers in order, separated by commas")
    parser.add_argument("--always", default="ok", help="the answer when the script is used up")
    parser.add_argument("--output", type=Path, help="write requests taken here as OTLP/JSON lines (slow)")
    asyncio.run(serve(parser.parse_args(), lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
