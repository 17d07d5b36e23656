"""OTLP over HTTP: POST /v1/traces, protobuf and JSON on one port, answered in the request's own content type."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code

from bridge.component import SpanConsumer
from bridge.errors import ConfigError, InvalidData, TooLarge
from bridge.receivers.addresses import bind, host_port, listening_hosts, peer_host
from bridge.receivers.admission import Lease
from bridge.receivers.compression import ENCODINGS, decompress
from bridge.receivers.otlp.intake import (
    DRAIN_S,
    MAX_IN_FLIGHT_BYTES,
    MAX_REQUEST_BYTES,
    Decoded,
    Decoder,
    Intake,
    decode_json,
    decode_request,
)
from bridge.receivers.otlp.status import Refusal, Refused, status_json, success_json, success_protobuf
from bridge.telemetry import Instruments

PATH = "/v1/traces"
BODY_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 120.0
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
# What a compressed body is taken to grow by when it is decided whether to decompress it in a thread.
_GROWTH = 8
# The rest of a refused body is read and thrown away this long, so that its sender comes to read the answer.
_LINGER_S = 10.0
# Handlers were drained before aiohttp is told to stop; what is left are answers being written and idle connections.
_CLOSE_S = 0.5


@dataclass(frozen=True, slots=True)
class _Format:
    """One of the two encodings of OTLP over HTTP."""

    content_type: str
    decode: Decoder
    success: Callable[[int, str], bytes]
    status: Callable[[Message], bytes]


class HttpReceiver:
    """Receives OTLP over HTTP. Enter `running()` once; `port` is the bound port from then on."""

    name = "otlp_http"

    def __init__(
        self,
        consumer: SpanConsumer,
        *,
        instruments: Instruments,
        host: str = "localhost",
        port: int = 4318,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        drain_s: float = DRAIN_S,
        body_timeout_s: float = BODY_TIMEOUT_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        decode: Decoder = decode_request,
        decode_json: Decoder = decode_json,
    ) -> None:
        """Limits in bytes hold for a body before and after decompression.

        `body_timeout_s`: how long one body may take to arrive; `idle_timeout_s`: how long a connection may stay
        without a whole request head; `drain_s`: how long requests in flight may take once the receiver stops.
        """
        self.host = host
        self.port = port
        self._max_request_bytes = max_request_bytes
        self._drain_s = drain_s
        self._body_timeout_s = body_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._formats = {
            PROTOBUF: _Format(PROTOBUF, decode, success_protobuf, lambda status: status.SerializeToString()),
            JSON: _Format(JSON, decode_json, success_json, status_json),
        }
        self._intake = Intake(
            receiver=self.name, consumer=consumer, instruments=instruments, max_in_flight_bytes=max_in_flight_bytes
        )

    @property
    def address(self) -> str:
        """host:port as senders are given it."""
        return host_port(self.host, self.port)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; see `bridge.component.Receiver`."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_wire_log,
            auto_decompress=False,
            keepalive_timeout=self._idle_timeout_s,
            lingering_time=min(_LINGER_S, self._body_timeout_s),
            shutdown_timeout=_CLOSE_S,
        )
        await runner.setup()
        try:
            await self._listen(runner)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._stop(runner)

    async def _listen(self, runner: web.AppRunner) -> None:
        for host in listening_hosts(self.host):
            try:
                sock = bind(host, self.port)
                self.port = sock.getsockname()[1]
                await web.SockSite(runner, sock).start()
            except OSError as exc:
                where = host_port(host, self.port)
                raise ConfigError(f"{self.name}: cannot listen on {where}: {exc.strerror or exc}") from exc

    async def _stop(self, runner: web.AppRunner) -> None:
        for site in runner.sites:
            await site.stop()
        # aiohttp drops what still comes in on a connection once its own shutdown has begun, so bodies that are on
        # their way are waited for before
        await self._intake.admission.drain(self._drain_s)
        await runner.cleanup()
        await self._intake.admission.wait_idle()

    async def _handle(self, request: web.Request) -> web.Response:
        format_ = self._formats.get(request.content_type)
        answer = format_ or self._formats[JSON]
        try:
            with self._intake.admission.enter() as lease:
                decoded = await lease.run(self._take(request, format_, lease))
        except Exception as exc:  # noqa: BLE001 - the root of a request: whatever happened is answered, and logged once
            return _refused(self._intake.refuse(exc), answer)
        return web.Response(body=answer.success(decoded.rejected, decoded.rejection), content_type=answer.content_type)

    async def _take(self, request: web.Request, format_: _Format | None, lease: Lease) -> Decoded:
        _check_target(request)
        if format_ is None:
            raise Refused(_UNKNOWN_CONTENT_TYPE)
        encoding = _encoding(request)
        data = await self._read(request, lease)
        self._intake.count_bytes(len(data))
        if encoding != "identity":
            inflate = partial(decompress, data, encoding, self._max_request_bytes)
            data = await self._intake.run(inflate, len(data) * _GROWTH)
            lease.take(len(data))
        return await self._intake.take(data, format_.decode, peer=peer_host(request.remote or ""))

    async def _read(self, request: web.Request, lease: Lease) -> bytes:
        declared = request.content_length
        self._check_size(declared or 0)
        lease.take(declared or 0)
        pieces: list[bytes] = []
        size = 0
        try:
            with anyio.fail_after(self._body_timeout_s):
                async for piece in request.content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    self._check_size(size)
                    if declared is None:
                        lease.take(len(piece))
        except TimeoutError as exc:
            raise Refused(_slow(self._body_timeout_s)) from exc
        except ConnectionError as exc:
            raise Refused(_GONE) from exc
        except web.RequestPayloadError as exc:
            raise InvalidData(f"body: not readable as HTTP after {size} bytes: {exc}") from exc
        return b"".join(pieces)

    def _check_size(self, size: int) -> None:
        if size > self._max_request_bytes:
            raise TooLarge(f"the body is larger than max_request_bytes = {self._max_request_bytes}")


def _check_target(request: web.Request) -> None:
    if request.path != PATH:
        text = f"nothing at {request.path[:200]}: this bridge takes traces only, POST {PATH}"
        raise Refused(Refusal("not_found", Code.NOT_FOUND, 404, text))
    if request.method != "POST":
        raise Refused(Refusal("method", Code.UNIMPLEMENTED, 405, f"{request.method} {PATH}: only POST is understood"))


def _encoding(request: web.Request) -> str:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
    if encoding not in ENCODINGS:
        text = f"Content-Encoding {encoding!r} is not understood; use one of {', '.join(ENCODINGS)}"
        raise Refused(Refusal("encoding", Code.INVALID_ARGUMENT, 415, text))
    return encoding


def _slow(timeout_s: float) -> Refusal:
    text = f"the body did not arrive within body_timeout_s = {timeout_s:g}"
    return Refusal("timeout", Code.DEADLINE_EXCEEDED, 408, text)


_GONE = Refusal("disconnected", Code.CANCELLED, 400, "the connection ended before the body did")
_UNKNOWN_CONTENT_TYPE = Refusal(
    "content_type", Code.INVALID_ARGUMENT, 415, f"Content-Type is not understood; use {PROTOBUF} or {JSON}"
)
_HINTS = {
    "method": {"Allow": "POST"},
    "content_type": {"Accept": f"{PROTOBUF}, {JSON}"},
    "encoding": {"Accept-Encoding": ", ".join(ENCODINGS)},
}


def _refused(refusal: Refusal, format_: _Format) -> web.Response:
    headers = dict(_HINTS.get(refusal.reason, {}))
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = refusal.retry_after_header
    response = web.Response(
        status=refusal.http_status,
        body=format_.status(refusal.status),
        content_type=format_.content_type,
        headers=headers,
    )
    if refusal.reason == "timeout":
        response.force_close()  # what still comes would be taken for the next request
    return response


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a log record of aiohttp's is about us: bytes that are no HTTP are their sender's business."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.addFilter(_is_ours)
