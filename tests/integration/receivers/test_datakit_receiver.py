"""The receiver of DataKit agents against real clients on real sockets."""

import gzip
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import anyio
import pytest

from bridge.codec.points.decode import decode_bodies
from bridge.codec.points.scan import count_points
from bridge.errors import PermanentError, StoreUnavailable, Throttled
from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.gathering import Joint
from bridge.spans import PayloadFormat
from bridge.spans.ids import text_hash
from tests.support.agent import HOSTS, PATH, PROTOBUF, agent, traffic
from tests.support.dataway import PBPoints

NOW_NS = 1_764_000_000 * 10**9
GOOD = {"ebpf_span_type": "entry", "direction": "incoming", "req_seq": 11, "resp_seq": 12, "pid": "7"}


def body_of(*points: dict[str, Any]) -> bytes:
    """A body in protobuf; a value of None makes a field without one."""
    message = PBPoints()
    for point in points:
        added = message.arr.add(name="dketrace", time=NOW_NS)
        for key, value in point.items():
            added.fields.add(key=key, **({"s": value} if isinstance(value, str) else {"i": value}))
    return message.SerializeToString()


class Client:
    """Posts to a receiver."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self.session, self.address = session, address

    async def post(
        self, body: bytes, content_type: str = PROTOBUF, *, path: str = PATH, **headers: str
    ) -> tuple[int, Any]:
        """Status, and the answer's JSON (bytes where it has none)."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://{self.address}{path}"
        async with self.session.post(url, data=body, headers={"Content-Type": content_type, **names}) as response:
            answer = await response.read()
            return response.status, json.loads(answer) if answer[:1] == b"{" else answer


@pytest.fixture
async def start(consumer: Any, meter: Any) -> AsyncIterator[Any]:
    """start(**options): a running receiver on a free port and a client of it."""
    async with AsyncExitStack() as stack:

        async def started(**options: Any) -> tuple[DatakitReceiver, Client]:
            options = {"host": "127.0.0.1", "port": 0, "joint": Joint(count_points, decode_bodies)} | options
            receiver = DatakitReceiver(options.pop("consumer", consumer), instruments=meter.instruments, **options)
            await stack.enter_async_context(receiver.running())
            session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)))
            return receiver, Client(session, receiver.address)

        yield started


def lost(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, int]]:
    """Reason, requests and points of each line that tells of a loss."""
    records = [vars(record) for record in caplog.records if record.message.startswith("agents lost")]
    assert all(record["levelno"] == logging.ERROR for record in records)
    return [(record["reason"], record["requests"], record["points"]) for record in records]


async def held(receiver: DatakitReceiver, requests: int = 1) -> None:
    """Return once so many requests are being held."""
    with anyio.fail_after(10):
        while receiver.held_requests < requests:
            await anyio.lowlevel.checkpoint()


async def test_a_body_is_answered_200_with_nothing_once_it_is_committed(start, consumer, meter) -> None:
    """While the consumer works there is no answer."""
    _, client = await start()
    consumer.gate = anyio.Event()
    answers: list[tuple[int, Any]] = []

    async def post() -> None:
        answers.append(await client.post(body_of(GOOD, GOOD)))

    async with anyio.create_task_group() as group:
        group.start_soon(post)
        await consumer.entered.wait()
        assert answers == []
        consumer.gate.set()
    assert answers == [(200, b"")]
    assert consumer.spans == 2
    assert meter.read("receiver_accepted_spans") == {("datakit",): 2}
    assert meter.read("receiver_received_bytes") == {("datakit",): len(body_of(GOOD, GOOD))}


async def test_bodies_of_agents_are_kept_byte_for_byte(start, consumer) -> None:
    """Every point of every body, as it was sent."""
    receiver, _ = await start()
    (body, *_), _ = traffic(40, start_ns=NOW_NS).bodies.values()
    async with agent(receiver.address) as session, session.post(PATH, data=body) as response:
        assert response.status == 200
    (batch,) = consumer.batches
    assert batch.payload.format == PayloadFormat.POINT
    sent = [point.SerializeToString() for point in PBPoints.FromString(body).arr]
    assert [batch.payload.span(row) for row in range(len(batch))] == sent


async def test_the_sender_is_the_peer_where_the_point_names_no_host(start, consumer) -> None:
    """Another connection of the same host is the same sender."""
    receiver, _ = await start()
    for host in (*HOSTS, HOSTS[1]):
        async with agent(receiver.address, host) as session:
            await session.post(PATH, data=body_of(GOOD, {**GOOD, "host": "node-7"}))
    senders = [batch.columns.sender.tolist() for batch in consumer.batches]
    assert senders == [[text_hash(host), text_hash("node-7")] for host in (*HOSTS, HOSTS[1])]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (PROTOBUF, body_of(GOOD)),
        ("application/protobuf", body_of(GOOD)),
        ("application/json", json.dumps([{"measurement": "dketrace", "fields": GOOD, "time": NOW_NS}]).encode()),
        (
            "application/pbjson; proto=com.guance.Point",
            b'[{"name":"dketrace","fields":[{"key":"ebpf_span_type","s":"entry"},{"key":"direction","s":"incoming"},'
            b'{"key":"req_seq","i":"11"},{"key":"resp_seq","i":"12"},{"key":"pid","s":"7"}],"time":"1"}]',
        ),
        ("", b'dketrace ebpf_span_type="entry",direction="incoming",req_seq=11i,resp_seq=12i,pid="7" 1\n'),
        ("text/plain", b'dketrace ebpf_span_type="entry",direction="incoming",req_seq=11i,resp_seq=12i,pid="7"'),
    ],
)
async def test_every_form_of_points_is_taken(start, consumer, meter, content_type: str, body: bytes) -> None:
    """Chosen by the content type alone; what is none of them is line protocol."""
    _, client = await start()
    assert await client.post(body, content_type) == (200, b"")
    (batch,) = consumer.batches
    assert (batch.columns.req_seq[0], batch.columns.resp_seq[0], batch.columns.pid[0]) == (11, 12, 7)
    assert meter.read("receiver_faulty_espans") == {}


async def test_the_query_says_what_unit_times_have(start, consumer) -> None:
    """As for DataKit's other write paths."""
    _, client = await start()
    line = b'dketrace ebpf_span_type="entry",direction="incoming",req_seq=11i,resp_seq=12i 1764000000123'
    assert (await client.post(line, "text/plain", path="/v1/bpftracing?precision=ms"))[0] == 200
    assert consumer.batches[0].columns.start_ns.tolist() == [1_764_000_000_123 * 10**6]


async def test_points_in_text_without_a_time_have_that_of_their_arrival(start, consumer) -> None:
    """Else they would leave as of 1970."""
    _, client = await start(now_ns=lambda: NOW_NS)
    assert (await client.post(b"dketrace req_seq=1i", "text/plain"))[0] == 200
    assert consumer.batches[0].columns.start_ns.tolist() == [NOW_NS]


async def test_gzip_is_taken(start, consumer) -> None:
    """As DataKit's own clients may send it."""
    _, client = await start()
    assert (await client.post(gzip.compress(body_of(GOOD)), Content_Encoding="gzip"))[0] == 200
    assert consumer.spans == 1


async def test_ping_says_who_is_there(start) -> None:
    """The shape DataKit's clients expect."""
    receiver, client = await start()
    async with client.session.get(f"http://{receiver.address}/v1/ping") as response:
        content = (await response.json())["content"]
    assert response.status == 200
    assert set(content) == {"version", "uptime", "host", "commit"}
    assert content["host"] == socket.gethostname()


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        (PROTOBUF, b"", "datakit.noPoints"),
        (PROTOBUF, b"\x0a\xff", "datakit.invalidProtobufPoint"),
        ("application/json", b"[{", "datakit.invalidJsonPoint"),
        ("application/json", b"[]", "datakit.noPoints"),
        ("application/pbjson", b"{}", "datakit.invalidJsonPoint"),
        ("text/plain", b"no line", "datakit.invalidLinePoint"),
        ("text/plain", b"\n\n", "datakit.noPoints"),
    ],
)
async def test_an_unreadable_body_is_refused_in_datakits_words(
    start, consumer, meter, content_type: str, body: bytes, code: str
) -> None:
    """400 with error_code and a message; it costs nothing but itself."""
    _, client = await start()
    status, answer = await client.post(body, content_type)
    assert (status, answer["error_code"], set(answer)) == (400, code, {"error_code", "message"})
    assert answer["message"]
    assert meter.read("receiver_refused_requests") == {("invalid", "datakit"): 1}
    assert (await client.post(body_of(GOOD)))[0] == 200
    assert consumer.spans == 1


async def test_one_bad_point_does_not_cost_the_others(start, consumer, meter, caplog) -> None:
    """The good ones are kept; the bad one is counted by its reason, and logged with number, key and reason."""
    _, client = await start()
    bad = {**GOOD, "k" * 300: 1}
    with caplog.at_level(logging.WARNING):
        assert await client.post(body_of(GOOD, bad, GOOD)) == (200, b"")
    assert consumer.spans == 2
    assert meter.read("receiver_refused_spans") == {("key_too_long", "datakit"): 1}
    (record,) = [r for r in caplog.records if r.message == "points rejected"]
    assert record.error.startswith("points[1]: ")
    assert "kkk" in record.error


async def test_a_body_of_bad_points_only_is_refused(start, consumer, meter) -> None:
    """Nothing was kept, so there is no 200; the message names the points."""
    _, client = await start()
    status, answer = await client.post(body_of({**GOOD, "k" * 300: 1}))
    assert (status, answer["error_code"]) == (400, "datakit.invalidProtobufPoint")
    assert "points[0]" in answer["message"]
    assert sum(meter.read("receiver_refused_spans").values()) == 1
    assert consumer.batches == []


async def test_points_that_lack_keys_are_kept_and_counted(start, consumer, meter) -> None:
    """An eSpan without what linking needs is a trace of its own."""
    _, client = await start()
    assert (await client.post(body_of({k: v for k, v in GOOD.items() if k != "resp_seq"})))[0] == 200
    assert consumer.spans == 1
    assert meter.read("receiver_faulty_espans") == {("resp_seq",): 1}


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_sizes_are_limited_before_and_after_gzip(start, consumer, encoding: str) -> None:
    """413, with the limit's name; the next body is taken."""
    _, client = await start(max_request_bytes=1000)
    body = body_of(*[GOOD] * 50)
    sent = gzip.compress(body) if encoding == "gzip" else body
    assert len(body) > 1000
    assert encoding == "identity" or len(sent) < 1000
    status, answer = await client.post(sent, Content_Encoding=encoding)
    assert (status, answer["error_code"]) == (413, "datakit.bodyTooLarge")
    assert "max_request_bytes" in answer["message"]
    assert (await client.post(body_of(GOOD)))[0] == 200
    assert consumer.spans == 1


@pytest.mark.parametrize(
    ("path", "encoding", "status", "code"),
    [
        ("/v1/write/tracing", "identity", 404, "datakit.notFound"),
        (PATH, "br", 415, "datakit.unsupportedEncoding"),
        (PATH, "gzip", 400, "datakit.invalidBody"),
    ],
)
async def test_other_requests_are_refused_with_json(start, path: str, encoding: str, status: int, code: str) -> None:
    """Paths, encodings, and bytes that are not what the encoding says."""
    _, client = await start()
    got, answer = await client.post(body_of(GOOD), path=path, Content_Encoding=encoding)
    assert (got, answer["error_code"]) == (status, code)


async def test_other_methods_are_refused(start) -> None:
    """405 says which one is meant."""
    receiver, client = await start()
    async with client.session.get(f"http://{receiver.address}/v1/bpftracing") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert (await response.json())["error_code"] == "datakit.methodNotAllowed"


@pytest.mark.parametrize("error", [Throttled("full", retry_after_s=60.0), StoreUnavailable("disk full")])
async def test_under_pressure_the_answer_is_held_back_and_nothing_is_lost(
    start, consumer, meter, error: Exception
) -> None:
    """It is tried again soon, whatever time the error names; then the sender gets its 200."""
    _, client = await start()
    consumer.errors.extend([error] * 3)
    assert await client.post(body_of(GOOD, GOOD)) == (200, b"")
    assert consumer.spans == 2
    assert meter.read("receiver_accepted_spans") == {("datakit",): 2}
    assert meter.read("receiver_held_requests") == {("datakit",): 1}
    assert meter.read("receiver_refused_spans") == {}


async def test_what_is_held_too_long_is_refused_and_counted_as_lost(start, consumer, meter) -> None:
    """503 with what is in the way; the spans are counted by name."""
    _, client = await start(hold_s=0.1)
    consumer.errors.extend([StoreUnavailable("disk full")] * 1000)
    status, answer = await client.post(body_of(GOOD, GOOD))
    assert (status, answer["error_code"]) == (503, "datakit.unavailable")
    assert "disk full" in answer["message"]
    assert "receivers.datakit.hold = 0.1 s" in answer["message"]
    assert meter.read("receiver_refused_spans") == {("held_too_long", "datakit"): 2}
    assert consumer.batches == []


async def test_what_waits_with_others_for_too_long_is_counted_too(start: Any, meter: Any, consumer: Any) -> None:
    """The store does not answer: the body is with others by then, and its agent drops it."""
    consumer.gate = anyio.Event()
    _, client = await start(hold_s=0.1, body_timeout_s=0.1)
    status, answer = await client.post(body_of(GOOD, GOOD))
    assert (status, answer["error_code"]) == (503, "datakit.unavailable")
    assert meter.read("receiver_refused_spans")[("held_too_long", "datakit")] == 2
    consumer.gate.set()


async def test_what_is_lost_is_an_error_in_the_log_once_a_minute_per_reason(consumer, meter, caplog) -> None:
    """The first at once; what was lost since the last line is told by the next, the rest at the end."""
    options: dict[str, Any] = {"instruments": meter.instruments, "host": "127.0.0.1", "port": 0}
    consumer.errors.extend([StoreUnavailable("disk full")] * 1000)
    receiver = DatakitReceiver(consumer, hold_s=0.05, **options)
    with caplog.at_level(logging.ERROR):
        async with receiver.running(), aiohttp.ClientSession() as session:
            client = Client(session, receiver.address)
            for body in (body_of(GOOD, GOOD), body_of(GOOD), body_of(GOOD, GOOD, GOOD)):
                assert (await client.post(body))[0] == 503
            assert lost(caplog) == [("held_too_long", 1, 2)]
        assert lost(caplog) == [("held_too_long", 1, 2), ("held_too_long", 2, 4)]
        caplog.clear()
        receiver = DatakitReceiver(consumer, max_held_requests=0, **options)
        async with receiver.running(), aiohttp.ClientSession() as session:
            assert (await Client(session, receiver.address).post(body_of(GOOD)))[0] == 503
            assert (await Client(session, receiver.address).post(b"{", "application/json"))[0] == 400
        assert lost(caplog) == [("too_many_held", 1, 1)]


async def test_no_more_than_so_many_requests_are_held(start, consumer, meter) -> None:
    """One more is refused at once; those that are held get their answer."""
    receiver, client = await start(max_held_requests=2, hold_s=60)
    consumer.errors.extend([StoreUnavailable("disk full")] * 6)
    answers: list[int] = []

    async def post() -> None:
        answers.append((await client.post(body_of(GOOD)))[0])

    async with anyio.create_task_group() as group:
        group.start_soon(post)
        group.start_soon(post)
        await held(receiver, 2)
        status, answer = await client.post(body_of(GOOD))
        assert status == 503
        assert "max_held_requests" in answer["message"]
    assert answers == [200, 200]
    assert meter.read("receiver_refused_spans") == {("too_many_held", "datakit"): 1}


async def test_bodies_wait_for_room_instead_of_being_refused(start, consumer) -> None:
    """More than max_in_flight_bytes at once: all are taken, one after the other, and none is read before."""
    body = body_of(*[GOOD] * 20)
    receiver, client = await start(max_in_flight_bytes=len(body) + 10)
    consumer.gate = anyio.Event()
    answers: list[int] = []

    async def post() -> None:
        answers.append((await client.post(body))[0])

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(post)
        await held(receiver, 4)
        assert answers == []
        consumer.gate.set()
    assert answers == [200] * 5
    assert consumer.spans == 100


async def test_compressed_bodies_that_wait_for_each_other_all_come_through(start, consumer) -> None:
    """Each holds its compressed bytes and wants more room: one goes first, so that none waits for ever."""
    body = body_of(*[GOOD] * 100)
    zipped = gzip.compress(body)
    _, client = await start(max_in_flight_bytes=3 * len(zipped))
    answers: list[int] = []

    async def post() -> None:
        answers.append((await client.post(zipped, Content_Encoding="gzip"))[0])

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(post)
    assert answers == [200] * 3


async def test_bodies_of_unknown_length_wait_for_room_too(start, consumer) -> None:
    """Chunked: their bytes are counted in as they come."""
    body = body_of(*[GOOD] * 20)
    receiver, client = await start(max_in_flight_bytes=len(body) + 10)
    consumer.gate = anyio.Event()
    answers: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100):
            yield body[at : at + 100]

    async def post() -> None:
        async with client.session.post(
            f"http://{client.address}{PATH}", data=pieces(), headers={"Content-Type": PROTOBUF}
        ) as response:
            answers.append(response.status)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(post)
        await held(receiver)
        consumer.gate.set()
    assert answers == [200] * 3
    assert consumer.spans == 60


async def test_a_body_that_does_not_come_is_given_up(start, consumer) -> None:
    """503 in DataKit's words, and the connection is closed; others go on."""
    receiver, client = await start(body_timeout_s=0.05)
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send(b"POST /v1/bpftracing HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        answer = b""
        with anyio.fail_after(10):
            while not answer.endswith(b"}"):
                answer += await stream.receive()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_code"] == "datakit.readTimeout"
    assert (await client.post(body_of(GOOD)))[0] == 200


async def test_a_permanent_error_is_answered_at_once(start, consumer, meter) -> None:
    """Waiting would not help; its points are counted as lost."""
    _, client = await start()
    consumer.errors.append(PermanentError("never"))
    assert (await client.post(body_of(GOOD)))[0] == 400
    assert meter.read("receiver_held_requests") == {}
    assert sum(meter.read("receiver_refused_spans").values()) == 1


async def test_an_error_of_ours_is_told_without_its_inner_workings(start, consumer, caplog) -> None:
    """500; the log has it."""
    _, client = await start()
    consumer.errors.append(KeyError("inner"))
    status, answer = await client.post(body_of(GOOD))
    assert (status, answer["error_code"]) == (500, "datakit.internalError")
    assert "inner" not in answer["message"]
    assert [r.message for r in caplog.records] == ["request failed"]


async def test_what_we_fail_to_decode_together_is_taken_and_logged(start, consumer, caplog) -> None:
    """By itself it can be; without the log nobody would learn that it is."""

    def broken(_bodies: object) -> None:
        raise KeyError("inner")

    _, client = await start(joint=Joint(count_points, broken))
    assert (await client.post(body_of(GOOD)))[0] == 200
    assert sum(len(batch) for batch in consumer.batches) == 1
    assert [r.message for r in caplog.records] == ["request failed"]


async def test_a_stop_answers_what_is_held_and_counts_it_as_lost(consumer, meter) -> None:
    """503 within drain_s: an agent that waited without end would keep the bridge from stopping."""
    receiver = DatakitReceiver(consumer, instruments=meter.instruments, host="127.0.0.1", port=0, drain_s=0.1)
    consumer.errors.extend([StoreUnavailable("disk full")] * 1000)
    answers: list[int] = []

    async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:

        async def post() -> None:
            answers.append((await client.post(body_of(GOOD)))[0])

        async with receiver.running():
            client = Client(session, receiver.address)
            group.start_soon(post)
            await held(receiver)
    assert answers == [503]
    assert meter.read("receiver_refused_spans") == {("stopping", "datakit"): 1}


async def test_a_sender_that_hangs_up_while_it_is_held_loses_nothing(start, consumer) -> None:
    """What it sent is committed all the same."""
    receiver, client = await start()
    consumer.errors.extend([StoreUnavailable("disk full")] * 2)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(client.post, body_of(GOOD))
            await held(receiver)
            scope.cancel()
    with anyio.fail_after(10):
        while not consumer.spans:
            await anyio.lowlevel.checkpoint()
