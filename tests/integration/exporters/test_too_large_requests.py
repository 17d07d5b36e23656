"""Requests over the limit of a backend."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.component import Body
from bridge.exporters import NotTaken, Refused
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from bridge.exporters.otlp.cutting import cut_request
from tests.support.linked import body_of
from tests.support.sink import span_ids

pytestmark = pytest.mark.anyio

LIMIT, PACKED_LIMIT = 3000, 250


class Small:
    """A real backend that takes requests up to a limit."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.refused = 0
        self.port = 0
        self.away_after: int | None = None

    def take(self, body: bytes) -> None:
        self.ids += span_ids(body).tolist()


@asynccontextmanager
async def small_grpc(**options: Any) -> AsyncIterator[tuple[Small, OtlpGrpcExporter]]:
    small = Small()

    async def export(body: bytes, context: Any) -> bytes:
        if small.away_after is not None and len(small.ids) >= small.away_after:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        small.take(body)
        return b""

    # the server's own limit, and its own words
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", LIMIT)])
    handler = grpc.unary_unary_rpc_method_handler(export)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    small.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    exporter = OtlpGrpcExporter("x", f"http://127.0.0.1:{small.port}", **options)
    async with exporter.running():
        yield small, exporter
    await server.stop(0)


@asynccontextmanager
async def small_http(limit: int = LIMIT, **options: Any) -> AsyncIterator[tuple[Small, OtlpHttpExporter]]:
    small = Small()

    async def post(request: web.Request) -> web.Response:
        body = await request.read()
        if small.away_after is not None and len(small.ids) >= small.away_after:
            return web.Response(status=503)
        if (request.content_length or 0) > limit:
            small.refused += 1
            return web.Response(status=413, text="too large")
        small.take(body)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    exporter = OtlpHttpExporter("x", f"http://127.0.0.1:{runner.addresses[0][1]}", **options)
    async with exporter.running():
        yield small, exporter
    await runner.cleanup()


@asynccontextmanager
async def small_http_gzip() -> AsyncIterator[tuple[Small, OtlpHttpExporter]]:
    async with small_http(PACKED_LIMIT, compression="gzip") as both:
        yield both


def body_for(exporter: OtlpGrpcExporter | OtlpHttpExporter, *ids: int, attributes: str = "") -> Body:
    """As the exporter encodes it; with the attribute the last span is too large by itself."""
    request = ExportTraceServiceRequest.FromString(body_of(*ids).data)
    if attributes:
        span = request.resource_spans[-1].scope_spans[-1].spans[-1]
        span.attributes.add(key="text").value.string_value = attributes
    data = request.SerializeToString()
    return Body(exporter._packed(data) if isinstance(exporter, OtlpHttpExporter) else data, len(ids))


BACKENDS = pytest.mark.parametrize("backend", [small_grpc, small_http, small_http_gzip])
Backend = Callable[..., Any]


@BACKENDS
async def test_a_request_that_is_too_large_is_sent_in_parts(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Every span arrives once, and the log says once which setting to lower."""
    ids = list(range(1, 201))
    async with backend() as (small, exporter):
        await exporter.deliver(body_for(exporter, *ids))
        await exporter.deliver(body_for(exporter, *range(201, 401)))
        assert small.ids == list(range(1, 401))
    assert [r.levelname for r in caplog.records if re.search("lower max_batch_bytes", r.message)] == ["WARNING"]


@BACKENDS
async def test_a_span_that_is_too_large_is_refused_alone(backend: Backend) -> None:
    """The others of its request are taken."""
    text = "".join(f"{n * n:x}" for n in range(2000))
    async with backend() as (small, exporter):
        with pytest.raises(Refused) as caught:
            await exporter.deliver(body_for(exporter, *range(1, 21), attributes=text))
        assert small.ids == list(range(1, 20))
    assert caught.value.spans == 1
    assert caught.value.reason in ("resource_exhausted", "http_413")


@BACKENDS
async def test_a_request_goes_on_where_it_stopped(backend: Backend) -> None:
    """A backend that takes one part at a time gets through all of it, each span once."""
    body_ids = list(range(1, 201))
    async with backend() as (small, exporter):
        attempts = 0
        while len(small.ids) < len(body_ids):
            small.away_after = len(small.ids) + 1
            attempts += 1
            try:
                await exporter.deliver(body_for(exporter, *body_ids))
            except NotTaken:
                assert attempts < 100
        assert attempts > 1
        assert small.ids == body_ids
        small.away_after = None
        await exporter.deliver(body_for(exporter, *body_ids))  # it was done: this is another one
        assert small.ids == body_ids * 2


async def test_what_is_refused_is_told_when_the_rest_is_done() -> None:
    """Also where the request stopped in between."""
    text = "".join(f"{n * n:x}" for n in range(2000))
    async with small_http() as (small, exporter):
        body = body_for(exporter, *range(1, 21), attributes=text)
        back = ExportTraceServiceRequest.FromString(body.data)
        spans = back.resource_spans[0].scope_spans[0].spans
        spans.sort(key=lambda span: -len(span.attributes))  # the one that is too large comes first
        turned = Body(back.SerializeToString(), 20)
        small.away_after = 5
        with pytest.raises(NotTaken):
            await exporter.deliver(turned)
        (begun,) = exporter._parts._begun.values()
        assert begun.why is not None
        assert (begun.why.__traceback__, begun.why.__context__) == (None, None)  # they would hold on to the request
        small.away_after = None
        with pytest.raises(Refused) as caught:
            await exporter.deliver(turned)
        assert len(small.ids) == len(set(small.ids)) == 19
    assert caught.value.spans == 1


async def test_a_size_that_was_too_large_is_not_tried_again() -> None:
    """Each request of that size would cost its bytes for nothing."""
    async with small_http() as (small, exporter):
        await exporter.deliver(body_for(exporter, *range(1, 201)))
        refused = small.refused
        await exporter.deliver(body_for(exporter, *range(201, 401)))
    assert refused > 0
    assert small.refused == refused
    assert small.ids == list(range(1, 401))


@given(st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=3), st.data())
def test_parts_are_the_whole(shape: list[list[int]], data: st.DataObject) -> None:
    """Two parts with all spans in order, each under its resource and scope, and nothing empty."""
    request, number = ExportTraceServiceRequest(), 0
    for resource, scopes in enumerate(shape):
        group = request.resource_spans.add(schema_url=f"r{resource}")
        for scope, spans in enumerate(scopes):
            into = group.scope_spans.add(schema_url=f"r{resource}s{scope}")
            for _ in range(spans):
                number += 1
                into.spans.add(span_id=number.to_bytes(8, "big"), name=into.schema_url)
    at = data.draw(st.integers(0, number))
    parts = [cut_request(request.SerializeToString(), *part) for part in ((0, at), (at, number))]
    read = [ExportTraceServiceRequest.FromString(part) for part in parts]
    each = [[s for group in part.resource_spans for s in group.scope_spans] for part in read]
    assert [span.span_id for s in each[0] + each[1] for span in s.spans] == [
        n.to_bytes(8, "big") for n in range(1, number + 1)
    ]
    assert sum(len(s.spans) for s in each[0]) == at
    assert all(s.spans and span.name == s.schema_url for scopes in each for s in scopes for span in s.spans)
