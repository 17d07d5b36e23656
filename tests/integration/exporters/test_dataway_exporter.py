"""The Dataway exporter against a real server that answers as it is told."""

import gzip
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from bridge.component import Body
from bridge.errors import ConfigError
from bridge.exporters import ClientTls, NotTaken, Refused
from bridge.exporters.dataway import DatawayExporter
from tests.support.dataway import TOKEN, Dataway, PBPoints, running_dataway
from tests.support.linked import linked_spans
from tests.support.points import linked_points

pytestmark = pytest.mark.anyio

TLS = Path("tests/support/tls").absolute()


def body_of(*span_ids: int) -> Body:
    """A body of plain points, as an exporter would make it without compression."""
    message = PBPoints()
    for span_id in span_ids:
        point = message.arr.add(name="dketrace", time=10**18)
        for key in ("trace_id", "resource"):
            point.fields.add(key=key, s="x")
        point.fields.add(key="parent_id", s="0")
        point.fields.add(key="span_id", s=f"{span_id:016x}")
        for key in ("start", "duration"):
            point.fields.add(key=key, i=1)
    return Body(message.SerializeToString(), len(span_ids))


def exporter_to(dataway: Dataway, **options: Any) -> DatawayExporter:
    return DatawayExporter("guance", dataway.url, **{"compression": "none"} | options)


async def test_a_delivered_body_is_at_the_dataway(caplog) -> None:
    """With the headers DataKit sends, and the query as it is in the URL."""
    body = body_of(1, 2, 3)
    async with running_dataway() as dataway:
        exporter = DatawayExporter("guance", dataway.url + "&x=a%2Fb", compression="none")
        async with exporter.running():
            await exporter.deliver(body)
        assert dataway.bodies == [body.data]
        assert dataway.queries == [f"token={TOKEN}&x=a%2Fb"]
    (headers,) = dataway.headers
    assert headers["x-points"] == "3"
    assert headers["content-type"] == "application/protobuf; proto=com.guance.Point"
    assert headers["user-agent"].startswith("espan-bridge/")
    assert headers["x-pkg-id"].startswith("dk_")
    assert not {"content-encoding", "x-global-tags"} & headers.keys()


async def test_a_body_has_one_package_id_however_often_it_is_sent() -> None:
    """Another body has another one."""
    async with running_dataway(["503"]) as dataway:
        exporter = exporter_to(dataway)
        async with exporter.running():
            with pytest.raises(NotTaken):
                await exporter.deliver(body_of(1))
            await exporter.deliver(body_of(1))
            await exporter.deliver(body_of(2))
    first, again, other = (headers["x-pkg-id"] for headers in dataway.headers)
    assert first == again != other


@pytest.mark.parametrize("form", ["protobuf", "line_protocol"])
@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_linked_spans_are_read_by_the_dataway(form, compression) -> None:
    """Points and OTLP spans, in both forms: every span is there once, within Guance's limits."""
    async with running_dataway() as dataway:
        exporter = exporter_to(dataway, form=form, compression=compression, global_tags={"cluster_name_k8s": "blue"})
        async with exporter.running():
            for linked in (linked_points(60), linked_spans(40, tick=2)):
                for body in exporter.encode(linked):
                    await exporter.deliver(body)
        assert dataway.faults == []
        assert (dataway.totals().points, dataway.totals().distinct) == (100, 100)
    assert {point.tags["cluster_name_k8s"] for point in dataway.points} == {"blue"}
    assert {headers.get("content-encoding", "none") for headers in dataway.headers} == {compression}


async def test_bodies_keep_the_limit_before_compression() -> None:
    """Several bodies, none of them larger; a point that is larger by itself goes alone."""
    exporter = DatawayExporter("guance", "http://x?token=t", compression="none", max_bytes=4_000)
    bodies = list(exporter.encode(linked_points(50)))
    assert len(bodies) > 5
    assert all(len(body.data) <= 4_000 for body in bodies)
    tiny = DatawayExporter("guance", "http://x?token=t", compression="none", max_bytes=10)
    assert [body.spans for body in tiny.encode(linked_points(5))] == [1] * 5


@pytest.mark.parametrize(
    ("answer", "wait_s"), [("408", None), ("429:3", 3.0), ("500", None), ("502", None), ("503:7", 7.0), ("302", None)]
)
async def test_statuses_that_are_tried_again(answer: str, wait_s: float | None) -> None:
    """408 and 429 too, which DataKit drops; Retry-After is honoured."""
    async with running_dataway([answer]) as dataway:
        exporter = exporter_to(dataway)
        async with exporter.running():
            with pytest.raises(NotTaken, match="scripted") as caught:
                await exporter.deliver(body_of(1))
        assert dataway.totals().requests == 1
    assert (caught.value.reason, caught.value.retry_after_s) == (f"http_{answer[:3]}", wait_s)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_wrong_token_or_address_is_tried_again(status: int) -> None:
    """It says nothing against the spans; with the Dataway's own words, but without the token it repeats in them."""
    async with running_dataway([f"{status}"]) as dataway:
        exporter = exporter_to(dataway)
        async with exporter.running():
            with pytest.raises(NotTaken, match=f"{status} .*scripted answer to /v1/write/tracing.*; check") as caught:
                await exporter.deliver(body_of(1))
    assert (caught.value.reason, caught.value.settings) == (f"http_{status}", True)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_other_statuses_of_a_client_error_are_final(status: int) -> None:
    """With the Dataway's own words, but without the token it repeats in them."""
    async with running_dataway([f"{status}"]) as dataway:
        exporter = exporter_to(dataway)
        async with exporter.running():
            with pytest.raises(Refused, match=f"{status} .*scripted answer to /v1/write/tracing") as caught:
                await exporter.deliver(body_of(1))
    assert (caught.value.reason, caught.value.spans) == (f"http_{status}", None)
    assert TOKEN not in str(caught.value)
    assert f"http://127.0.0.1:{dataway.port}" in str(caught.value)


def with_bad(body: Body, *bad: int) -> Body:
    """The body, in which points at these places have a key without a name, which a Dataway does not take."""
    message = PBPoints.FromString(body.data)
    for place in bad:
        message.arr[place].fields.add(key="", s="x")
    return Body(message.SerializeToString(), body.spans)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("bad", [(0,), (99,), (41, 42), (3, 50, 97)])
async def test_a_point_that_is_not_taken_does_not_cost_the_others(compression: str, bad: tuple[int, ...]) -> None:
    """A Dataway refuses the whole body for it: halves are sent until it is found."""
    whole = with_bad(body_of(*range(1, 101)), *bad)
    packed = Body(gzip.compress(whole.data) if compression == "gzip" else whole.data, whole.spans)
    async with running_dataway() as dataway:
        exporter = exporter_to(dataway, compression=compression)
        async with exporter.running():
            with pytest.raises(Refused, match="key ''") as caught:
                await exporter.deliver(packed)
        totals = dataway.totals()
    assert (caught.value.reason, caught.value.spans) == ("http_400", len(bad))
    assert (totals.points, totals.distinct) == (100 - len(bad), 100 - len(bad))
    assert totals.requests <= 2 * 8 * len(bad) + 1


async def test_a_dataway_that_takes_no_part_is_not_asked_for_each_point() -> None:
    """It is not a point that is to blame then."""
    async with running_dataway() as dataway:
        dataway.always("400")
        exporter = exporter_to(dataway)
        async with exporter.running():
            with pytest.raises(Refused) as caught:
                await exporter.deliver(body_of(*range(1, 2001)))
        assert dataway.totals().requests <= 40
    assert caught.value.spans is None


async def test_a_body_that_is_too_large_for_a_dataway_is_sent_in_parts() -> None:
    """413, as a proxy before it answers: halves until they fit, and the next body at once in such parts."""
    async with running_dataway(["413", "413"]) as dataway:
        exporter = exporter_to(dataway)
        async with exporter.running():
            await exporter.deliver(body_of(*range(1, 101)))
            requests = dataway.totals().requests
            await exporter.deliver(body_of(*range(101, 201)))
        totals = dataway.totals()
    assert (totals.points, totals.distinct) == (200, 200)
    assert (requests, totals.requests - requests, totals.refused) == (6, 4, 2)


async def test_lines_are_refused_as_a_whole() -> None:
    """A text may have line ends in it, so that nobody knows where a point begins."""
    async with running_dataway(["400"]) as dataway:
        exporter = exporter_to(dataway, form="line_protocol")
        async with exporter.running():
            with pytest.raises(Refused) as caught:
                await exporter.deliver(Body(b"m a=1i 1\nm a=2i 2", 2))
        assert dataway.totals().requests == 1
    assert caught.value.spans is None


async def test_a_used_up_quota_is_called_so() -> None:
    """403 with beyondDataUsage is no matter of rights, and none of the spans: they are kept until there is room."""
    async with running_dataway(["403::kodo.beyondDataUsage"]) as dataway:
        exporter = exporter_to(dataway)
        async with exporter.running():
            with pytest.raises(NotTaken, match="quota is used up") as caught:
                await exporter.deliver(body_of(1))
    assert caught.value.reason == "beyond_data_usage"


async def test_a_dataway_that_does_not_answer_is_tried_again() -> None:
    """Within the timeout of one attempt."""
    async with running_dataway(["hang"]) as dataway:
        exporter = exporter_to(dataway, timeout_s=0.1)
        async with exporter.running():
            with pytest.raises(NotTaken, match=r"no answer in 0\.1 s") as caught:
                await exporter.deliver(body_of(1))
    assert caught.value.reason == "timeout"


async def test_a_dataway_that_is_not_there_is_tried_again() -> None:
    """The text has the address, not the token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        exporter = DatawayExporter("guance", f"http://127.0.0.1:{port}?token={TOKEN}")
        async with exporter.running():
            with pytest.raises(NotTaken, match=f"http://127.0.0.1:{port}: ") as caught:
                await exporter.deliver(body_of(1))
    assert caught.value.reason == "connection"
    assert TOKEN not in str(caught.value)


async def until_logged(caplog, text: str) -> logging.LogRecord:
    with anyio.fail_after(10):
        while True:
            for record in caplog.records:
                if record.message == text:
                    return record
            await anyio.sleep(0.01)


async def test_the_token_is_checked_at_the_start(caplog) -> None:
    """A known one is nothing to talk about."""
    async with running_dataway() as dataway, exporter_to(dataway).running():
        with anyio.fail_after(10):
            await dataway.checked.wait()
    assert dataway.checked_tokens == [TOKEN]
    assert caplog.records == []


async def test_an_unknown_token_is_a_warning_and_no_stop(caplog) -> None:
    """The exporter goes on; the token is not shown, also where the Dataway repeats it."""
    async with running_dataway() as dataway:
        url = dataway.url.replace(TOKEN, "tkn_other")
        async with DatawayExporter("guance", url, compression="none").running():
            record = await until_logged(caplog, "the Dataway does not know the token")
    assert "403" in record.error
    assert "tkn_other" not in caplog.text + str(vars(record))


async def test_a_dataway_that_is_away_at_the_start_is_a_warning(caplog) -> None:
    """The same for a URL without a token."""
    async with DatawayExporter("guance", f"http://127.0.0.1:1?token={TOKEN}").running():
        record = await until_logged(caplog, "the Dataway's token could not be checked")
    assert TOKEN not in str(vars(record))
    async with DatawayExporter("guance", "http://127.0.0.1:1").running():
        await until_logged(caplog, "the Dataway's url has no token")


async def test_global_tags_travel_as_a_header_with_a_sinker() -> None:
    """Sorted by their names."""
    async with running_dataway() as dataway:
        exporter = exporter_to(dataway, sinker=True, global_tags={"host": "h", "cluster": "c"})
        async with exporter.running():
            await exporter.deliver(body_of(1))
    assert dataway.headers[0]["x-global-tags"] == "cluster=c,host=h"


async def test_global_tags_travel_in_utf8() -> None:
    """As Go's client sends them; control characters would end the header, and are a config error."""
    async with running_dataway() as dataway:
        exporter = exporter_to(dataway, sinker=True, global_tags={"项目": "é 商店"})
        async with exporter.running():
            await exporter.deliver(body_of(1))
    assert dataway.raw_headers[0][b"x-global-tags"] == "项目=é 商店".encode()
    for text in ("a\r\nx: y", "a\0", "a\x85"):
        with pytest.raises(ConfigError):
            exporter_to(dataway, sinker=True, global_tags={"project": text})


async def test_an_http_proxy_is_gone_through() -> None:
    """It gets the request in full; the Dataway is reached by it alone."""
    async with proxy() as (address, asked):
        exporter = DatawayExporter("guance", "http://dataway.invalid?token=t", compression="none", proxy=address)
        async with exporter.running():
            await exporter.deliver(body_of(1))
    assert "http://dataway.invalid/v1/write/tracing?token=t" in asked


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(str(request.url))
        return web.Response()

    server = web.ServerRunner(web.Server(handle))
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{server.addresses[0][1]}", asked
    await server.cleanup()


@pytest.fixture
async def https_dataway() -> AsyncIterator[str]:
    """URL of a Dataway with a certificate of the tests' own authority, which takes everything."""

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}?token={TOKEN}"
    await runner.cleanup()


async def test_certificates_are_verified_unless_told_otherwise(https_dataway: str) -> None:
    """An authority of one's own can be named; insecure_skip_verify takes any certificate."""
    for options in ({"tls": ClientTls(ca_file=TLS / "ca.pem")}, {"tls": ClientTls(verify=False)}):
        exporter = DatawayExporter("guance", https_dataway, compression="none", **options)
        async with exporter.running():
            await exporter.deliver(body_of(1))
    stranger = DatawayExporter("guance", https_dataway, compression="none")
    async with stranger.running():
        with pytest.raises(NotTaken, match="certificate"):
            await stranger.deliver(body_of(1))


def test_what_is_no_dataway_url_is_a_config_error() -> None:
    """Without showing it."""
    for url in ("dataway:9528?token=s3cr3t", "ftp://h?token=s3cr3t", "https://?token=s3cr3t"):
        with pytest.raises(ConfigError) as caught:
            DatawayExporter("guance", url)
        assert "s3cr3t" not in str(caught.value)


def test_no_repr_shows_the_token() -> None:
    """Nor user and password."""
    exporter = DatawayExporter("guance", f"https://u:pass@openway.guance.com/x?token={TOKEN}")
    assert repr(exporter) == "DatawayExporter('guance', https://openway.guance.com)"


async def test_deliver_needs_running() -> None:
    """A mistake in the code that uses it."""
    with pytest.raises(RuntimeError):
        await DatawayExporter("guance", "http://h?token=t").deliver(body_of(1))
