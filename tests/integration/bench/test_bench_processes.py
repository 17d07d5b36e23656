"""The bench's own processes: sinks that count exactly, and children that are watched."""

import http.client
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from isal import igzip

from bridge.cli.simulation import SPANS_PER_TRACE, Simulation
from tests.bench.children import Child, RunFailed, child
from tests.bench.otlp_sink import SERVICE, ids_and_ends

TRACES, START_NS = 8192, 1_700_000_000_000_000_000


@pytest.fixture
def cores() -> set[int]:
    return os.sched_getaffinity(0)


@pytest.fixture
def otlp_sink(cores: set[int]) -> Iterator[tuple[Child, Any]]:
    """A sink, and its Export method."""
    with child("sink", "tests.bench.otlp_sink", cores=cores) as sink:
        target = urlsplit(sink.event("endpoint")["endpoint"]).netloc
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(target, options) as channel:
            yield sink, channel.unary_unary(f"/{SERVICE}/Export")


def bodies(*, points: bool, batch: int) -> list[bytes]:
    simulation = Simulation(points=points)
    starts = np.uint64(START_NS) + np.arange(TRACES, dtype=np.uint64)
    return [request.data for request in simulation.requests(simulation.traces(0, starts), batch)]


def test_otlp_sink_counts_large_requests_exactly(otlp_sink: tuple[Child, Any]) -> None:
    """8,192 spans a request: each once, the copies of one request, and how late the spans are."""
    sink, export = otlp_sink
    requests = bodies(points=False, batch=8192)
    for body in (*requests, requests[-1]):
        export(body)
    totals = sink.ask("totals")
    spans = TRACES * SPANS_PER_TRACE
    assert (totals["distinct"], totals["spans"], totals["copies"]) == (spans, spans + 8192, 8192)
    assert sink.ask("spans")["spans"] == spans + 8192
    assert totals["late_p99_s"] == pytest.approx(totals["last_ns"] / 1e9 - START_NS / 1e9, rel=1e-3)


def test_a_closed_sink_takes_nothing(otlp_sink: tuple[Child, Any]) -> None:
    """It refuses as a backend does that is to be asked again, and takes everything once it is open."""
    sink, export = otlp_sink
    body = bodies(points=False, batch=90)[0]
    sink.ask("close")
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        export(body)
    sink.ask("open")
    export(body)
    totals = sink.ask("totals")
    assert (totals["requests"], totals["refused"], totals["distinct"]) == (2, 1, 90)


def test_an_id_of_the_wrong_length_is_noticed() -> None:
    """Two wrong ones do not make up for each other."""
    spans = b"".join(b"\x12" + bytes([2 + n]) + b"\x12" + bytes([n]) + b"i" * n for n in (7, 9))
    scope = b"\x12" + bytes([len(spans)]) + spans
    with pytest.raises(ValueError, match="8 bytes"):
        ids_and_ends(b"\x0a" + bytes([len(scope)]) + scope)


def test_dataway_sink_counts_points_exactly(cores: set[int]) -> None:
    """Each once, copies apart; a body that has not the points it declares is refused."""
    requests = bodies(points=True, batch=1170)[:3]
    with child("sink", "tests.bench.dataway_sink", cores=cores) as sink:
        url = urlsplit(sink.event("endpoint")["endpoint"])
        connection = http.client.HTTPConnection(url.netloc, timeout=10)
        for body, declared in (*((body, 1170) for body in (*requests, requests[0])), (requests[1], 1169)):
            headers = {"Content-Encoding": "gzip", "X-Points": str(declared)}
            connection.request("POST", "/v1/write/tracing", igzip.compress(body, 1), headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == (200 if declared == 1170 else 400)
        connection.close()
        totals = sink.ask("totals")
    assert (totals["distinct"], totals["spans"], totals["copies"]) == (3 * 1170, 4 * 1170, 1170)


def test_a_child_that_writes_much_is_not_held_up(cores: set[int]) -> None:
    """Its output is read while nobody asks for it: here, far more than a pipe holds before the answer."""
    program = "print('x' * 2**22); print('{\"done\": 1}')"
    with child("talker", "timeit", "-n", "1", "-r", "1", program, cores=cores) as talker:
        assert talker.event("done", 30) == {"done": 1}


def test_a_child_that_fails_stops_the_run(cores: set[int]) -> None:
    """With what it wrote; also where it is waited for."""
    with child("failing", "timeit", "-n", "1", "undefined_name", cores=cores) as failing:
        with pytest.raises(RunFailed, match="undefined_name"):
            failing.event("never", 30)
        with pytest.raises(RunFailed, match="Traceback"):
            failing.check()


def test_an_error_in_a_log_stops_the_run(cores: set[int]) -> None:
    """A line of JSON of that level; warnings do not."""
    lines = '{"level": "warning"}', '{"level": "error", "message": "lost"}', '{"done": 1}'
    program = "; ".join(f"print({line!r})" for line in lines)
    with child("log", "timeit", "-n", "1", "-r", "1", program, cores=cores) as log:
        log.event("done", 30)
        with pytest.raises(RunFailed, match=r"logged an error.*lost"):
            log.check()
