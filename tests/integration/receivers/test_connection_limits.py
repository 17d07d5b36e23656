"""Connections of HTTP listeners against raw sockets: too many of them, slow ones, and ones that do not read."""

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from bridge.connections import ListenerLimits
from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.otlp import HttpReceiver
from bridge.security import ListenerSecurity, ServerTls
from bridge.web import WebServer

FILES = Path(__file__).parents[2] / "support" / "tls"
LIMITS = ListenerLimits(header_timeout_s=60.0)
SHORT = replace(LIMITS, header_timeout_s=0.2)
POST = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n"
KINDS = {"otlp_http": HttpReceiver, "datakit": DatakitReceiver}


@pytest.fixture(params=[*KINDS, "web"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def listen(consumer: Any, meter: Any) -> AsyncIterator[Any]:
    """listen(kind, limits, **options): the port of a listener that runs."""
    async with AsyncExitStack() as stack:

        async def listening(kind: str, limits: ListenerLimits, **options: Any) -> int:
            server: Any
            if kind == "web":
                server = WebServer(
                    hosts=("127.0.0.1",),
                    port=0,
                    not_ready=lambda: "",
                    metrics=options.get("metrics", bytes),
                    limits=limits,
                    closed=meter.instruments.closed_connections_of("web"),
                )
            else:
                server = KINDS[kind](
                    consumer, instruments=meter.instruments, host="127.0.0.1", port=0, limits=limits, **options
                )
            await stack.enter_async_context(server.running())
            port: int = server.port
            return port

        yield listening


async def in_thread(function: Callable[[], Any]) -> Any:
    """What a peer on blocking sockets comes to."""
    return await anyio.to_thread.run_sync(function)


def connect(port: int, *, read_bytes: int = 0) -> socket.socket:
    """A connection; read_bytes: how much the kernel may keep of what was not read."""
    sock = socket.socket()
    if read_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_bytes)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", port))
    return sock


def rest_of(sock: socket.socket) -> bytes:
    """Everything until the other end hangs up."""
    found = b""
    try:
        while piece := sock.recv(65536):
            found += piece
    except ConnectionError:
        pass
    return found


def answer_of(sock: socket.socket, request: bytes) -> bytes:
    """The first line of the answer to a request; its body, if any, is short."""
    sock.sendall(request)
    found = b""
    while b"\r\n\r\n" not in found:
        piece = sock.recv(65536)
        if not piece:
            break
        found += piece
    return found.partition(b"\r\n")[0]


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_connections_beyond_the_limit_are_closed_and_counted(listen: Any, meter: Any, kind: str) -> None:
    """Two of four: those that are open still work, and one that ends makes room."""
    port = await listen(kind, replace(LIMITS, max_connections=2, max_connections_per_peer=2))

    def talk() -> tuple[bytes, ...]:
        with ExitStack() as stack:
            one, two = (stack.enter_context(connect(port)) for _ in range(2))
            assert answer_of(one, GET).startswith(b"HTTP/1.1 ")
            assert answer_of(two, GET).startswith(b"HTTP/1.1 ")
            refused = [rest_of(stack.enter_context(connect(port))) for _ in range(2)]
            assert answer_of(one, GET).startswith(b"HTTP/1.1 ")
            two.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            rest_of(two)  # the listener has forgotten it when it hangs up
            return (*refused, answer_of(stack.enter_context(connect(port)), GET))

    *refused, taken = await in_thread(talk)
    assert refused == [b"", b""]
    assert taken.startswith(b"HTTP/1.1 ")
    assert meter.read("listener_closed_connections") == {(kind, "max_connections"): 2}


async def test_one_address_has_no_more_than_its_share(listen: Any, meter: Any) -> None:
    """From another address there is room still."""
    port = await listen("otlp_http", replace(LIMITS, max_connections=3, max_connections_per_peer=2))

    def talk() -> bytes:
        with ExitStack() as stack:
            kept = [stack.enter_context(connect(port)) for _ in range(2)]
            assert all(answer_of(sock, GET) for sock in kept)
            assert rest_of(stack.enter_context(connect(port))) == b""
            other = stack.enter_context(socket.socket())
            other.settimeout(20)
            other.bind(("127.0.0.2", 0))
            other.connect(("127.0.0.1", port))
            return answer_of(other, GET)

    assert (await in_thread(talk)).startswith(b"HTTP/1.1 ")
    assert meter.read("listener_closed_connections") == {("otlp_http", "max_connections_per_peer"): 1}


async def test_a_thousand_idle_connections_leave_room_for_one_that_speaks(
    listen: Any, meter: Any, request_of: Callable[..., bytes]
) -> None:
    """They cost a place each, and nothing is closed while there are places."""
    port = await listen("otlp_http", replace(LIMITS, max_connections=1001, max_connections_per_peer=1001))
    body = request_of("a")

    def talk() -> tuple[bytes, bytes]:
        with ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(connect(port))
            speaking = stack.enter_context(connect(port))
            taken = answer_of(speaking, POST % len(body) + body)
            return taken, rest_of(stack.enter_context(connect(port)))

    taken, refused = await in_thread(talk)
    assert (taken, refused) == (b"HTTP/1.1 200 OK", b"")
    assert meter.read("listener_closed_connections") == {("otlp_http", "max_connections"): 1}


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "later"])
async def test_a_head_that_does_not_end_is_cut_off(listen: Any, meter: Any, kind: str, before: bytes) -> None:
    """However often another piece of it comes; the first request of a connection, and any later one."""
    port = await listen(kind, SHORT)

    def talk() -> bytes:
        with connect(port) as sock:
            if before:
                answer_of(sock, before)
            try:
                for piece in (b"GET / HTTP/1.1\r\n", *(b"X-%d: a\r\n" % number for number in range(1000))):
                    sock.sendall(piece)
                    sock.settimeout(0.02)
                    try:
                        if sock.recv(1) == b"":
                            return b"cut off"
                    except TimeoutError:
                        continue
            except ConnectionError:
                return b"cut off"
            return b"kept"

    assert await in_thread(talk) == b"cut off"
    assert meter.read("listener_closed_connections") == {(kind, "header_timeout"): 1}


async def test_a_connection_that_says_nothing_is_idle_not_slow(listen: Any, meter: Any) -> None:
    """Time for a head counts from its first byte; before that the time for idle connections does."""
    port = await listen("otlp_http", replace(SHORT, header_timeout_s=0.05), idle_timeout_s=0.5)

    def talk() -> bytes:
        with connect(port) as silent:
            return rest_of(silent)

    assert await in_thread(talk) == b""
    assert meter.read("listener_closed_connections") == {}


async def test_neither_a_held_answer_nor_a_pipelined_request_is_a_slow_head(
    listen: Any, meter: Any, consumer: Any, request_of: Callable[..., bytes]
) -> None:
    """What comes while a request is handled waits for its turn, and has all the time it needs."""
    port = await listen("otlp_http", replace(SHORT, header_timeout_s=0.05))
    consumer.gate = anyio.Event()
    body = request_of("a")
    request = POST % len(body) + body

    def talk() -> int:
        with connect(port) as sock:
            sock.sendall(request + request)
            sock.sendall(request)
            found = b""
            while found.count(b"200 OK") < 3:
                piece = sock.recv(65536)
                assert piece
                found += piece
            return found.count(b"200 OK")

    async def open_the_gate() -> None:
        await consumer.entered.wait()
        await anyio.sleep(0.3)  # several times what a head may take
        consumer.gate.set()

    async with anyio.create_task_group() as group:
        group.start_soon(open_the_gate)
        assert await in_thread(talk) == 3
    assert meter.read("listener_closed_connections") == {}


async def test_a_body_that_is_thrown_away_is_no_slow_head(listen: Any, meter: Any) -> None:
    """The rest of a refused body is read; the connection is good for another request afterwards."""
    port = await listen("otlp_http", replace(SHORT, header_timeout_s=0.1))

    def talk() -> bytes:
        with connect(port) as sock:
            refused = answer_of(sock, (POST % 4).replace(b"application/x-protobuf", b"text/plain"))
            assert refused.startswith(b"HTTP/1.1 415")
            sock.sendall(b"ab")
            sock.settimeout(0.5)
            try:
                assert sock.recv(1) == b"x"  # nothing comes, and nobody hangs up
            except TimeoutError:
                sock.settimeout(20)
            sock.sendall(b"cd")
            return answer_of(sock, GET)

    assert (await in_thread(talk)).startswith(b"HTTP/1.1 404")
    assert meter.read("listener_closed_connections") == {}


async def test_a_peer_that_does_not_read_a_large_answer_is_cut_off(listen: Any, meter: Any) -> None:
    """The bytes it does not take go with its connection."""
    port = await listen("web", replace(LIMITS, write_timeout_s=0.3), metrics=lambda: bytes(32 << 20))

    def talk() -> int:
        with connect(port, read_bytes=4096) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            while not meter.read("listener_closed_connections"):
                pass
            return len(rest_of(sock))

    assert await in_thread(talk) < 32 << 20
    assert meter.read("listener_closed_connections") == {("web", "not_read"): 1}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_sender_that_never_reads_its_answers_is_cut_off(listen: Any, meter: Any, kind: str) -> None:
    """Small ones add up: it sends request after request, until the kernel takes no more of what is answered."""
    port = await listen(kind, replace(LIMITS, write_timeout_s=0.3))
    requests = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"%22" * 190) * 20

    def talk() -> str:
        with connect(port, read_bytes=4096) as sock:
            try:
                while True:
                    sock.sendall(requests)
            except ConnectionError:
                return "cut off"

    assert await in_thread(talk) == "cut off"
    assert meter.read("listener_closed_connections") == {(kind, "not_read"): 1}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", "head_too_large"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "malformed"),
    ],
    ids=["line", "field", "fields", "tls"],
)
async def test_a_head_that_cannot_be_read_is_400_and_counted(
    listen: Any, meter: Any, kind: str, sent: bytes, reason: str
) -> None:
    """Lines and fields of 8 KiB, 128 fields: more is not HTTP that anybody sends here."""
    port = await listen(kind, LIMITS)

    def talk() -> bytes:
        with connect(port) as sock:
            sock.sendall(sent)
            return rest_of(sock)

    assert (await in_thread(talk)).startswith(b"HTTP/1.0 400") or (await in_thread(talk)).startswith(b"HTTP/1.1 400")
    assert set(meter.read("listener_closed_connections")) == {(kind, reason)}


@pytest.fixture
def tls() -> ListenerSecurity:
    """TLS of a listener."""
    return ListenerSecurity("test", tls=ServerTls(FILES / "server.pem", FILES / "server.key"))


async def test_a_tls_handshake_that_does_not_come_is_cut_off(listen: Any, meter: Any, tls: ListenerSecurity) -> None:
    """As a head would be; whoever does it in time is served."""
    port = await listen("otlp_http", SHORT, security=tls)

    def talk() -> tuple[bytes, bytes]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with connect(port) as silent, context.wrap_socket(connect(port)) as speaking:
            return answer_of(speaking, GET), rest_of(silent)

    spoken, silent = await in_thread(talk)
    assert spoken.startswith(b"HTTP/1.1 404")
    assert silent == b""
    assert meter.read("listener_closed_connections") == {("otlp_http", "header_timeout"): 1}


async def test_handshakes_are_connections_too(listen: Any, meter: Any, tls: ListenerSecurity) -> None:
    """Who does not end his has a place all the same, and who fails gives it back."""
    port = await listen("otlp_http", replace(LIMITS, max_connections=2, max_connections_per_peer=2), security=tls)

    def fill() -> tuple[socket.socket, socket.socket]:
        with connect(port) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            rest_of(plain)
        silent = connect(port), connect(port)
        with connect(port) as refused:
            assert rest_of(refused) == b""
        return silent

    for silent in await in_thread(fill):
        silent.close()
    counts = {("otlp_http", "tls_handshake"): 3, ("otlp_http", "max_connections"): 1}
    with anyio.fail_after(20):
        while meter.read("listener_closed_connections") != counts:  # noqa: ASYNC110 -- a counter
            await anyio.sleep(0.01)

    def speak() -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(connect(port)) as speaking:
            return answer_of(speaking, GET)

    assert (await in_thread(speak)).startswith(b"HTTP/1.1 404")


async def test_a_listener_that_stops_gives_up_handshakes(meter: Any, consumer: Any, tls: ListenerSecurity) -> None:
    """They would hold it up for the time that they may take."""
    receiver = HttpReceiver(
        consumer, instruments=meter.instruments, host="127.0.0.1", port=0, limits=LIMITS, security=tls
    )
    with anyio.fail_after(LIMITS.header_timeout_s / 2):
        async with receiver.running():
            silent = await in_thread(lambda: connect(receiver.port))
            while not receiver._server._connections.open:
                await anyio.lowlevel.checkpoint()
        assert await in_thread(lambda: rest_of(silent)) == b""
    silent.close()
    assert receiver._server._connections.open == 0
