"""POST /v1/bpftracing and GET /v1/ping, as DataKit serves them."""

import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol
from urllib.parse import parse_qsl

import anyio
from aiohttp import web
from google.rpc.code_pb2 import Code

from bridge import __version__
from bridge.codec.points.decode import InvalidPoints, decode_points, is_protobuf
from bridge.component import SpanConsumer
from bridge.connections import ListenerLimits
from bridge.errors import PermanentError, RetryableError
from bridge.receivers.addresses import peer_host
from bridge.receivers.admission import UNBOUNDED, Lease, Memory
from bridge.receivers.compression import ENCODINGS, decompress
from bridge.receivers.datakit.forwarding import Copy, Forwarder
from bridge.receivers.datakit.holding import Holding
from bridge.receivers.datakit.losses import Losses
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
from bridge.receivers.intake import DRAIN_S, MAX_IN_FLIGHT_BYTES, MAX_REQUEST_BYTES, Intake
from bridge.receivers.refusals import Refusal, Refused, refusal_of
from bridge.security import Identity, ListenerSecurity, Reloaded, basic_password
from bridge.spans import SpanBatch
from bridge.telemetry import Instruments
from bridge.telemetry.own_traces import Trace

log = logging.getLogger(__name__)

PATH = "/v1/bpftracing"
PING = "/v1/ping"
HOLD_S = 60.0
MAX_HELD_REQUESTS = 1000
_LOG_AGAIN_S = 60.0
_PARTS = re.compile("[&?]")
"""What stands between the parts of a query; agents put a question mark before theirs whether or not there is one."""


class DecodedPoints(Protocol):
    """What a decoder made of a body."""

    @property
    def batch(self) -> SpanBatch: ...
    @property
    def rejected(self) -> Mapping[str, int]:
        """Points of the body that are not in the batch, by reason."""
        ...

    @property
    def rejection(self) -> str:
        """Which points, which key, and why; empty when none was rejected."""
        ...

    @property
    def faulty(self) -> Mapping[str, int]:
        """Points in the batch with a missing or unreadable key, by key."""
        ...


class PointDecoder(Protocol):
    """Reads a body; raises InvalidPoints where it cannot be read as such, or none of its points can be taken."""

    def __call__(
        self, body: bytes, content_type: str, *, peer: str, precision: str, received_ns: int
    ) -> DecodedPoints: ...


class DatakitReceiver:
    """Receives points from DataKit agents. Enter `running()` once; `port` is the bound port from then on."""

    name = "datakit"

    def __init__(
        self,
        consumer: SpanConsumer,
        *,
        instruments: Instruments,
        host: str = "localhost",
        port: int = 9529,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        memory: Memory = UNBOUNDED,
        limits: ListenerLimits = ListenerLimits(),  # noqa: B008 -- frozen
        hold_s: float = HOLD_S,
        max_held_requests: int = MAX_HELD_REQUESTS,
        forward_to: str | None = None,
        drain_s: float = DRAIN_S,
        body_timeout_s: float = BODY_TIMEOUT_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        share_port: bool = False,
        security: ListenerSecurity | None = None,
        forward_tls: Reloaded[Identity] | None = None,
        decode: PointDecoder = decode_points,
        joint: Joint | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`hold_s`: how long an answer is held back, from the head of its request on; `now_ns`: the wall clock, which
        dates points that come without a time; `joint`: how small bodies of protobuf are decoded together; the rest as
        for OTLP."""
        self._max_request_bytes, self._body_timeout_s = max_request_bytes, body_timeout_s
        self._decode, self._now_ns = decode, now_ns
        # what is held is done by then, and what the store does not answer is given up
        self._request_timeout_s = hold_s + body_timeout_s
        self._intake = Intake(
            receiver=self.name,
            consumer=consumer,
            instruments=instruments,
            max_in_flight_bytes=max_in_flight_bytes,
            memory=memory,
            max_requests=limits.max_concurrent_requests,
            joint=joint,
        )
        attributes = {"receiver": self.name}
        self._holding = Holding(
            hold_s=hold_s,
            max_held=max_held_requests,
            held=lambda: instruments.held_requests.add(1, attributes),
        )
        self._security = security or ListenerSecurity()
        self._forwarder = Forwarder(forward_to, instruments=instruments, tls=forward_tls) if forward_to else None
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
            security=self._security,
        )
        self._losses = Losses()
        self._started_s = 0.0
        self._quiet_until = 0.0

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.port

    @property
    def address(self) -> str:
        """host:port as senders are given it."""
        return self._server.address

    @property
    def held_requests(self) -> int:
        """How many requests wait for their answer because they cannot be taken now."""
        return self._holding.requests

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; see `bridge.component.Receiver`."""
        async with AsyncExitStack() as stack:
            stack.callback(self._losses.tell_rest)
            if self._forwarder:
                await stack.enter_async_context(self._forwarder.running())
            await stack.enter_async_context(self._intake.running())
            await stack.enter_async_context(self._server.running())
            self._started_s = anyio.current_time()
            yield

    async def _handle(self, request: web.Request) -> web.Response:
        deadline = anyio.current_time() + self._holding.hold_s
        try:
            self._server.authenticate(request, _other_tokens(request))
            if request.path == PING and request.method in ("GET", "HEAD"):
                return self._pong()
            _check_target(request)
            with await self._holding.enter(self._intake.admission, deadline) as lease:
                body = await self._holding.run(lease, self._take(request, lease, deadline), self._request_timeout_s)
        except Exception as exc:  # noqa: BLE001 - the root of a request: whatever happened is answered, and logged once
            return self._refused(exc)
        if self._forwarder:
            self._forwarder.offer(self._copy(request, body))
        return web.Response()

    def _copy(self, request: web.Request, body: bytes) -> Copy:
        """The request as it came, but for the token where it was for us."""
        if not self._security.asks_for_tokens:
            return Copy(request.raw_path, request.headers, body)
        ours = (self._security.header, "authorization")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ours}
        path, _, query = request.raw_path.partition("?")
        kept = [part for part in _PARTS.split(query) if part and part.partition("=")[0] != "token"]
        return Copy(f"{path}?{'&'.join(kept)}" if kept else path, headers, body)

    async def _take(self, request: web.Request, lease: Lease, deadline: float) -> bytes:
        """Return the body as it came, once what it holds is committed."""
        with self._intake.traced() as trace:
            return await self._take_traced(request, lease, deadline, trace)

    async def _take_traced(self, request: web.Request, lease: Lease, deadline: float, trace: Trace) -> bytes:
        encoding = encoding_of(request)

        async def claim(size: int) -> None:
            await self._holding.claim(lease, size, deadline)

        body = await read_body(request, claim, max_bytes=self._max_request_bytes, timeout_s=self._body_timeout_s)
        received_ns = self._now_ns()
        self._intake.count_bytes(len(body))
        data = body
        if encoding != "identity":
            inflate = partial(decompress, body, encoding, self._max_request_bytes)
            data = await self._intake.run(inflate, len(body) * GROWTH)
            await claim(len(data))
        trace.mark("receive")
        content_type, peer = request.headers.get("Content-Type", ""), peer_host(request.remote or "")
        if is_protobuf(content_type) and await self._took_joint(data, peer, deadline, trace):
            return body
        precision = _query(request).get("precision", "")
        decode = partial(self._decode, data, content_type, peer=peer, precision=precision, received_ns=received_ns)
        try:
            points = await self._intake.run(decode, len(data))
        except PermanentError as exc:
            self._intake.set_apart(peer)
            if isinstance(exc, InvalidPoints):
                self._count_rejected(exc.rejected, str(exc), peer)
            raise
        if points.rejected:
            self._intake.set_apart(peer)
        self._count_rejected(points.rejected, points.rejection, peer)
        trace.mark("decode")
        if len(points.batch):
            await self._commit(points, deadline)
            trace.mark("commit")
            trace.note(spans=len(points.batch))
        return body

    async def _took_joint(self, data: bytes, peer: str, deadline: float, trace: Trace) -> bool:
        """Whether its points are committed, with those of others; if not, the body is tried by itself, and held."""
        try:
            return await self._intake.take_joint(data, peer, trace) > 0
        except RetryableError:
            return False
        except anyio.get_cancelled_exc_class():
            self._count_lost(_why_cancelled(deadline), self._intake.spans_of(data))
            raise
        except Exception as exc:
            self._count_lost(refusal_of(exc).reason, self._intake.spans_of(data))
            raise

    async def _commit(self, points: DecodedPoints, deadline: float) -> None:
        reason = ""
        try:
            await self._holding.until_taken(partial(self._intake.commit, points.batch), deadline)
        except anyio.get_cancelled_exc_class():  # also where the bridge stops before they could be taken
            reason = _why_cancelled(deadline)
            raise
        except Exception as exc:
            reason = refusal_of(exc).reason
            raise
        finally:
            if reason:
                self._count_lost(reason, len(points.batch))
        self._intake.count_accepted(len(points.batch), points.faulty)

    def _count_lost(self, reason: str, points: int) -> None:
        """Count points whose agent drops them."""
        self._intake.count_refused_spans(points, reason)
        self._losses.add_points(reason, points)

    def _count_rejected(self, rejected: Mapping[str, int], error: str, peer: str) -> None:
        """Count bad points by reason; what is wrong with them is logged now and then, since the agent does not look."""
        for reason, count in rejected.items():
            self._intake.count_refused_spans(count, reason)
        if rejected and (now := anyio.current_time()) >= self._quiet_until:
            self._quiet_until = now + _LOG_AGAIN_S
            log.warning("points rejected", extra={"peer": peer, "error": error, **rejected})

    def _refused(self, exc: Exception) -> web.Response:
        refusal = self._intake.refuse(exc)
        self._losses.add_request(refusal.reason)
        code = exc.error_code if isinstance(exc, InvalidPoints) else _CODES.get(refusal.reason, "datakit.unavailable")
        headers = dict(_HINTS.get(refusal.reason, {}))
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = refusal.retry_after_header
        body = json.dumps({"error_code": code, "message": refusal.message})
        response = web.Response(
            status=503 if refusal.retry_after_s is not None else refusal.http_status,
            text=body,
            content_type="application/json",
            headers=headers,
        )
        return hang_up_after(response, refusal)

    def _pong(self) -> web.Response:
        up_s = anyio.current_time() - self._started_s
        content = {"version": __version__, "uptime": f"{up_s:.3f}s", "host": socket.gethostname(), "commit": ""}
        return web.json_response({"content": content})


_HINTS = {
    "unauthenticated": UNAUTHENTICATED,
    "method": {"Allow": "POST"},
    "encoding": {"Accept-Encoding": ", ".join(ENCODINGS)},
}
_CODES: Mapping[str, str] = {
    "unauthenticated": "datakit.unauthenticated",
    "not_found": "datakit.notFound",
    "method": "datakit.methodNotAllowed",
    "encoding": "datakit.unsupportedEncoding",
    "too_large": "datakit.bodyTooLarge",
    "timeout": "datakit.readTimeout",
    "disconnected": "datakit.readFailed",
    "invalid": "datakit.invalidBody",
    "internal": "datakit.internalError",
}
"""Codes for what is wrong with a request, by reason; points that cannot be read bring their own."""


def _why_cancelled(deadline: float) -> str:
    return "held_too_long" if anyio.current_time() > deadline else "stopping"


def _query(request: web.Request) -> Mapping[str, str]:
    """The query, also where an agent appended its own behind another question mark."""
    raw = request.rel_url.raw_query_string
    return dict(parse_qsl(raw.replace("?", "&"))) if "?" in raw else request.query


def _other_tokens(request: web.Request) -> Iterator[str]:
    """Tokens where agents can put them: in the address they have, which may end in ?token=TOKEN or begin with :TOKEN@.

    Agents append a query of their own behind another question mark, whether or not the address has one.
    """
    yield request.query.get("token", "").partition("?")[0]
    yield basic_password(request.headers.get("Authorization"))


def _check_target(request: web.Request) -> None:
    if request.path != PATH:
        text = f"nothing at {request.path[:200]}: this bridge takes eBPF spans only, POST {PATH}"
        raise Refused(Refusal("not_found", Code.NOT_FOUND, 404, text))
    if request.method != "POST":
        raise Refused(Refusal("method", Code.UNIMPLEMENTED, 405, f"{request.method} {PATH}: only POST is understood"))
