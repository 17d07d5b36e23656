"""What HTTP receivers share: listening, reading a body within bounds, and a stop that answers what is under way."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import anyio
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from google.rpc.code_pb2 import Code

from bridge.connections import Connections, ListenerLimits, timed
from bridge.errors import ConfigError, InvalidData, TooLarge
from bridge.receivers.addresses import bind, host_port, listening_hosts
from bridge.receivers.admission import Admission
from bridge.receivers.compression import ENCODINGS
from bridge.receivers.refusals import DEFAULT_RETRY_AFTER_S, Refusal, Refused
from bridge.security import ListenerSecurity
from bridge.telemetry import Instruments
from bridge.telemetry.levels import Level

UNAUTHENTICATED = {"WWW-Authenticate": "Bearer"}
"""What a 401 says of how to do better."""
BODY_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 120.0
FIRST_CLAIM_BYTES = 1 << 20
READ_AHEAD_BYTES = 256 << 10
"""aiohttp reads on until it has twice as much of a body that nobody has asked for: one of this size it reads whole."""
GROWTH = 8
"""What a compressed body is taken to grow by when it is decided whether to decompress it in a thread."""
# The rest of a refused body is read and thrown away this long, so that its sender comes to read the answer.
_LINGER_S = 10.0
# Handlers were drained before aiohttp is told to stop; what is left are answers being written and idle connections.
_CLOSE_S = 0.5

Handler = Callable[[web.Request], Awaitable[web.Response]]
Claim = Callable[[int], Awaitable[None]]
"""Counts in bytes before they are read; raises where there is no room for them."""


class HttpServer:
    """Hands every request to one handler. Enter `running()` once; `port` is the bound port from then on."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        admission: Admission,
        *,
        host: str,
        port: int,
        drain_s: float,
        body_timeout_s: float,
        idle_timeout_s: float,
        share_port: bool,
        instruments: Instruments,
        limits: ListenerLimits,
        security: ListenerSecurity | None = None,
    ) -> None:
        self.host, self.port, self._share_port = host, port, share_port
        self._security = security or ListenerSecurity()
        self._name, self._handler, self._admission = name, handler, admission
        self._drain_s, self._body_timeout_s, self._idle_timeout_s = drain_s, body_timeout_s, idle_timeout_s
        self._connections = Connections(limits, instruments.closed_connections_of(name))
        instruments.levels.watch(name, lambda: Level(connections=self._connections.open))

    @property
    def address(self) -> str:
        """host:port as senders are given it."""
        return host_port(self.host, self.port)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the context is open; see `bridge.component.Receiver`."""
        # an application would look for a route each time, where there is but one
        runner = web.ServerRunner(web.Server(self._handle, request_factory=_request), shutdown_timeout=_CLOSE_S)
        context = self._security.context()
        await runner.setup()
        try:
            await self._listen(runner, context)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._stop(runner)

    def authenticate(self, request: web.Request, others: Iterable[str] = ()) -> None:
        """Return where the request shows a token that is known, or is one of others. Raises Unauthenticated."""
        self._security.check(request.headers.get(self._security.header), others)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)  # noqa: S101 -- as _request makes them
        response = await timed(request, self._handler)
        if "Expect" in request.headers and not request.content.is_eof():
            response.force_close()  # a sender that was not told to go on may leave the body out
        return response

    async def _listen(self, runner: web.ServerRunner, context: ssl.SSLContext | None) -> None:
        assert runner.server is not None  # noqa: S101 -- it was set up
        for host in listening_hosts(self.host):
            try:
                sock = bind(host, self.port, share=self._share_port)
                self.port = sock.getsockname()[1]
                await self._connections.listen(
                    runner.server,
                    sock,
                    context,
                    access_log=None,
                    logger=_wire_log,
                    auto_decompress=False,
                    read_bufsize=READ_AHEAD_BYTES,
                    keepalive_timeout=self._idle_timeout_s,
                    lingering_time=min(_LINGER_S, self._body_timeout_s),
                )
            except OSError as exc:
                where = host_port(host, self.port)
                raise ConfigError(f"{self._name}: cannot listen on {where}: {exc.strerror or exc}") from exc

    async def _stop(self, runner: web.ServerRunner) -> None:
        self._connections.close()
        # aiohttp drops what still comes in on a connection once its own shutdown has begun, so bodies that are on
        # their way are waited for before
        await self._admission.drain(self._drain_s)
        await runner.cleanup()
        await self._admission.wait_idle()


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.Request:
    return web.Request(message, payload, protocol, writer, task, asyncio.get_running_loop())


async def _go_on(request: web.Request) -> None:
    """Tell a sender who waits for it to go on with the body. Raises Refused for other expectations."""
    if request.version != HttpVersion11:
        return
    if request.headers["Expect"].lower() != "100-continue":
        raise Refused(_UNEXPECTED)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
    await request.writer.drain()


async def read_body(request: web.Request, claim: Claim, *, max_bytes: int, timeout_s: float) -> bytes:
    """The body as it came over the wire, its bytes claimed at first as they are declared, and then by doubling.

    So a sender who takes his time holds no more of what all have together than twice what he sent, or
    FIRST_CLAIM_BYTES.

    A sender that waits to be told to go on is told here, when its head was found good and there is room.

    Raises TooLarge, InvalidData where the bytes are no HTTP, Refused where they come too slowly or not at all, and
    what the claim raises. The time a claim takes does not count.
    """
    declared, content = request.content_length, request.content
    _check_size(declared or 0, max_bytes)
    claimed = min(declared or 0, FIRST_CLAIM_BYTES)
    await claim(claimed)
    try:
        if "Expect" in request.headers:
            await _go_on(request)
        if declared is None or declared > READ_AHEAD_BYTES:
            return await _read_pieces(content, declared, claimed, claim, max_bytes=max_bytes, timeout_s=timeout_s)
        if not content.is_eof() and content.exception() is None:
            async with asyncio.timeout(timeout_s):  # costs a fraction of one of anyio's, and most bodies have one
                await content.wait_eof()
        body = content.read_nowait()
    except TimeoutError as exc:
        raise Refused(_slow(timeout_s)) from exc
    except ConnectionError as exc:
        raise Refused(_GONE) from exc
    except web.RequestPayloadError as exc:
        raise InvalidData(f"body: not readable as HTTP after {content.total_bytes} bytes: {exc}") from exc
    if len(body) != declared:  # what is left of a request may well be readable
        raise Refused(_GONE)
    return body


async def _read_pieces(
    content: StreamReader, declared: int | None, claimed: int, claim: Claim, *, max_bytes: int, timeout_s: float
) -> bytes:
    """One that is too large to be waited for as a whole, or of a length that is not known."""
    pieces: list[bytes] = []
    size = 0
    with anyio.fail_after(timeout_s) as scope:
        async for piece in content.iter_any():
            pieces.append(piece)
            size += len(piece)
            _check_size(size, max_bytes)
            if size > claimed:
                more = max(size - claimed, min(claimed, (declared or 0) - claimed))
                left_s = scope.deadline - anyio.current_time()
                scope.deadline = float("inf")
                await claim(more)
                claimed += more
                scope.deadline = anyio.current_time() + left_s
    if declared is not None and size != declared:
        raise Refused(_GONE)
    return b"".join(pieces)


def encoding_of(request: web.Request) -> str:
    """The Content-Encoding of the body, one of ENCODINGS. Raises Refused for any other."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
    if encoding not in ENCODINGS:
        text = f"Content-Encoding {encoding!r} is not understood; use one of {', '.join(ENCODINGS)}"
        raise Refused(Refusal("encoding", Code.INVALID_ARGUMENT, 415, text))
    return encoding


def hang_up_after(response: web.Response, refusal: Refusal) -> web.Response:
    """The response; its connection is closed behind it where what still comes would be taken for the next request."""
    if refusal.reason == "timeout":
        response.force_close()
    return response


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLarge(f"the body is larger than max_request_bytes = {max_bytes}")


def _slow(timeout_s: float) -> Refusal:
    text = f"the body did not arrive within read_timeout = {timeout_s:g} s"
    # not 408, at which senders of OTLP give up though nobody read the body
    return Refusal("timeout", Code.UNAVAILABLE, 503, text, retry_after_s=DEFAULT_RETRY_AFTER_S)


_UNEXPECTED = Refusal("expectation", Code.INVALID_ARGUMENT, 417, "Expect: only 100-continue is understood")
_GONE = Refusal("disconnected", Code.CANCELLED, 400, "the connection ended before the body did")


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a log record of aiohttp's is about us: bytes that are no HTTP are their sender's business."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.addFilter(_is_ours)
