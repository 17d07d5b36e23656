"""OTLP exporters against a real backend that answers as it is told."""

import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bridge.errors import ConfigError
from bridge.exporters import ClientTls, NotTaken, Refused
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from tests.support.http2 import proxy
from tests.support.linked import body_of
from tests.support.sink import Sink, running_sink

pytestmark = pytest.mark.anyio

TLS = Path("tests/support/tls").absolute()
TOKEN = "Bearer very-secret-token"  # noqa: S105 -- that it is never shown is what is tested

Exporter = OtlpGrpcExporter | OtlpHttpExporter
Build = Callable[..., Exporter]


def over_grpc(sink: Sink, **options: Any) -> Exporter:
    return OtlpGrpcExporter("backend", f"http://127.0.0.1:{sink.grpc_port}", **options)


def over_http(sink: Sink, **options: Any) -> Exporter:
    return OtlpHttpExporter("backend", f"http://127.0.0.1:{sink.http_port}", **options)


BOTH = pytest.mark.parametrize("build", [over_grpc, over_http])


@BOTH
async def test_delivered_spans_are_at_the_backend(build: Build) -> None:
    """When deliver returns the backend has the request, byte for byte."""
    body = body_of(1, 2, 3)
    async with running_sink() as sink:
        exporter = build(sink)
        async with exporter.running():
            await exporter.deliver(body)
        assert sink.bodies == [body.data]
        assert (sink.totals().distinct, sink.totals().copies) == (3, 0)


RETRYABLE = ["cancelled", "deadline_exceeded", "aborted", "out_of_range", "unavailable", "data_loss"]
PERMANENT = ["invalid_argument", "resource_exhausted", "internal", "unknown", "failed_precondition"]
SETTINGS = ["unauthenticated", "permission_denied", "unimplemented"]


@pytest.mark.parametrize("status", RETRYABLE)
async def test_grpc_statuses_that_may_be_tried_again(status: str) -> None:
    """The statuses OTLP calls retryable raise NotTaken, with no time where the backend named none."""
    async with running_sink([status]) as sink:
        exporter = over_grpc(sink)
        async with exporter.running():
            with pytest.raises(NotTaken, match="scripted") as caught:
                await exporter.deliver(body_of(1))
    assert (caught.value.reason, caught.value.retry_after_s) == (status, None)


@pytest.mark.parametrize("status", PERMANENT)
async def test_grpc_statuses_that_are_final(status: str) -> None:
    """Every other status is final, RESOURCE_EXHAUSTED too where it comes without RetryInfo."""
    async with running_sink([status]) as sink:
        exporter = over_grpc(sink)
        async with exporter.running():
            with pytest.raises(Refused, match="scripted") as caught:
                await exporter.deliver(body_of(1))
    assert (caught.value.reason, caught.value.spans) == (status, None)


@pytest.mark.parametrize("status", SETTINGS)
async def test_grpc_statuses_about_settings_are_tried_again(status: str) -> None:
    """A wrong token or address says nothing against the spans: they are kept, and the error says what to look at."""
    async with running_sink([status]) as sink:
        exporter = over_grpc(sink)
        async with exporter.running():
            with pytest.raises(NotTaken, match="scripted; check the") as caught:
                await exporter.deliver(body_of(1))
    assert (caught.value.reason, caught.value.settings) == (status, True)


@pytest.mark.parametrize("status", ["resource_exhausted", "unavailable"])
async def test_grpc_retry_info_is_honoured(status: str) -> None:
    """With RetryInfo both statuses of overload are retryable and carry the backend's time."""
    async with running_sink([f"{status}:0.25"]) as sink:
        exporter = over_grpc(sink)
        async with exporter.running():
            with pytest.raises(NotTaken) as caught:
                await exporter.deliver(body_of(1))
    assert caught.value.retry_after_s == 0.25


@pytest.mark.parametrize(("status", "wait_s"), [(408, None), (429, 2), (502, None), (503, 7), (504, None)])
async def test_http_statuses_that_may_be_tried_again(status: int, wait_s: float | None) -> None:
    """408, 429, 502, 503 and 504 raise NotTaken with the time of Retry-After."""
    async with running_sink([f"http:{status}:{wait_s}" if wait_s else f"http:{status}"]) as sink:
        exporter = over_http(sink)
        async with exporter.running():
            with pytest.raises(NotTaken, match="scripted") as caught:
                await exporter.deliver(body_of(1))
    assert (caught.value.reason, caught.value.retry_after_s) == (f"http_{status}", wait_s)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407, 421])
async def test_http_statuses_about_settings_are_tried_again(status: int) -> None:
    """A wrong token or path says nothing against the spans: they are kept, and the error says what to look at."""
    async with running_sink([f"http:{status}"]) as sink:
        exporter = over_http(sink)
        async with exporter.running():
            with pytest.raises(NotTaken, match=f"{status} scripted; ") as caught:
                await exporter.deliver(body_of(1))
    assert (caught.value.reason, caught.value.settings) == (f"http_{status}", True)


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[OtlpHttpExporter]:
    """An exporter to a real backend that answers so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "localhost", 0).start()
        exporter = OtlpHttpExporter("backend", f"http://localhost:{runner.addresses[0][1]}")
        await stack.enter_async_context(exporter.running())
        yield exporter


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (302, {"location": "http://[bad/"}),
        (302, {"location": "http://℀/"}),
        (503, {"retry-after": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}),
        (503, {"retry-after": "Fri, 31 Dec 1999 23:59:59 +99999999999999999999"}),
    ],
)
async def test_headers_that_cannot_be_read_are_as_good_as_none(status: int, headers: dict[str, str]) -> None:
    """The body is tried again, as without them."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    async with answering(answer) as exporter:
        with pytest.raises(NotTaken) as caught:
            await exporter.deliver(body_of(1))
    assert (caught.value.reason, caught.value.retry_after_s) == (f"http_{status}", None)


async def test_no_cookie_is_kept() -> None:
    """They would make the head of each request longer, until no backend takes it."""
    cookies: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(len(request.cookies))
        response = web.Response()
        response.set_cookie(f"c{len(cookies)}", "x" * 100)
        return response

    async with answering(answer) as exporter:
        for _ in range(3):
            await exporter.deliver(body_of(1))
    assert cookies == [0, 0, 0]


async def test_a_partial_success_with_a_long_text_is_one() -> None:
    """It is read as a whole."""
    said = ExportTraceServiceResponse()
    said.partial_success.error_message, said.partial_success.rejected_spans = "x" * 100_000, 2

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=said.SerializeToString(), content_type="application/x-protobuf")

    async with answering(answer) as exporter:
        with pytest.raises(Refused) as caught:
            await exporter.deliver(body_of(1, 2, 3))
    assert (caught.value.reason, caught.value.spans) == ("partial_success", 2)


@asynccontextmanager
async def aborting(code: grpc.StatusCode, text: str) -> AsyncIterator[OtlpGrpcExporter]:
    """An exporter to a real gRPC backend that ends each call so."""

    async def export(_: bytes, context: Any) -> bytes:
        await context.abort(code, text)
        raise AssertionError

    server = grpc.aio.server()
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    exporter = OtlpGrpcExporter("backend", f"http://127.0.0.1:{port}")
    async with exporter.running():
        yield exporter
    await server.stop(0)


@pytest.mark.parametrize("size", [9_000, 40_000, 300_000])
async def test_a_long_text_does_not_hide_that_it_may_be_tried_again(size: int) -> None:
    """Beyond what our side of gRPC reads it makes a status of its own of it, which says nothing of the spans."""
    async with aborting(grpc.StatusCode.UNAVAILABLE, "x" * size) as exporter:
        with pytest.raises(NotTaken):
            await exporter.deliver(body_of(1))


async def test_a_size_limit_is_known_in_the_words_of_dotnet() -> None:
    """Grpc.AspNetCore's text."""
    text = "Received message exceeds the maximum configured message size."
    async with aborting(grpc.StatusCode.RESOURCE_EXHAUSTED, text) as exporter:
        with pytest.raises(Refused) as caught:
            await exporter.deliver(body_of(1))
    assert caught.value.too_large


@pytest.mark.parametrize("status", [301, 307, 402, 407, 408, 413, 421, 431, 500, 501])
async def test_what_a_proxy_answers_in_grpc_s_place_loses_nothing(status: int) -> None:
    """It says nothing of the spans, but for 413: the request is too large for it."""
    async with proxy(status) as port:
        exporter = OtlpGrpcExporter("backend", f"http://127.0.0.1:{port}")
        async with exporter.running():
            with pytest.raises((NotTaken, Refused), match=f"status: {status}") as caught:
                await exporter.deliver(body_of(1))
    if status == 413:
        assert isinstance(caught.value, Refused)
        assert caught.value.too_large
    else:
        assert isinstance(caught.value, NotTaken)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_named_and_not_followed(status: int) -> None:
    """Headers and spans go to nobody the settings do not name; the error has the host, and no query."""
    asked: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(
            status=status, headers={"location": "https://me:pw@login.example:8443/here?token=tokentoken"}
        )

    async with answering(redirect) as exporter:
        with pytest.raises(NotTaken, match=r"https://login\.example:8443; redirects are not followed") as caught:
            await exporter.deliver(body_of(1))
    assert caught.value.settings
    assert "token" not in str(caught.value)
    assert asked == ["/v1/traces"]


@pytest.mark.parametrize("status", [400, 413, 422, 500, 501])
async def test_http_statuses_that_are_final(status: int) -> None:
    """Every other status is final and says what the backend's google.rpc.Status says."""
    async with running_sink([f"http:{status}"]) as sink:
        exporter = over_http(sink)
        async with exporter.running():
            with pytest.raises(Refused, match=f"{status} scripted") as caught:
                await exporter.deliver(body_of(1))
        assert sink.totals().requests == 1
    assert caught.value.reason == f"http_{status}"


@BOTH
async def test_partial_success_loses_the_rejected_spans(build: Build) -> None:
    """A partial success is final: the number of rejected spans, and the backend's text."""
    async with running_sink(["partial:2:no room for you"]) as sink:
        exporter = build(sink)
        async with exporter.running():
            with pytest.raises(Refused, match="no room for you") as caught:
                await exporter.deliver(body_of(1, 2, 3))
    assert (caught.value.reason, caught.value.spans) == ("partial_success", 2)


@BOTH
async def test_a_warning_is_logged_once_a_minute(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    """A partial success that rejects nothing is a success with a warning, which an operator sees."""
    async with running_sink(["partial:0:you are near your limit"] * 3) as sink:
        exporter = build(sink)
        async with exporter.running():
            for span_id in (1, 2, 3):
                await exporter.deliver(body_of(span_id))
    warnings = [record.warning for record in caplog.records if hasattr(record, "warning")]
    assert warnings == ["you are near your limit"]


@BOTH
async def test_silent_backend_is_retryable(build: Build) -> None:
    """A backend that does not answer within the timeout did not take the body."""
    async with running_sink(["hang"]) as sink:
        exporter = build(sink, timeout_s=0.1)
        async with exporter.running():
            with pytest.raises(NotTaken) as caught:
                await exporter.deliver(body_of(1))
    assert caught.value.reason in ("deadline_exceeded", "timeout")


@BOTH
async def test_an_attempt_that_is_given_up_ends_itself_alone(build: Build) -> None:
    """Cancelling one scope around it ends neither its task nor others, and the next attempt is answered."""
    async with running_sink(["hang", "hang"]) as sink:
        exporter = build(sink, timeout_s=20.0)
        async with exporter.running(), anyio.create_task_group() as tasks:
            tasks.start_soon(exporter.deliver, body_of(1))
            await sink.arrived.wait()
            with anyio.move_on_after(0.3) as limit:
                await exporter.deliver(body_of(2))
            assert limit.cancelled_caught
            await exporter.deliver(body_of(3))
            assert not tasks.cancel_scope.cancel_called
            tasks.cancel_scope.cancel()
        assert sink.totals().distinct == 1


@BOTH
async def test_absent_backend_is_retryable_until_it_comes(build: Build) -> None:
    """Nobody listening is retryable, and the same exporter delivers once somebody does."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sink = Sink()
    sink.grpc_port = sink.http_port = port
    exporter = build(sink)
    async with exporter.running():
        with pytest.raises(NotTaken):
            await exporter.deliver(body_of(1))
        ports = {"grpc_port": port} if build is over_grpc else {"http_port": port}
        async with sink.running(**ports):
            while not sink.bodies:
                try:
                    await exporter.deliver(body_of(1))
                except NotTaken:
                    continue  # the channel still waits before it connects again
    assert sink.totals().distinct == 1


@BOTH
async def test_compressed_bodies_are_read_by_a_stock_backend(build: Build) -> None:
    """With gzip the request is the same after decompression."""
    request = body_of(*range(1, 100))
    async with running_sink() as sink:
        exporter = build(sink, compression="gzip")
        # over HTTP a body is compressed when it is made
        sent = type(request)(gzip.compress(request.data), 99) if build is over_http else request
        async with exporter.running():
            await exporter.deliver(sent)
        assert sink.bodies == [request.data]
        encoding = "content-encoding" if build is over_http else "grpc-encoding"
        assert sink.headers[0].get(encoding, "gzip") == "gzip"


@BOTH
async def test_headers_are_sent_and_never_shown(build: Build) -> None:
    """Configured headers reach the backend; no repr and no error shows them, not even where the backend echoes them."""
    async with running_sink(["unauthenticated::unknown token very-secret-token"]) as sink:
        exporter = build(sink, headers={"Authorization": TOKEN, "X-Scope": "tenant-1"})
        async with exporter.running():
            with pytest.raises(NotTaken, match=r"unknown token \*\*\*") as caught:
                await exporter.deliver(body_of(1))
        assert sink.headers[0]["authorization"] == TOKEN
        assert sink.headers[0]["x-scope"] == "tenant-1"
    shown = [repr(exporter), str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
    assert not [text for text in shown if "very-secret" in text]


@BOTH
async def test_exporters_can_be_run_again(build: Build) -> None:
    """What running held is released; the next running begins anew."""
    async with running_sink() as sink:
        exporter = build(sink)
        for span_id in (1, 2):
            async with exporter.running():
                await exporter.deliver(body_of(span_id))
        assert sink.totals().distinct == 2


@pytest.mark.parametrize("build", [OtlpGrpcExporter, OtlpHttpExporter])
async def test_tls_with_client_certificate(build: Build) -> None:
    """An https endpoint is reached with the given authority, and the client's certificate is shown to it."""
    tls = ClientTls(TLS / "ca.pem", TLS / "client.pem", TLS / "client.key")
    async with Sink().running(tls_files=TLS) as sink:
        port = sink.grpc_port if build is OtlpGrpcExporter else sink.http_port
        exporter = build("backend", f"https://localhost:{port}", tls=tls)
        async with exporter.running():
            await exporter.deliver(body_of(1))
        assert sink.totals().distinct == 1


@pytest.mark.parametrize("build", [OtlpGrpcExporter, OtlpHttpExporter])
async def test_backend_of_an_unknown_authority_gets_nothing(build: Build) -> None:
    """A server certificate that nobody we trust signed is a failed delivery."""
    async with Sink().running(tls_files=TLS) as sink:
        port = sink.grpc_port if build is OtlpGrpcExporter else sink.http_port
        exporter = build("backend", f"https://localhost:{port}")
        async with exporter.running():
            with pytest.raises(NotTaken):
                await exporter.deliver(body_of(1))
        assert sink.totals().requests == 0


@pytest.mark.parametrize("build", [OtlpGrpcExporter, OtlpHttpExporter])
@pytest.mark.parametrize(
    "tls", [ClientTls(ca_file=Path("/nowhere/ca.pem")), ClientTls(cert_file=TLS / "client.pem", key_file=None)]
)
async def test_tls_files_that_cannot_be_used_are_config_errors(build: Build, tls: ClientTls) -> None:
    """A file that is not there, or a certificate without its key, ends the start."""
    exporter = build("backend", "https://127.0.0.1:1", tls=tls)
    with pytest.raises(ConfigError, match="TLS"):
        async with exporter.running():
            pass
