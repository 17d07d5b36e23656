"""Connections of an HTTP listener within limits: how many, from whom, and how long they may keep it waiting.

aiohttp bounds the lines and fields of a head, and how long a connection may idle. The rest is here: a connection beyond
the limits is closed as it comes, one that has begun a head must send the whole of it in time, and one that does not
take its answers is cut off. Each time a counter is told the reason, one of REASONS.

One address has at most half of the connections unless told otherwise, so that one sender that leaks them does not shut
out the others. Decided against: smaller shares, which would cut off senders that share an address behind a gateway.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from bridge.http2 import PREFACE, GrpcRefusal

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = "max_connections"
MAX_CONNECTIONS_PER_PEER: Final = "max_connections_per_peer"
HEADER_TIMEOUT: Final = "header_timeout"
NOT_READ: Final = "not_read"
HEAD_TOO_LARGE: Final = "head_too_large"
MALFORMED: Final = "malformed"
HTTP2: Final = "http2"
TLS_HANDSHAKE: Final = "tls_handshake"
REASONS: Final = (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_PEER,
    HEADER_TIMEOUT,
    NOT_READ,
    HEAD_TOO_LARGE,
    MALFORMED,
    HTTP2,
    TLS_HANDSHAKE,
)
"""Why a connection is closed: there were too many, its head (or handshake) did not come in time or was none, it speaks
HTTP/2, as gRPC does, or what was written to it was not read."""

_ANSWERS: Final = {
    HEAD_TOO_LARGE: "a line or a field of the request's head is too long",
    MALFORMED: "the request is no HTTP/1.1 that can be read; this port speaks nothing else",
}

NO_GRPC: Final = (
    "this port of the bridge takes HTTP/1.1 and no gRPC: send OTLP/gRPC to its port for gRPC (4317 unless told "
    "otherwise), or set the sender to OTLP over HTTP (http/protobuf)"
)
_SAID_AGAIN_S = 60.0
"""How often the log says of a listener that gRPC is sent to it."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# senders that all come back at once are not to wait for the kernel to try again, which takes it a second
_BACKLOG: Final = 1024
# what the kernel does not take at once is what a sender has not read: from the first byte of it on time is counted
_WRITE_HIGH, _WRITE_LOW = 1, 0


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """What the senders of one listener may ask of it."""

    max_connections: int = 1000
    max_connections_per_peer: int = 500
    """From one address."""
    max_concurrent_requests: int = 1000
    header_timeout_s: float = 10.0
    """For a TLS handshake, and for a request's head from its first byte on."""
    request_timeout_s: float = 60.0
    """For all of a request but its answer."""
    write_timeout_s: float = 30.0
    """For a sender to take an answer."""


class Connections:
    """The connections of one listener, on however many sockets. For one event loop."""

    def __init__(self, limits: ListenerLimits, closed: Callable[[str], None]) -> None:
        """closed: told the reason for each connection that a limit closes."""
        self.limits, self.closed = limits, closed
        self._by_peer: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self.open = 0
        """How many there are."""
        self._http2_said_s = -_SAID_AGAIN_S

    async def listen(
        self,
        server: web.Server,
        where: socket.socket | tuple[str, int],
        tls: ssl.SSLContext | None = None,
        **options: Any,
    ) -> int:
        """Accept connections of this socket or address until `close`; returns the port. Raises OSError.

        server: its handler is to say when a request begins and ends; options: those of aiohttp's `RequestHandler`.
        """
        place: dict[str, Any] = {"host": where[0], "port": where[1]} if isinstance(where, tuple) else {"sock": where}
        loop = asyncio.get_running_loop()

        def connection(counted: str | None = None) -> Connection:
            return Connection(self, server, counted, loop=loop, **options)

        factory = partial(_Door, self, connection, tls) if tls else connection
        listening = await loop.create_server(factory, backlog=_BACKLOG, **place)
        self._servers.append(listening)
        port: int = listening.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Accept no connection any more, and give up handshakes; those that are open go on."""
        for server in self._servers:
            server.close()
        for handshake in self._handshakes:
            handshake.cancel()

    def begin(self, door: "_Door") -> None:
        """Shake hands at a door, in a task that `close` ends."""
        task = asyncio.get_running_loop().create_task(door.shake_hands())
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)
        task.add_done_callback(door.ended)

    def enter(self, peer: str) -> str:
        """Count a connection in; returns why that cannot be, "" where it was done."""
        if self.open >= self.limits.max_connections:
            return MAX_CONNECTIONS
        if self._by_peer[peer] >= self.limits.max_connections_per_peer:
            return MAX_CONNECTIONS_PER_PEER
        self.open += 1
        self._by_peer[peer] += 1
        return ""

    def speaks_http2(self, peer: str, address: tuple[str, int]) -> None:
        """Count a client that speaks HTTP/2, and say so in the log once a minute."""
        self.closed(HTTP2)
        if (now_s := asyncio.get_running_loop().time()) - self._http2_said_s >= _SAID_AGAIN_S:
            self._http2_said_s = now_s
            fields = {"peer": peer, "port": address[1], "remedy": NO_GRPC}
            logger.warning("a client sends gRPC to a port that takes HTTP", extra=fields)

    def leave(self, peer: str) -> None:
        """Count one out that was counted in."""
        self.open -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]


@web.middleware
async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle a request that came over a `Connection`, and let that know."""
    connection = request.protocol
    assert isinstance(connection, Connection)  # noqa: S101 -- as whoever uses this sees to
    connection.begin(request)
    try:
        return await handler(request)
    finally:
        connection.end()


class _Door(asyncio.Protocol):
    """A connection before its TLS handshake, counted as any other: those that never end theirs are bounded, too."""

    def __init__(self, connections: Connections, make: "Callable[[str], Connection]", tls: ssl.SSLContext) -> None:
        self._connections, self._make, self._tls = connections, make, tls
        self._sock: socket.socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Go on with a descriptor of its own: what is aborted is this one, from which nothing was read yet."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- as servers have it
        self._peer = _peer_of(transport)
        if reason := self._connections.enter(self._peer):
            self._connections.closed(reason)
        else:
            self._sock = transport.get_extra_info("socket").dup()
            self._connection = self._make(self._peer)
            self._connections.begin(self)
        transport.abort()

    async def shake_hands(self) -> None:
        """Make it a connection, if its handshake is done in time."""
        sock, self._sock = self._sock, None
        assert sock is not None  # noqa: S101 -- this is called once
        limit_s = self._connections.limits.header_timeout_s
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection, sock, ssl=self._tls, ssl_handshake_timeout=limit_s
            )
        except OSError as exc:
            # what took too long is the one thing that is aborted from this side
            self._connections.closed(HEADER_TIMEOUT if isinstance(exc, ConnectionAbortedError) else TLS_HANDSHAKE)

    def ended(self, _task: object) -> None:
        """Count it out where it became no connection, which does that by itself."""
        if self._sock is not None:
            self._sock.close()
        if not self._connection.made:
            self._connections.leave(self._peer)


def _peer_of(transport: asyncio.BaseTransport) -> str:
    address = transport.get_extra_info("peername")
    return str(address[0]) if isinstance(address, tuple) else ""


class Connection(web.RequestHandler):
    """One of them. aiohttp speaks HTTP; this looks at the clock."""

    __slots__ = (
        "_body",
        "_connections",
        "_counted",
        "_first",
        "_half_closed",
        "_handling",
        "_head_by",
        "_head_timer",
        "_newest",
        "_refusal",
        "_wire",
        "_write_timer",
        "made",
    )

    def __init__(self, connections: Connections, server: web.Server, counted: str | None, **options: Any) -> None:
        """counted: the peer it was counted in for already, if it was."""
        super().__init__(server, **options)
        self._connections = connections
        self._counted = counted
        self.made = False
        """Whether it was let in, and is counted out when it is lost."""
        self._wire: Any = None
        self._first = True
        self._refusal: GrpcRefusal | None = None
        self._handling = self._half_closed = False
        self._newest: Any = None
        """The body of the request that came last."""
        self._body: Any = None
        """Of the last request; what comes before its end belongs to no other."""
        self._head_by: float | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Go on with it, or close it at once where there are too many."""
        self._wire = transport
        if self._counted is None:
            peer = _peer_of(transport)
            if reason := self._connections.enter(peer):
                self._cut_off(reason)
                return
            self._counted = peer
        self.made = True
        self._wire.set_write_buffer_limits(high=_WRITE_HIGH, low=_WRITE_LOW)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = self._head_by = self._body = self._newest = None
        if not self.made or self._counted is None:
            return
        self._connections.leave(self._counted)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Begin to count the time where it is the first piece of a head."""
        if self._head_by is None and not self._handling and data and (self._body is None or self._body.is_eof()):
            self._await_head()
        if self._first:
            self._first = False
            if data.startswith(PREFACE):
                self._refuse_grpc()
                data = data[len(PREFACE) :]
        if self._refusal is not None:
            self._wire.write(self._refusal.answer(data))
        else:
            super().data_received(data)
            if self._messages:
                self._newest = self._messages[-1][1]

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's always lets the transport close
        """Stay open where whoever has said all there is still waits for an answer; not over TLS, which cannot."""
        idle = self._waiter is not None and not self._waiter.done()
        if idle or self._newest is None or not self._newest.is_eof() or self._wire.get_extra_info("sslcontext"):
            return False
        self._half_closed = True
        return True

    def begin(self, request: web.BaseRequest) -> None:
        """The head is there, and its request is being handled."""
        self._head_by, self._handling, self._body = None, True, request.content

    def end(self) -> None:
        """The request was handled."""
        self._handling = False
        if self._half_closed and not self._messages:
            self.close()  # behind the answer

    def pause_writing(self) -> None:
        """The sender does not take what is written."""
        super().pause_writing()
        limit_s = self._connections.limits.write_timeout_s
        self._write_timer = asyncio.get_running_loop().call_later(limit_s, self._cut_off, NOT_READ)

    def resume_writing(self) -> None:
        """It took all of it."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or more than one may say in it; aiohttp closes the connection behind that.

        aiohttp would show the bytes, tokens included, and senders log what they are answered.
        """
        if isinstance(exc, HttpProcessingError):
            self._head_by = None
            reason = HEAD_TOO_LARGE if isinstance(exc, LineTooLong) else MALFORMED
            self._connections.closed(reason)
            message = _ANSWERS[reason]
        return super().handle_error(request, status, exc, message)

    def _refuse_grpc(self) -> None:
        """Say so to one who speaks HTTP/2; he hangs up, or is cut off when a head would have had to be there."""
        assert self._counted is not None  # noqa: S101 -- it was let in
        self._connections.speaks_http2(self._counted, self._wire.get_extra_info("sockname"))
        self._refusal = GrpcRefusal(NO_GRPC)
        self._wire.write(self._refusal.greeting())

    def _await_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_by = loop.time() + self._connections.limits.header_timeout_s
        # one that still runs for an earlier head looks again then: a timer for each request would cost more
        if self._head_timer is None:
            self._head_timer = loop.call_at(self._head_by, self._look_for_head)

    def _look_for_head(self) -> None:
        self._head_timer = None
        if self._head_by is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._head_by:
            self._head_timer = loop.call_at(self._head_by, self._look_for_head)
        else:
            self._cut_off(HEADER_TIMEOUT if self._refusal is None else "")

    def _cut_off(self, reason: str) -> None:
        if reason:
            self._connections.closed(reason)
        self._wire.abort()
