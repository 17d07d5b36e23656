"""What `bridge.component.Exporter` promises, kept by every exporter."""

import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

pytest.importorskip("bridge.codec.otlp_encode")
pytest.importorskip("bridge.codec.otlp_json")

from bridge.component import Exporter
from bridge.errors import RetryableError
from bridge.exporters import ConsoleExporter, FileExporter
from bridge.exporters.dataway import DatawayExporter
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from tests.support.dataway import running_dataway
from tests.support.linked import linked_spans
from tests.support.sink import Sink, running_sink

pytestmark = pytest.mark.anyio


@dataclass
class Case:
    """An exporter, one whose backend takes nothing, and how many spans the backend of the first has."""

    exporter: Exporter
    stuck: Exporter
    spans: Callable[[], int]


class ClosedPipe(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


@asynccontextmanager
async def over_grpc(sink: Sink, _: Path, **options: str) -> AsyncIterator[Case]:
    stuck = OtlpGrpcExporter("x", "http://127.0.0.1:1")
    exporter = OtlpGrpcExporter("x", f"http://127.0.0.1:{sink.grpc_port}", **options)  # type: ignore[arg-type]
    yield Case(exporter, stuck, lambda: sink.totals().distinct)


@asynccontextmanager
async def over_grpc_gzip(sink: Sink, folder: Path) -> AsyncIterator[Case]:
    async with over_grpc(sink, folder, compression="gzip") as case:
        yield case


@asynccontextmanager
async def over_http(sink: Sink, _: Path, **options: str) -> AsyncIterator[Case]:
    stuck = OtlpHttpExporter("x", "http://127.0.0.1:1")
    exporter = OtlpHttpExporter("x", f"http://127.0.0.1:{sink.http_port}", **options)  # type: ignore[arg-type]
    yield Case(exporter, stuck, lambda: sink.totals().distinct)


@asynccontextmanager
async def over_http_gzip(sink: Sink, folder: Path) -> AsyncIterator[Case]:
    async with over_http(sink, folder, compression="gzip") as case:
        yield case


@asynccontextmanager
async def to_dataway(_: Sink, __: Path, **options: str) -> AsyncIterator[Case]:
    stuck = DatawayExporter("x", "http://127.0.0.1:1?token=tkn_x")
    async with running_dataway() as dataway:
        exporter = DatawayExporter("x", dataway.url, **options)  # type: ignore[arg-type]
        yield Case(exporter, stuck, lambda: dataway.totals().distinct)


@asynccontextmanager
async def to_dataway_in_lines(sink: Sink, folder: Path) -> AsyncIterator[Case]:
    async with to_dataway(sink, folder, form="line_protocol", compression="none") as case:
        yield case


@asynccontextmanager
async def file(_: Sink, folder: Path) -> AsyncIterator[Case]:
    path = folder / "traces.jsonl"
    stuck = FileExporter("x", Path("/dev/full"))
    yield Case(FileExporter("x", path), stuck, lambda: len(set(re.findall(r'"spanId":"(\w+)"', path.read_text()))))


@asynccontextmanager
async def console(_: Sink, __: Path) -> AsyncIterator[Case]:
    stream = io.StringIO()
    yield Case(ConsoleExporter("x", stream), ConsoleExporter("x", ClosedPipe()), lambda: stream.getvalue().count(" ms"))


@pytest.fixture(
    params=[over_grpc, over_grpc_gzip, over_http, over_http_gzip, to_dataway, to_dataway_in_lines, file, console]
)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async with running_sink() as sink, request.param(sink, tmp_path) as case:
        yield case


async def test_every_span_of_a_tick_is_delivered(case: Case) -> None:
    """The bodies of linked spans hold each of them once, and once delivered they are at the backend."""
    bodies = list(case.exporter.encode(linked_spans(100)))
    assert sum(body.spans for body in bodies) == 100
    async with case.exporter.running():
        for body in bodies:
            await case.exporter.deliver(body)
    # on the console each of the 13 traces has a heading with a duration of its own
    assert case.spans() in (100, 100 + 13)


async def test_bodies_are_equal_whenever_they_are_made(case: Case) -> None:
    """Encoding the same linked spans again gives the same bytes."""
    assert list(case.exporter.encode(linked_spans(50))) == list(case.exporter.encode(linked_spans(50)))


async def test_no_spans_are_no_bodies(case: Case) -> None:
    """Of nothing nothing is sent."""
    assert list(case.exporter.encode(linked_spans(0))) == []


async def test_backend_that_cannot_take_is_retryable(case: Case) -> None:
    """A backend that is not there, full or closed raises RetryableError with a text; nothing hangs."""
    (body,) = case.stuck.encode(linked_spans(1))
    async with case.stuck.running():
        with anyio.fail_after(20), pytest.raises(RetryableError, match=r".+"):
            await case.stuck.deliver(body)


async def test_bodies_may_be_delivered_at_once(case: Case) -> None:
    """Several deliveries at the same time do not disturb each other."""
    async with case.exporter.running(), anyio.create_task_group() as tasks:
        for tick in range(1, 9):
            for body in case.exporter.encode(linked_spans(8, tick=tick)):
                tasks.start_soon(case.exporter.deliver, body)
    assert case.spans() in (64, 64 + 8)


async def test_running_again_begins_anew(case: Case) -> None:
    """What an exporter held is released when running ends, and held again by the next."""
    for tick in (1, 2):
        async with case.exporter.running():
            for body in case.exporter.encode(linked_spans(8, tick=tick)):
                await case.exporter.deliver(body)
    assert case.spans() in (16, 16 + 2)
