"""Copies for another linker, against a real one that is slow, refuses, or is not there."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from yarl import URL

from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.datakit.forwarding import Copy, Forwarder
from bridge.security import ClientTls, ListenerSecurity, Reloaded, ServerTls
from tests.support.agent import PATH, PROTOBUF, traffic
from tests.support.certificates import Authority, Files, server_names

BODY = traffic(3, start_ns=1_764_000_000 * 10**9).bodies["127.0.0.1"][0]
TOKEN = "token-of-an-agent-01234567"  # noqa: S105 -- of this test alone


class Linker:
    """Another linker: keeps what it is sent, answers with one status, while its gate is open."""

    def __init__(self, status: int) -> None:
        self.status, self.url = status, ""
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.raw_path, dict(request.headers), await request.read()))
        self.arrived.set()
        await self.gate.wait()
        return web.Response(status=self.status)


@asynccontextmanager
async def linker(status: int = 200, tls: ssl.SSLContext | None = None) -> AsyncIterator[Linker]:
    other = Linker(status)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", other.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    other.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield other
    finally:
        other.gate.set()
        await runner.cleanup()


@asynccontextmanager
async def receiving(consumer: Any, meter: Any, forward_to: str) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    receiver = DatakitReceiver(consumer, instruments=meter.instruments, host="127.0.0.1", port=0, forward_to=forward_to)
    async with receiver.running(), aiohttp.ClientSession(headers={"Content-Type": PROTOBUF}) as session:
        yield f"http://{receiver.address}", session


async def counted(meter: Any, name: str, value: dict[tuple[str, ...], int]) -> None:
    """Return once the counter stands so."""
    with anyio.fail_after(10):
        while meter.read(name) != value:
            await anyio.lowlevel.checkpoint()


async def test_a_copy_is_what_came_in_byte_for_byte(consumer, meter) -> None:
    """Path, query as it was encoded, headers, and the body still compressed."""
    zipped = gzip.compress(BODY)
    async with linker() as other, receiving(consumer, meter, other.url) as (url, session):
        headers = {"Content-Encoding": "gzip", "X-Custom": "a b", "User-Agent": "agent/1"}
        target = aiohttp.client.URL(url + PATH, encoded=True)
        async with session.post(target, data=zipped, headers=headers) as response:
            assert response.status == 200
        await other.arrived.wait()
        await counted(meter, "receiver_forwarded_requests", {(): 1})
    ((path, got, body),) = other.requests
    assert path == PATH
    assert body == zipped
    assert {k: got[k] for k in ("Content-Type", *headers)} == {"Content-Type": PROTOBUF, **headers}
    assert got["Host"] == other.url.removeprefix("http://")


async def test_what_is_refused_is_not_copied(consumer, meter) -> None:
    """Only accepted bodies."""
    async with linker() as other, receiving(consumer, meter, other.url) as (url, session):
        async with session.post(url + PATH, data=b"\x0a\xff") as response:
            assert response.status == 400
        async with session.post(url + PATH, data=BODY) as response:
            assert response.status == 200
        await counted(meter, "receiver_forwarded_requests", {(): 1})
    assert [body for _, _, body in other.requests] == [BODY]


async def test_a_slow_linker_delays_no_answer(consumer, meter) -> None:
    """More requests than there are workers are answered while none of the copies is."""
    async with linker() as other, receiving(consumer, meter, other.url) as (url, session):
        other.gate.clear()
        for _ in range(12):
            async with session.post(url + PATH, data=BODY) as response:
                assert response.status == 200
        assert meter.read("receiver_forwarded_requests") == {}
        other.gate.set()
        await counted(meter, "receiver_forwarded_requests", {(): 12})


@pytest.mark.parametrize("status", [302, 400, 503])
async def test_a_refused_copy_is_dropped_and_counted(consumer, meter, status: int) -> None:
    """It is sent once; the sender got its 200."""
    async with linker(status) as other, receiving(consumer, meter, other.url) as (url, session):
        async with session.post(url + PATH, data=BODY) as response:
            assert response.status == 200
        await counted(meter, "receiver_forward_dropped_requests", {(f"http_{status}",): 1})
    assert len(other.requests) == 1


async def test_a_linker_that_is_away_costs_only_the_copy(consumer, meter) -> None:
    """Dropped for the connection."""
    async with receiving(consumer, meter, "http://127.0.0.1:1") as (url, session):
        async with session.post(url + PATH, data=BODY) as response:
            assert response.status == 200
        await counted(meter, "receiver_forward_dropped_requests", {("connection",): 1})
    assert consumer.spans


async def test_the_queue_is_bounded(meter) -> None:
    """What does not fit is dropped and counted, and so is what is queued or under way at the end."""
    async with linker() as other:
        other.gate.clear()
        forwarder = Forwarder(other.url, instruments=meter.instruments, max_queued_bytes=25)
        async with forwarder.running():
            for _ in range(4):
                forwarder.offer(Copy(PATH, {}, bytes(10)))
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(10):
                while len(other.requests) < 4:
                    await anyio.lowlevel.checkpoint()
            # all workers are busy now
            for _ in range(4):
                forwarder.offer(Copy(PATH, {}, bytes(10)))
            assert meter.read("receiver_forward_dropped_requests") == {("queue_full",): 2}
    assert meter.read("receiver_forward_dropped_requests") == {("queue_full",): 2, ("stopping",): 6}


@pytest.mark.parametrize("asked", [True, False])
async def test_a_token_that_was_for_the_bridge_is_not_passed_on(consumer: Any, meter: Any, asked: bool) -> None:
    """The other linker gets the copy without it; where the bridge asks for none, the request is as it came."""
    async with linker() as other:
        receiver = DatakitReceiver(
            consumer,
            instruments=meter.instruments,
            port=0,
            forward_to=other.url,
            security=ListenerSecurity("receivers.datakit", tokens=[TOKEN] if asked else []),
        )
        path, headers = f"{PATH}&token={TOKEN}", {"Content-Type": PROTOBUF, "Authorization": f"Bearer {TOKEN}"}
        async with receiver.running(), aiohttp.ClientSession(f"http://{receiver.address}") as session:
            async with session.post(URL(path, encoded=True), data=BODY, headers=headers) as response:
                assert response.status == 200
            with anyio.fail_after(10):
                await other.arrived.wait()
    target, got, body = other.requests[0]
    assert body == BODY
    assert (TOKEN in target, "Authorization" in got) == (not asked, not asked)
    assert URL(target, encoded=True).query["input"] == URL(PATH, encoded=True).query["input"]


@pytest.mark.parametrize(
    ("query", "passed"),
    [
        (f"?token={TOKEN}?input=ebpf-net%2Fbpftracing", "?input=ebpf-net%2Fbpftracing"),
        (f"?a=%20b%2F&token={TOKEN}&c", "?a=%20b%2F&c"),
        (f"?token={TOKEN}", ""),
    ],
)
async def test_what_stands_beside_a_token_is_passed_on_as_it_is(
    consumer: Any, meter: Any, query: str, passed: str
) -> None:
    """Also behind a second question mark, and nothing is encoded anew."""
    async with linker() as other:
        security = ListenerSecurity("receivers.datakit", tokens=[TOKEN])
        receiver = DatakitReceiver(
            consumer, instruments=meter.instruments, port=0, forward_to=other.url, security=security
        )
        async with receiver.running(), aiohttp.ClientSession(f"http://{receiver.address}") as session:
            path = URL(f"/v1/bpftracing{query}", encoded=True)
            async with session.post(path, data=BODY, headers={"Content-Type": PROTOBUF}) as response:
                assert response.status == 200
            with anyio.fail_after(10):
                await other.arrived.wait()
    assert other.requests[0][0] == f"/v1/bpftracing{passed}"


@pytest.mark.parametrize("trusted", [True, False])
async def test_another_linker_over_tls_is_verified(consumer: Any, meter: Any, tmp_path: Path, trusted: bool) -> None:
    """It gets copies if it is of an authority that the files name, and is shown the client's certificate."""
    authority = Authority()
    files = Files(tmp_path / "linker").put(authority.issue(*server_names()), authority.pem)
    mine = Files(tmp_path / "bridge").put(authority.issue("bridge"), (authority if trusted else Authority()).pem)
    tls = ClientTls(mine.ca, mine.cert, mine.key)
    async with linker(tls=ServerTls(files.cert, files.key, files.ca).load().context) as other:
        receiver = DatakitReceiver(
            consumer,
            instruments=meter.instruments,
            port=0,
            forward_to=other.url,
            forward_tls=Reloaded("receivers.datakit.forward_tls", "certificates", tls.files, tls.load),
        )
        async with receiver.running(), aiohttp.ClientSession(headers={"Content-Type": PROTOBUF}) as session:
            async with session.post(f"http://{receiver.address}{PATH}", data=BODY) as response:
                assert response.status == 200
            if trusted:
                await counted(meter, "receiver_forwarded_requests", {(): 1})
            else:
                await counted(meter, "receiver_forward_dropped_requests", {("connection",): 1})
    assert len(other.requests) == trusted
