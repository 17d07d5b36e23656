"""The HTTP receiver against real clients on real sockets."""

import gzip
import http.client
import json
import logging
import socket
import urllib.request
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import grpc
import grpc.aio
import psutil
import pytest
from google.protobuf.json_format import Parse, ParseError
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bridge.codec.otlp_json import decode_json, encode_json
from bridge.codec.otlp_protobuf import decode_request
from bridge.errors import ConfigError, InvalidData, StoreUnavailable, Throttled
from bridge.receivers.compression import zstd
from bridge.receivers.http_server import READ_AHEAD_BYTES
from bridge.receivers.otlp import HttpReceiver
from tests.support.espans import ORDINARY_IDS, span_of
from tests.support.espans import request_of as request_with

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
Request = Callable[..., bytes]


class Answer:
    """Status, headers and body of a response."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.code = status
        self.headers = headers
        self.body = body

    @property
    def status(self) -> Status:
        """The google.rpc.Status of a refusal."""
        assert self.headers["Content-Type"] == PROTOBUF
        return Status.FromString(self.body)


class Client:
    """Posts bodies to one receiver over one kept-alive connection where it can."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self.session = session
        self.url = f"http://{address}"

    async def post(
        self,
        data: Any,
        content_type: str | None = PROTOBUF,
        path: str = "/v1/traces",
        method: str = "POST",
        **headers: str,
    ) -> Answer:
        """Send a body as it is; underscores in header names are hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Content-Type": content_type} if content_type else {}
        async with self.session.request(method, self.url + path, data=data, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())


@pytest.fixture
def json_decoder(decoder: Any) -> Callable[..., Any]:
    """Reads OTLP/JSON without ids, by way of the protobuf decoder."""

    def decode(data: bytes, *, peer: str) -> Any:
        try:
            request = Parse(data, ExportTraceServiceRequest())
        except ParseError as exc:
            raise InvalidData(f"resourceSpans: {exc}") from exc
        return decoder(request.SerializeToString(), peer=peer)

    return decode


def json_of(*names: str) -> bytes:
    """An OTLP/JSON request with spans of these names."""
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"name": n} for n in names]}]}]}).encode()


@pytest.fixture
async def start(consumer: Any, meter: Any, decoder: Any, json_decoder: Any) -> AsyncIterator[Any]:
    """start(**options): a running receiver on a free port and a client of it."""
    async with AsyncExitStack() as stack:

        async def started(**options: Any) -> tuple[HttpReceiver, Client]:
            decoders = {**decoder.both, "decode_json": json_decoder}
            options = {"host": "127.0.0.1", "port": 0} | decoders | options
            receiver = HttpReceiver(options.pop("consumer", consumer), instruments=meter.instruments, **options)
            await stack.enter_async_context(receiver.running())
            session = await stack.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20), auto_decompress=False)
            )
            return receiver, Client(session, receiver.address)

        yield started


async def test_protobuf_is_answered_in_protobuf(start: Any, consumer: Any, meter: Any, request_of: Request) -> None:
    """All spans good: 200, an empty ExportTraceServiceResponse, in the request's content type."""
    _, client = await start()
    answer = await client.post(request_of("a", "b"))
    assert (answer.code, answer.headers["Content-Type"], answer.body) == (200, PROTOBUF, b"")
    assert consumer.spans == 2
    assert meter.read("receiver_accepted_spans") == {("otlp_http",): 2}
    assert meter.read("receiver_received_bytes") == {("otlp_http",): len(request_of("a", "b"))}


@pytest.mark.parametrize("content_type", [JSON, "application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_answered_in_json(start: Any, consumer: Any, content_type: str) -> None:
    """The same port takes JSON, with or without parameters of the content type, and answers {}."""
    _, client = await start()
    answer = await client.post(json_of("a"), content_type)
    assert (answer.code, answer.body) == (200, b"{}")
    assert answer.headers["Content-Type"].startswith(JSON)
    assert consumer.spans == 1


async def test_partial_success_in_both_encodings(start: Any, consumer: Any, request_of: Request) -> None:
    """Some spans bad: 200, how many and why; in JSON the count is text, as an int64 is."""
    _, client = await start()
    answer = ExportTraceServiceResponse.FromString((await client.post(request_of("a", "reject"))).body)
    assert answer.partial_success.rejected_spans == 1
    assert json.loads((await client.post(json_of("a", "reject"), JSON)).body) == {
        "partialSuccess": {"rejectedSpans": "1", "errorMessage": "spans[0]: no trace id"}
    }
    assert consumer.spans == 2


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_empty_request_is_success(start: Any, consumer: Any, request_of: Request, encoding: str) -> None:
    """No bytes, or a request without spans: success without a commit."""
    _, client = await start()
    assert (await client.post(b"", Content_Encoding=encoding)).code == 200
    assert (await client.post(json_of(), JSON)).code == 200
    assert not consumer.entered.is_set()


@pytest.mark.parametrize("body", [b"", b" \r\n"])
async def test_body_without_content_is_an_empty_request_in_json_too(start: Any, consumer: Any, body: bytes) -> None:
    """With the bridge's own decoder: success without a commit."""
    _, client = await start(decode_json=decode_json)
    answer = await client.post(body, JSON)
    assert (answer.code, answer.body) == (200, b"{}")
    assert not consumer.entered.is_set()


async def test_ordinary_span_with_an_id_of_a_wrong_length_costs_only_itself(start: Any, consumer: Any) -> None:
    """Of two spans one is taken, and the answer names the other's field, in both encodings."""
    _, client = await start(decode=decode_request, joint=None, decode_json=decode_json)
    body = request_with(span_of(**ORDINARY_IDS), span_of(**ORDINARY_IDS, parent_span_id=b"abc"))
    answer = ExportTraceServiceResponse.FromString((await client.post(body)).body).partial_success
    assert answer.rejected_spans == 1
    assert answer.error_message.endswith("spans[1]: parent_span_id has 3 bytes, want 8")
    told = json.loads((await client.post(encode_json(body), JSON)).body)["partialSuccess"]
    assert told["rejectedSpans"] == "1"
    assert told["errorMessage"].endswith("spans[1]: parent_span_id has 3 bytes, want 8")
    assert consumer.spans == 2


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstd.compress),
        ("identity", bytes),
    ],
)
async def test_content_encodings(
    start: Any, consumer: Any, meter: Any, request_of: Request, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    """Bodies in each encoding are read; what is counted are the bytes on the wire."""
    _, client = await start()
    body = compress(request_of("a" * 1000))
    assert (await client.post(body, Content_Encoding=encoding)).code == 200
    assert consumer.spans == 1
    assert meter.read("receiver_received_bytes") == {("otlp_http",): len(body)}


async def test_bad_bytes_are_400_with_where(start: Any, meter: Any) -> None:
    """Bytes that cannot be read: 400 and a google.rpc.Status with the decoder's words, in the request's encoding."""
    _, client = await start()
    answer = await client.post(b"\x0a\xff\xff")
    assert (answer.code, answer.status.code) == (400, Code.INVALID_ARGUMENT)
    assert "resource_spans[0]" in answer.status.message
    answer = await client.post(b"{", JSON)
    status = json.loads(answer.body)
    assert (answer.code, status["code"]) == (400, Code.INVALID_ARGUMENT)
    assert "resourceSpans" in status["message"]
    assert meter.read("receiver_refused_requests") == {("invalid", "otlp_http"): 2}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_bad_compression_is_400(start: Any, encoding: str, request_of: Request) -> None:
    """A body that is not of its encoding is told so."""
    _, client = await start()
    answer = await client.post(b"\xff" + request_of("a"), Content_Encoding=encoding)
    assert answer.code == 400
    assert encoding in answer.status.message


async def test_bad_requests_leave_the_connection_usable(start: Any, consumer: Any, request_of: Request) -> None:
    """Every refusal that read its body costs only its own request: the next one on the same connection is taken."""
    receiver, _ = await start()

    def talk() -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=20)
        codes = []
        for body, headers in [
            (b"\xff" * 50, {"Content-Type": PROTOBUF}),
            (b"x", {"Content-Type": "text/plain"}),
            (b"x", {"Content-Type": PROTOBUF, "Content-Encoding": "br"}),
            (request_of("a"), {"Content-Type": PROTOBUF}),
        ]:
            connection.request("POST", "/v1/traces", body, headers)
            sock = connection.sock
            response = connection.getresponse()
            response.read()
            codes.append(response.status)
            assert connection.sock is sock
        connection.close()
        return codes

    assert await anyio.to_thread.run_sync(talk) == [400, 415, 415, 200]
    assert consumer.spans == 1


@pytest.mark.parametrize(
    ("error", "http_status", "retry_after", "delay_s"),
    [
        (Throttled("full", retry_after_s=2.5), 429, "3", 2.5),
        (Throttled("full"), 429, "1", 1.0),
        (Throttled("full", retry_after_s=0.01), 429, "1", 0.01),
        (StoreUnavailable("disk full", retry_after_s=7), 503, "7", 7.0),
    ],
)
async def test_overload_answers_carry_retry_after(
    start: Any,
    consumer: Any,
    meter: Any,
    request_of: Request,
    error: Exception,
    http_status: int,
    retry_after: str,
    delay_s: float,
) -> None:
    """What cannot be taken now is 429 or 503 with Retry-After in whole seconds, and RetryInfo in the Status."""
    _, client = await start()
    consumer.errors.append(error)
    answer = await client.post(request_of("a", "b"))
    assert (answer.code, answer.headers["Retry-After"]) == (http_status, retry_after)
    info = RetryInfo()
    assert answer.status.details[0].Unpack(info)
    assert info.retry_delay.ToNanoseconds() == round(delay_s * 1e9)
    assert sum(meter.read("receiver_refused_spans").values()) == 2


async def test_retry_info_in_json(start: Any, consumer: Any) -> None:
    """The Status of a JSON sender is JSON: code, message, details."""
    _, client = await start()
    consumer.errors.append(Throttled("full", retry_after_s=2.5))
    assert json.loads((await client.post(json_of("a"), JSON)).body) == {
        "code": Code.RESOURCE_EXHAUSTED,
        "message": "full",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.500s"}],
    }


async def test_bytes_in_flight_are_bounded(start: Any, consumer: Any, request_of: Request) -> None:
    """While a request fills max_in_flight_bytes another one is refused as retryable; afterwards it is taken."""
    _, client = await start(max_in_flight_bytes=10)
    consumer.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(client.post, request_of("larger than the bound but alone"))
        await consumer.entered.wait()
        answer = await client.post(request_of("b"))
        assert (answer.code, answer.headers["Retry-After"]) == (429, "1")
        consumer.gate.set()
    assert (await client.post(request_of("b"))).code == 200


async def test_decompressed_bytes_count_as_in_flight(start: Any, consumer: Any, request_of: Request) -> None:
    """A body that is small on the wire takes its decompressed size of the bound."""
    _, client = await start(max_in_flight_bytes=5000)
    body = gzip.compress(request_of("a" * 4000))
    consumer.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: client.post(body, Content_Encoding="gzip"))
        await consumer.entered.wait()
        assert (await client.post(body, Content_Encoding="gzip")).code == 429
        consumer.gate.set()


async def test_too_large_bodies_are_413_by_their_declared_length(
    start: Any, consumer: Any, request_of: Request
) -> None:
    """A Content-Length over max_request_bytes is refused before the body is read; that size itself is read."""
    _, client = await start(max_request_bytes=1000)
    answer = await client.post(bytes(1001))
    assert (answer.code, answer.status.code) == (413, Code.RESOURCE_EXHAUSTED)
    assert "max_request_bytes = 1000" in answer.status.message
    assert "Retry-After" not in answer.headers
    assert (await client.post(bytes(1000))).code == 400


async def test_too_large_bodies_are_413_when_streamed(start: Any, meter: Any) -> None:
    """A chunked body is refused when it passes max_request_bytes, whatever was declared."""
    _, client = await start(max_request_bytes=1000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield bytes(100)

    answer = await client.post(pieces())
    assert answer.code == 413
    assert meter.read("receiver_refused_requests") == {("too_large", "otlp_http"): 1}


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
async def test_bombs_are_413(
    start: Any, request_of: Request, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    """A body that is small on the wire and would inflate beyond max_request_bytes is refused."""
    _, client = await start(max_request_bytes=100_000)
    bomb = compress(bytes(10_000_000))
    assert len(bomb) < 100_000
    answer = await client.post(bomb, Content_Encoding=encoding)
    assert answer.code == 413
    assert "when decompressed" in answer.status.message
    assert (await client.post(request_of("a"))).code == 200


async def test_unknown_content_types_and_encodings_are_415_with_what_is_known(start: Any, request_of: Request) -> None:
    """415 names what would be understood, in a header and in words; without a known type the answer is JSON."""
    _, client = await start()
    for content_type in ("text/plain", "application/protobuf-but-not", None):
        answer = await client.post(request_of("a"), content_type)
        assert (answer.code, answer.headers["Accept"]) == (415, f"{PROTOBUF}, {JSON}")
        assert PROTOBUF in json.loads(answer.body)["message"]
    for encoding in ("br", "gzip, gzip"):
        answer = await client.post(request_of("a"), Content_Encoding=encoding)
        assert answer.code == 415
        assert "zstd" in answer.headers["Accept-Encoding"]
        assert encoding in answer.status.message


async def test_other_methods_are_405(start: Any) -> None:
    """Only POST is understood at /v1/traces, and the answer says so."""
    _, client = await start()
    for method in ("GET", "PUT"):
        answer = await client.post(None, method=method)
        assert (answer.code, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/logs", "/", "/v1/traces/", "/v1/tra%20ces"])
async def test_other_paths_are_404_with_a_hint(start: Any, path: str) -> None:
    """Other signals and typos are told what this bridge takes, and where."""
    _, client = await start()
    answer = await client.post(b"", path=path)
    assert answer.code == 404
    assert "takes traces only, POST /v1/traces" in answer.status.message


async def test_unexpected_error_is_500_and_logged_once(
    start: Any, consumer: Any, request_of: Request, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug: 500 without its inner workings, one log record with them; the next request is fine."""
    _, client = await start()
    consumer.errors.append(ZeroDivisionError("secret path"))
    answer = await client.post(request_of("a"))
    assert (answer.code, answer.status.code) == (500, Code.INTERNAL)
    assert "secret" not in answer.status.message
    records = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.exc_info[0] for r in records if r.exc_info] == [ZeroDivisionError]
    assert (await client.post(request_of("a"))).code == 200


async def test_slow_bodies_may_come_again(start: Any, meter: Any, request_of: Request) -> None:
    """A body that does not arrive in time is answered 503, not 408, at which senders give up, and its connection
    closed; others go on."""
    receiver, client = await start(body_timeout_s=0.05)
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send(head(9) + b"abc")
        answer = b""
        while piece := await receive(stream):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in answer
    assert b"read_timeout = 0.05 s" in answer
    assert meter.read("receiver_refused_requests") == {("timeout", "otlp_http"): 1}
    assert (await client.post(request_of("a"))).code == 200


def head(length: int, *more: str) -> bytes:
    """The head of a request whose body has this length."""
    lines = ("POST /v1/traces HTTP/1.1", "Host: x", f"Content-Type: {PROTOBUF}", f"Content-Length: {length}", *more)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


async def receive(stream: anyio.abc.SocketStream) -> bytes:
    """What comes next, b"" at the end."""
    try:
        return await stream.receive()
    except anyio.EndOfStream:
        return b""


async def test_connections_without_a_request_are_closed(start: Any) -> None:
    """A connection whose request head never ends is closed after idle_timeout_s."""
    receiver, _ = await start(idle_timeout_s=0.05)
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send(b"POST /v1/traces HTTP/1.1\r\nX-Slow: ")
        assert await receive(stream) == b""


async def test_a_lost_connection_costs_only_its_request(
    start: Any, consumer: Any, meter: Any, request_of: Request, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that goes away inside its body is counted, not logged; nothing of it is handed over."""
    receiver, client = await start()
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send(head(9) + b"abc")
    assert (await client.post(request_of("a"))).code == 200
    await receiver._intake.admission.wait_idle()
    assert meter.read("receiver_refused_requests") == {("disconnected", "otlp_http"): 1}
    assert consumer.spans == 1
    assert not caplog.records


async def test_a_client_that_leaves_does_not_cancel_the_commit(
    owning_consumer: Any, start: Any, request_of: Request
) -> None:
    """Once handed over, spans are committed whole and by one writer, though their sender has gone."""
    _, client = await start(consumer=owning_consumer)
    with pytest.raises(TimeoutError), anyio.fail_after(0.2):
        await client.post(request_of("a", "b", "c"))
    await owning_consumer.writing.wait()
    owning_consumer.gate.set()
    await owning_consumer.written.wait()
    assert (await client.post(request_of("d"))).code == 200
    assert len(owning_consumer.rows) == 4
    assert owning_consumer.most_writers == 1


@pytest.mark.parametrize("size", [READ_AHEAD_BYTES - 1, READ_AHEAD_BYTES, READ_AHEAD_BYTES + 1, 3 * READ_AHEAD_BYTES])
async def test_a_body_is_read_whole_however_it_comes(start: Any, consumer: Any, size: int, request_of: Request) -> None:
    """One that aiohttp reads by itself and one that is read piece by piece, at once and in pieces."""
    receiver, _ = await start()
    around = len(request_of("x" * size)) - size
    body = request_of("x" * (size - around))
    assert len(body) == size
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        for pieces in (1, 2, 5):
            data, step = head(len(body)) + body, -(-(len(body)) // pieces)
            for at in range(0, len(data), step):
                await stream.send(data[at : at + step])
                await anyio.sleep(0.01)  # so that most of them come by themselves
            assert (await receive(stream)).startswith(b"HTTP/1.1 200 ")
    assert consumer.spans == 3


async def test_other_expectations_are_refused(start: Any, request_of: Request) -> None:
    """Of what a sender may expect there is 100-continue; anything else is answered with 417."""
    receiver, _ = await start()
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send(head(len(request_of("a")), "Expect: a-miracle"))
        assert (await receive(stream)).startswith(b"HTTP/1.1 417 ")


@pytest.mark.parametrize(
    ("change", "status"), [((b"/v1/traces", b"/v1/other"), 404), ((b"length: 9", b"length: 99999"), 413)]
)
async def test_nobody_goes_on_with_a_body_that_is_refused(start: Any, change: tuple[bytes, bytes], status: int) -> None:
    """What the head shows is answered at once; the connection ends, as the body may come or not."""
    receiver, _ = await start(max_request_bytes=1000)
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send(
            head(9, "Expect: 100-continue").replace(b"Content-Length", b"Content-length").replace(*change)
        )
        answer = await receive(stream)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("pieces", [1, 2])
async def test_whoever_stops_sending_behind_a_request_is_answered(
    start: Any, consumer: Any, request_of: Request, pieces: int
) -> None:
    """A closed half is no closed connection: both requests are answered, and then it ends."""
    receiver, _ = await start()
    body = request_of("a")
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send((head(len(body)) + body) * pieces)
        await stream.send_eof()
        answer = b""
        with anyio.fail_after(5):
            while piece := await receive(stream):
                answer += piece
    assert answer.count(b"HTTP/1.1 200 ") == pieces
    assert consumer.spans == pieces


async def test_a_body_that_ends_early_is_given_up_at_once(start: Any, consumer: Any, request_of: Request) -> None:
    """A half that is closed in the middle of one is as good as a connection that is."""
    receiver, client = await start()
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send(head(9) + b"abc")
        await stream.send_eof()
        with anyio.fail_after(5):
            assert await receive(stream) == b""
    assert (await client.post(request_of("a"))).code == 200
    assert consumer.spans == 1


async def test_one_that_is_alone_is_taken_though_larger_than_all_may_be(
    start: Any, consumer: Any, request_of: Request
) -> None:
    """It would never fit, however often it were tried; what it claimed itself is nobody else's."""
    receiver, _ = await start(max_in_flight_bytes=1 << 20)
    body = request_of("x" * (3 << 20))
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
        await stream.send(head(len(body)) + body)
        assert (await receive(stream)).startswith(b"HTTP/1.1 200 ")
    assert consumer.spans == 1


async def test_stop_answers_requests_in_flight(meter: Any, decoder: Any, consumer: Any, request_of: Request) -> None:
    """A request whose body is still on its way when the receiver stops is read, taken and answered."""
    receiver = HttpReceiver(consumer, instruments=meter.instruments, host="127.0.0.1", port=0, **decoder.both)
    body = request_of("a")
    async with anyio.create_task_group() as group:
        async with receiver.running():
            stream = await anyio.connect_tcp("127.0.0.1", receiver.port)
            await stream.send(head(len(body), "Expect: 100-continue"))
            assert (await receive(stream)).startswith(b"HTTP/1.1 100 ")
            await stream.send(body[:5])

            async def send_the_rest() -> None:
                await anyio.sleep(0.2)  # long after a receiver that does not wait would have dropped it
                await stream.send(body[5:])

            group.start_soon(send_the_rest)
        assert (await receive(stream)).startswith(b"HTTP/1.1 200 ")
        await stream.aclose()
    assert consumer.spans == 1
    with socket.create_server(("127.0.0.1", receiver.port)):
        pass


@pytest.mark.parametrize("client_stays", [True, False])
async def test_requests_over_the_drain_time_are_refused_as_retryable(
    meter: Any, decoder: Any, lingering_consumer: Any, request_of: Request, client_stays: bool
) -> None:
    """A consumer that does not answer is cancelled after drain_s and waited for, also when its client has gone."""
    receiver = HttpReceiver(
        lingering_consumer,
        instruments=meter.instruments,
        host="127.0.0.1",
        port=0,
        **decoder.both,
        drain_s=0.01,
    )
    body = request_of("a")
    async with anyio.create_task_group() as group:
        async with receiver.running():
            stream = await anyio.connect_tcp("127.0.0.1", receiver.port)
            await stream.send(head(len(body)) + body)
            await lingering_consumer.entered.wait()
            if not client_stays:
                await stream.aclose()
            group.start_soon(lingering_consumer.release_after_cancelled)
        assert lingering_consumer.ended
    if client_stays:
        answer = await receive(stream)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in answer
        await stream.aclose()


async def test_new_requests_are_refused_as_retryable_while_stopping(start: Any, request_of: Request) -> None:
    """Once the receiver drains, a new request on an open connection is 503 with Retry-After."""
    receiver, client = await start()
    await client.post(request_of("a"))
    receiver._intake.admission.close()
    answer = await client.post(request_of("b"))
    assert (answer.code, answer.headers["Retry-After"]) == (503, "1")


async def test_second_server_on_the_port_is_a_config_error(start: Any, meter: Any, consumer: Any) -> None:
    """The second receiver on a port fails to start and says why."""
    first, _ = await start()
    second = HttpReceiver(consumer, instruments=meter.instruments, host="127.0.0.1", port=first.port)
    with pytest.raises(
        ConfigError, match=f"otlp_http: cannot listen on 127.0.0.1:{first.port}: Address already in use"
    ):
        async with second.running():
            pytest.fail("two servers on one port")


async def test_localhost_is_both_loopback_addresses(start: Any, request_of: Request, decoder: Any) -> None:
    """ "localhost" listens on 127.0.0.1 and, where there is one, on ::1; the peer is its address without the port."""
    receiver, client = await start(host="localhost")
    hosts = ["127.0.0.1"]
    if any(a.address == "::1" for addresses in psutil.net_if_addrs().values() for a in addresses):
        hosts.append("::1")
    for host in hosts:
        client.url = f"http://[{host}]:{receiver.port}" if ":" in host else f"http://{host}:{receiver.port}"
        assert (await client.post(request_of("a"))).code == 200
    assert decoder.peers == hosts


async def test_grpc_on_the_http_port_disturbs_nobody(
    start: Any, request_of: Request, caplog: pytest.LogCaptureFixture
) -> None:
    """A gRPC client ends with UNAVAILABLE (test_wrong_ports has the text); nothing is an error, and others go on."""
    receiver, client = await start()
    async with grpc.aio.insecure_channel(receiver.address) as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(b"", timeout=20)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert (await client.post(request_of("a"))).code == 200
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_bytes_that_are_no_http_are_400_and_not_logged(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Noise on the port is answered and forgotten: it is its sender's business."""
    receiver, _ = await start()
    for noise in (b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"POST /v1/traces HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
            await stream.send(noise)
            assert (await receive(stream)).startswith(b"HTTP/1.0 400 ")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip, Compression.Deflate])
async def test_stock_exporter_delivers_through_overload(start: Any, consumer: Any, compression: Compression) -> None:
    """opentelemetry's own exporter retries a 503 and ends with success, every span once, in each of its encodings."""
    receiver, _ = await start()
    consumer.errors.append(StoreUnavailable("busy", retry_after_s=0.01))
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    for name in "abc":
        provider.get_tracer("test").start_span(name).end()

    def send() -> SpanExportResult:
        exporter = OTLPSpanExporter(f"http://{receiver.address}/v1/traces", compression=compression)
        try:
            return exporter.export(memory.get_finished_spans())
        finally:
            exporter.shutdown()

    assert await anyio.to_thread.run_sync(send) is SpanExportResult.SUCCESS
    assert consumer.spans == 3
    provider.shutdown()


async def test_plain_urllib_is_enough(start: Any, consumer: Any) -> None:
    """A sender needs nothing but an HTTP client and JSON."""
    receiver, _ = await start()

    def post() -> bytes:
        request = urllib.request.Request(
            f"http://{receiver.address}/v1/traces",
            json_of("a"),
            {"Content-Type": JSON},
        )
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 - our own address
            return bytes(response.read())

    assert await anyio.to_thread.run_sync(post) == b"{}"
    assert consumer.spans == 1


async def test_large_compressed_bodies_are_handled_off_the_loop(start: Any, consumer: Any, request_of: Request) -> None:
    """Bodies above the inline sizes are decompressed and decoded in threads, with the same outcome."""
    _, client = await start()
    body = zstd.compress(request_of(*[f"{number:0500}" for number in range(20_000)]))
    assert len(body) > 32 * 1024
    assert (await client.post(body, Content_Encoding="zstd")).code == 200
    assert consumer.spans == 20_000
