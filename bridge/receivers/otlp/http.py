"""OTLP over HTTP: POST /v1/traces, protobuf and JSON on one port, answered in the request's own content type."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code

from bridge.codec.otlp_json import decode_json
from bridge.codec.otlp_protobuf import decode_request
from bridge.component import Signal, SignalForwarder, SpanConsumer
from bridge.connections import ListenerLimits
from bridge.receivers.addresses import peer_host
from bridge.receivers.admission import UNBOUNDED, Lease, Memory
from bridge.receivers.compression import ENCODINGS, decompress
from bridge.receivers.gathering import Joint
from bridge.receivers.http_server import (
    BODY_TIMEOUT_S,
    GROWTH,
    IDLE_TIMEOUT_S,
    UNAUTHENTICATED,
    HttpServer,
    encoding_of,
    hang_up_after,
    read_body,
)
from bridge.receivers.intake import DRAIN_S, MAX_IN_FLIGHT_BYTES, MAX_REQUEST_BYTES, Decoder, Intake
from bridge.receivers.otlp.status import status_json, success_json, success_protobuf
from bridge.receivers.refusals import Refusal, Refused
from bridge.security import ListenerSecurity
from bridge.telemetry import Instruments

PATH = "/v1/traces"
_FORWARDED: dict[str, Signal] = {"/v1/metrics": "metrics", "/v1/logs": "logs"}
PROTOBUF = "application/x-protobuf"
JSON = "application/json"


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
        memory: Memory = UNBOUNDED,
        limits: ListenerLimits = ListenerLimits(),  # noqa: B008 -- frozen
        drain_s: float = DRAIN_S,
        body_timeout_s: float = BODY_TIMEOUT_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        share_port: bool = False,
        security: ListenerSecurity | None = None,
        decode: Decoder = decode_request,
        decode_json: Decoder = decode_json,
        joint: Joint | None = None,
        forwarder: SignalForwarder | None = None,
    ) -> None:
        """Limits in bytes hold for a body before and after decompression.

        `body_timeout_s`: how long one body may take to arrive; `idle_timeout_s`: how long a connection may stay
        without a whole request head; `drain_s`: how long requests in flight may take once the receiver stops;
        `share_port`: other processes listen on the same port; `security`: TLS, and the tokens that senders must show;
        `forwarder`: takes metrics and logs, which are refused without one.
        """
        self._max_request_bytes = max_request_bytes
        self._body_timeout_s, self._limits, self._forwarder = body_timeout_s, limits, forwarder
        self._formats = {
            PROTOBUF: _Format(PROTOBUF, decode, success_protobuf, lambda status: status.SerializeToString()),
            JSON: _Format(JSON, decode_json, success_json, status_json),
        }
        self._intake = Intake(
            receiver=self.name,
            consumer=consumer,
            instruments=instruments,
            max_in_flight_bytes=max_in_flight_bytes,
            memory=memory,
            max_requests=limits.max_concurrent_requests,
            joint=joint,
        )
        self._server = HttpServer(
            self.name,
            self._handle,
            self._intake.admission,
            host=host,
            port=port,
            drain_s=drain_s,
            body_timeout_s=body_timeout_s,
            idle_timeout_s=idle_timeout_s,
            share_port=share_port,
            instruments=instruments,
            limits=limits,
            security=security,
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.port

    @property
    def address(self) -> str:
        """host:port as senders are given it."""
        return self._server.address

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; see `bridge.component.Receiver`."""
        async with self._intake.running(), self._server.running():
            yield

    async def _handle(self, request: web.Request) -> web.Response:
        format_ = self._formats.get(request.content_type)
        answer = format_ or self._formats[JSON]
        try:
            with self._intake.admission.enter() as lease:
                body = await lease.run(self._answer(request, format_, lease), self._limits.request_timeout_s)
        except Exception as exc:  # noqa: BLE001 - the root of a request: whatever happened is answered, and logged once
            return _refused(self._intake.refuse(exc), answer)
        return web.Response(body=body, content_type=answer.content_type)

    async def _answer(self, request: web.Request, format_: _Format | None, lease: Lease) -> bytes:
        """The body of the answer to a request that was taken."""
        self._server.authenticate(request)
        signal = _FORWARDED.get(request.path) if self._forwarder else None
        _check_target(request, PATH if signal is None else request.path)
        if format_ is None:
            raise Refused(_UNKNOWN_CONTENT_TYPE)
        if signal is not None and self._forwarder is not None:
            data = await self._body(request, lease)
            return await self._intake.forward(self._forwarder, signal, data, as_json=format_.content_type == JSON)
        with self._intake.traced() as trace:
            data = await self._body(request, lease)
            trace.mark("receive")
            peer = peer_host(request.remote or "")
            joint = format_.content_type == PROTOBUF
            found = await self._intake.take(data, format_.decode, peer=peer, joint=joint, trace=trace)
        return format_.success(found.rejected, found.rejection)

    async def _body(self, request: web.Request, lease: Lease) -> bytes:
        """The body, decompressed."""
        encoding = encoding_of(request)

        async def claim(size: int) -> None:
            lease.take(size)

        data = await read_body(request, claim, max_bytes=self._max_request_bytes, timeout_s=self._body_timeout_s)
        self._intake.count_bytes(len(data))
        if encoding != "identity":
            inflate = partial(decompress, data, encoding, self._max_request_bytes)
            data = await self._intake.run(inflate, len(data) * GROWTH)
            lease.take(len(data))
        return data


def _check_target(request: web.Request, path: str) -> None:
    if request.path in _FORWARDED and request.path != path:
        text = (
            f"{request.path}: this bridge takes traces only, POST {PATH}; with receivers.forward_other_signals = true "
            "it passes metrics and logs on to its first OTLP exporter, else send them to a collector"
        )
        raise Refused(Refusal("not_found", Code.UNIMPLEMENTED, 404, text))
    if request.path != path:
        text = f"nothing at {request.path[:200]}: this bridge takes traces only, POST {PATH}"
        raise Refused(Refusal("not_found", Code.NOT_FOUND, 404, text))
    if request.method != "POST":
        raise Refused(Refusal("method", Code.UNIMPLEMENTED, 405, f"{request.method} {path}: only POST is understood"))


_UNKNOWN_CONTENT_TYPE = Refusal(
    "content_type", Code.INVALID_ARGUMENT, 415, f"Content-Type is not understood; use {PROTOBUF} or {JSON}"
)
_HINTS = {
    "unauthenticated": UNAUTHENTICATED,
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
    return hang_up_after(response, refusal)
