"""Request targets as nobody sends them, on a real socket: each is answered or hung up on, and the next is taken."""

import random
from contextlib import suppress
from typing import Any

import anyio

from bridge.receivers.datakit import DatakitReceiver
from tests.support.agent import PROTOBUF
from tests.support.point_bodies import body_of, espan_point

QUERIES = (
    b"precision=",
    b"precision=ns&precision=ms",
    b"precision=%",
    b"precision=%zz%00%ff",
    b"precision=%ed%a0%80",
    b"precision=" + b"9" * 3000,
    b"&" * 2000,
    b"=&==&" * 300,
    b"token=%F0%28%8C%28&precision=n",
    b"input=ebpf-net%2Fbpftracing#fragment?precision=s",
    b"%3Fprecision=ms",
    b"a[]=1;b={}|\\^`<>\"'",
    b"\xff\xfe\x80",
    b"precision=\xc3\xa9",
)
ANSWERS = (b"", b"HTTP/1.1 200 ", b"HTTP/1.1 400 ", b"HTTP/1.1 414 ", b"HTTP/1.0 400 ")
WAIT_S = 20.0


async def answer_to(address: tuple[str, int], query: bytes) -> bytes:
    """The first line of what comes back; nothing where the connection was closed."""
    body = body_of(espan_point())
    head = b"POST /v1/bpftracing?" + query + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: "
    request = head + PROTOBUF.encode() + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    received = b""
    with anyio.fail_after(WAIT_S):
        async with await anyio.connect_tcp(*address) as stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.send(request)
                while b"\r\n" not in received:
                    received += await stream.receive()
    return received.partition(b"\r\n")[0]


def mixed(draw: random.Random) -> bytes:
    """Parts of the queries above, one behind another."""
    parts = [draw.choice(QUERIES) for _ in range(3)]
    return b"".join(part[: draw.randrange(1, 40)] for part in parts)


async def test_no_query_harms(consumer: Any, meter: Any) -> None:
    """Neither those above nor mixtures of them; none is an error inside the bridge."""
    draw = random.Random(11)
    receiver = DatakitReceiver(consumer, instruments=meter.instruments, host="127.0.0.1", port=0)
    async with receiver.running():
        address = ("127.0.0.1", receiver.port)
        for query in [*QUERIES, *(mixed(draw) for _ in range(60))]:
            status = await answer_to(address, query)
            assert status[:13] in ANSWERS, (query, status)
        assert await answer_to(address, b"precision=ns") == b"HTTP/1.1 200 OK"
