"""What one request may be, and how many there may be at once, on every listener."""

import gzip
import io
import json
import logging
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
import anyio
import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from yarl import URL

from bridge.codec.limits import RequestLimits
from bridge.codec.otlp_json import decode_json, encode_json
from bridge.codec.otlp_protobuf import decode_request, decode_requests
from bridge.codec.otlp_scan import count_spans
from bridge.codec.points.decode import decode_bodies, decode_points
from bridge.codec.points.scan import count_points
from bridge.connections import ListenerLimits
from bridge.receivers.compression import zstd
from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.gathering import Joint
from bridge.receivers.otlp import GrpcReceiver, HttpReceiver
from tests.support.espans import espan_of, field, request_of
from tests.support.point_bodies import body_of, espan_point

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF, JSON, POINTS = "application/x-protobuf", "application/json", "application/protobuf"
LIMITS = ListenerLimits()
MILLION = 1_000_000
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": partial(gzip.compress, compresslevel=1),
    "deflate": partial(zlib.compress, level=1),
    "zstd": zstd.compress,
}


@pytest.fixture
async def start(consumer: Any, meter: Any) -> AsyncIterator[Any]:
    """start(kind, **options): how to post to a receiver that runs, with the bridge's own decoders."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)))

        async def started(kind: str, request: RequestLimits | None = None, **options: Any) -> "partial[Any]":
            classes: dict[str, Any] = {"otlp_http": HttpReceiver, "datakit": DatakitReceiver, "otlp_grpc": GrpcReceiver}
            if request and kind == "datakit":
                options["decode"] = partial(decode_points, limits=request)
                options["joint"] = Joint(count_points, partial(decode_bodies, limits=request))
            elif request:
                options["decode"] = partial(decode_request, limits=request)
                options["joint"] = Joint(count_spans, partial(decode_requests, limits=request))
            if request and kind == "otlp_http":
                options["decode_json"] = partial(decode_json, limits=request)
            options = {"host": "127.0.0.1", "port": 0, "instruments": meter.instruments} | options
            receiver = classes[kind](consumer, **options)
            await stack.enter_async_context(receiver.running())
            if kind == "otlp_grpc":
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(receiver.address))
                return partial(call, channel)
            path = "/v1/traces" if kind == "otlp_http" else "/v1/bpftracing"
            return partial(post, session, URL(f"http://{receiver.address}{path}"))

        yield started


async def call(channel: grpc.aio.Channel, body: bytes, *_: str) -> tuple[int, bytes]:
    """Code of a call, and its answer or its details."""
    try:
        return 0, await channel.unary_unary(EXPORT)(body, timeout=60)
    except grpc.aio.AioRpcError as exc:
        return exc.code().value[0], (exc.details() or "").encode()


async def post(
    session: aiohttp.ClientSession, url: URL, body: bytes, content_type: str, encoding: str = "identity"
) -> tuple[int, bytes]:
    """Status and body of an answer."""
    headers = {"Content-Type": content_type, "Content-Encoding": encoding}
    async with session.post(url, data=io.BytesIO(body), headers=headers) as response:
        return response.status, await response.read()


def tiny_spans(number: int) -> bytes:
    """So many of the shortest spans that are taken: 13 bytes each."""
    return field(1, field(2, field(2, field(9, field(1, b"req_seq"))) * number))


def tiny_points(number: int) -> bytes:
    """So many of the shortest points that are taken."""
    return field(1, field(1, b"a") + field(2, field(1, b"k"))) * number


BODIES: dict[str, tuple[str, Callable[[int], bytes], str, int]] = {
    "grpc": ("otlp_grpc", tiny_spans, PROTOBUF, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]),
    "http": ("otlp_http", tiny_spans, PROTOBUF, 413),
    "json": (
        "otlp_http",
        lambda n: b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b",".join([b"{}"] * n) + b"]}]}]}",
        JSON,
        413,
    ),
    "points": ("datakit", tiny_points, POINTS, 413),
    "lines": ("datakit", lambda n: b"a b=1\n" * n, "text/plain", 413),
    "points_json": ("datakit", lambda n: b"[" + b",".join([b'{"name":"a"}'] * n) + b"]", JSON, 413),
}


@pytest.mark.parametrize("form", BODIES)
async def test_a_body_of_a_million_tiny_spans_is_too_large(start: Any, meter: Any, consumer: Any, form: str) -> None:
    """Its bytes are few, but their columns would take 400 MB: it is refused by the number of its spans."""
    kind, make, content_type, refused = BODIES[form]
    # text is read up to the first point too many, which takes a while for the default
    limit = 1000 if form in ("lines", "points_json") else 2**18
    send = await start(kind, RequestLimits(max_spans=limit))
    code, answer = await send(make(MILLION), content_type)
    assert code == refused
    assert f"max_request_spans = {limit}" in answer.decode()
    assert meter.read("receiver_refused_requests") == {("too_large", kind): 1}
    assert not consumer.entered.is_set()


@pytest.mark.parametrize("decode", [decode_request, partial(decode_points, content_type=POINTS)])
def test_spans_are_counted_before_memory_is_taken_for_them(decode: Callable[..., Any]) -> None:
    """While a million are refused next to nothing is allocated."""
    body = tiny_spans(MILLION) if decode is decode_request else tiny_points(MILLION)
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match="max_request_spans"):
            decode(body, peer="192.0.2.1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("form", ["grpc", "http", "points"])
async def test_as_many_spans_as_may_be_are_taken(start: Any, consumer: Any, form: str) -> None:
    """And one more is not."""
    kind, make, content_type, refused = BODIES[form]
    send = await start(kind, RequestLimits(max_spans=10))
    assert (await send(make(10), content_type))[0] == (0 if form == "grpc" else 200)
    assert consumer.spans == 10
    assert (await send(make(11), content_type))[0] == refused
    assert consumer.spans == 10


async def test_a_span_that_is_too_large_costs_no_other(start: Any, meter: Any, consumer: Any) -> None:
    """OTLP: it is told as a partial success, and counted under its own reason."""
    body = request_of(espan_of(), espan_of(note="x" * 5000), espan_of(note="x" * 500))
    for kind, content_type in (("otlp_grpc", PROTOBUF), ("otlp_http", PROTOBUF), ("otlp_http", JSON)):
        send = await start(kind, RequestLimits(max_span_bytes=4000))
        code, answer = await send(encode_json(body) if content_type == JSON else body, content_type)
        assert code in (0, 200)
        if content_type == JSON:
            told = json.loads(answer)["partialSuccess"]
            assert (told["rejectedSpans"], told["errorMessage"]) == ("1", "1 larger than max_span_bytes = 4000")
        else:
            partial_success = ExportTraceServiceResponse.FromString(answer).partial_success
            assert partial_success.rejected_spans == 1
            assert partial_success.error_message == "1 larger than max_span_bytes = 4000"
    assert [len(batch) for batch in consumer.batches] == [2, 2, 2]
    assert meter.read("receiver_refused_spans") == {
        ("span_too_large", "otlp_grpc"): 1,
        ("span_too_large", "otlp_http"): 2,
    }


async def test_a_point_that_is_too_large_costs_no_other(start: Any, meter: Any, consumer: Any) -> None:
    """DataKit: it is counted under its own reason."""
    send = await start("datakit", RequestLimits(max_span_bytes=4000))
    assert (await send(body_of(espan_point(), espan_point(note="x" * 5000)), POINTS))[0] == 200
    assert [len(batch) for batch in consumer.batches] == [1]
    assert meter.read("receiver_refused_spans") == {("span_too_large", "datakit"): 1}


@pytest.mark.parametrize("kind", ["otlp_http", "datakit"])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_sizes_are_bounded_in_every_encoding(start: Any, meter: Any, kind: str, encoding: str) -> None:
    """A body that is small on its way and large when decompressed is refused; one of exactly the limit is read."""
    send = await start(kind, max_request_bytes=100_000)
    content_type = PROTOBUF if kind == "otlp_http" else POINTS
    assert (await send(ENCODINGS[encoding](bytes(100_000)), content_type, encoding))[0] == 400
    assert (await send(ENCODINGS[encoding](bytes(100_001)), content_type, encoding))[0] == 413
    counts = meter.read("receiver_refused_requests")
    assert counts == {("invalid", kind): 1, ("too_large", kind): 1}


@pytest.mark.parametrize(("kind", "body"), [("otlp_http", b"{}"), ("datakit", b"[]")])
async def test_json_has_a_bound_of_its_own(start: Any, kind: str, body: bytes) -> None:
    """It takes many times its size while it is read; decompressed bytes count."""
    send = await start(kind, RequestLimits(max_json_bytes=1000))
    code, answer = await send(gzip.compress(body + b" " * 999), JSON, "gzip")
    assert code == 413
    assert b"max_json_bytes = 1000" in answer


@pytest.mark.parametrize(("kind", "path"), [("otlp_http", "/v1/traces"), ("datakit", "/v1/bpftracing")])
async def test_bodies_that_are_only_announced_hold_up_nobody(
    start: Any, consumer: Any, monkeypatch: pytest.MonkeyPatch, kind: str, path: str
) -> None:
    """A few senders that announce much and send nothing do not fill max_in_flight_bytes."""
    monkeypatch.setattr("bridge.receivers.http_server.FIRST_CLAIM_BYTES", 1000)
    hold = {"hold_s": 0.5} if kind == "datakit" else {}
    send = await start(kind, max_in_flight_bytes=10_000, max_request_bytes=9000, **hold)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nContent-Length: 9000\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(4):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", send.args[1].port)))
            slow.sendall(head.encode() + b"ab")
        otlp = kind == "otlp_http"
        body = request_of(espan_of(note="x" * 3000)) if otlp else body_of(espan_point(note="x" * 3000))
        assert (await send(body, PROTOBUF))[0] == 200
    assert consumer.spans == 1


async def test_requests_at_once_are_bounded_over_http(start: Any, meter: Any, consumer: Any) -> None:
    """The one too many is told when to come again; once there is room requests are taken again."""
    send = await start("otlp_http", limits=replace(LIMITS, max_concurrent_requests=2))
    consumer.gate = anyio.Event()
    body = request_of(espan_of())
    codes: list[int] = []

    async def one() -> None:
        codes.append((await send(body, PROTOBUF))[0])

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
        with anyio.fail_after(20):
            while not codes:  # noqa: ASYNC110 -- of whichever comes last
                await anyio.sleep(0.01)
        assert codes == [429]
        consumer.gate.set()
    assert sorted(codes) == [200, 200, 429]
    assert (await send(body, PROTOBUF))[0] == 200
    assert meter.read("receiver_refused_requests") == {("max_concurrent_requests", "otlp_http"): 1}


async def test_agents_beyond_the_requests_at_once_are_held(start: Any, meter: Any, consumer: Any) -> None:
    """None of them is refused: they are taken one after another."""
    send = await start("datakit", limits=replace(LIMITS, max_concurrent_requests=1))
    consumer.gate = anyio.Event()
    codes: list[int] = []

    async def one() -> None:
        codes.append((await send(body_of(espan_point()), POINTS))[0])

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
        with anyio.fail_after(20):
            while meter.read("receiver_held_requests") != {("datakit",): 2}:  # noqa: ASYNC110 -- a counter
                await anyio.sleep(0.01)
        consumer.gate.set()
    assert codes == [200] * 3
    assert meter.read("receiver_refused_requests") == {}


async def test_an_agent_that_finds_no_room_in_time_is_refused_and_counted(
    start: Any, meter: Any, consumer: Any
) -> None:
    """After hold; and a commit that never ends is given up after the time for a body on top."""
    send = await start("datakit", limits=replace(LIMITS, max_concurrent_requests=1), hold_s=0.2, body_timeout_s=0.3)
    consumer.gate = anyio.Event()
    codes: list[int] = []

    async def one() -> None:
        codes.append((await send(body_of(espan_point()), POINTS))[0])

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        await consumer.entered.wait()
        group.start_soon(one)
    assert codes == [503, 503]
    assert meter.read("receiver_refused_requests") == {("held_too_long", "datakit"): 2}
    assert meter.read("receiver_refused_spans") == {("held_too_long", "datakit"): 1}


async def test_a_request_that_is_not_done_in_time_is_503(start: Any, meter: Any, consumer: Any) -> None:
    """A commit that hangs holds up its sender for request_timeout, and no longer."""
    send = await start("otlp_http", limits=replace(LIMITS, request_timeout_s=0.2))
    consumer.gate = anyio.Event()
    code, answer = await send(request_of(espan_of()), PROTOBUF)
    assert code == 503
    assert b"request_timeout" in answer
    assert meter.read("receiver_refused_requests") == {("request_timeout", "otlp_http"): 1}


@pytest.mark.parametrize("kind", ["otlp_grpc", "otlp_http"])
async def test_a_defect_is_counted_each_time_and_logged_once(
    start: Any, meter: Any, consumer: Any, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """One that every request meets would fill the disk with its tracebacks; another one is logged, too."""
    send = await start(kind)
    for number in range(5):
        consumer.errors.append(ZeroDivisionError("again") if number < 4 else KeyError("another"))
        await send(request_of(espan_of()), PROTOBUF)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.exc_info[0] for record in errors if record.exc_info] == [ZeroDivisionError, KeyError]
    assert meter.read("receiver_refused_requests") == {("internal", kind): 5}
