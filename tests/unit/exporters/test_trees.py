"""Traces as text."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.exporters.trees import render_traces

TRACE = bytes(range(16))


@dataclass
class S:
    """A span of the tests: its id, its parent's, what is shown of it."""

    id: int
    parent: int = 0
    name: str = "GET /"
    service: str = "shop"
    method: str = ""
    start_ms: int = 0
    end_ms: int = 0
    trace: bytes = TRACE


def request(*spans: S) -> bytes:
    built = ExportTraceServiceRequest()
    for s in spans:
        resource = built.resource_spans.add()
        resource.resource.attributes.add(key="service.name").value.string_value = s.service
        span = resource.scope_spans.add().spans.add(
            trace_id=s.trace,
            span_id=s.id.to_bytes(8, "big"),
            parent_span_id=s.parent.to_bytes(8, "big") if s.parent else b"",
            name=s.name,
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=s.start_ms * 10**6,
            end_time_unix_nano=s.end_ms * 10**6,
        )
        if s.method:
            span.attributes.add(key="espan.link.method").value.string_value = s.method
    return built.SerializeToString()


def words(line: str) -> list[str]:
    return line.split()


def test_children_stand_under_their_parent() -> None:
    """Spans are drawn parents first, siblings in order of start, with service, resource, duration and method."""
    lines = list(
        render_traces(
            [
                request(S(3, 1, "SELECT", "db", "thread", 20, 30), S(1, 0, "GET /", "web", "", 0, 100)),
                request(S(2, 1, "GET /cart", "cart", "seq", 10, 15), S(4, 3, "read", "disk", "header", 21, 22)),
            ]
        )
    )
    assert words(lines[0]) == ["trace", TRACE.hex(), "4", "spans", "100.00", "ms"]
    assert words(lines[1]) == ["web:", "GET", "/", "server", "100.00", "ms"]
    assert words(lines[2]) == ["├─", "cart:", "GET", "/cart", "server", "5.00", "ms", "seq"]
    assert words(lines[3]) == ["└─", "db:", "SELECT", "server", "10.00", "ms", "thread"]
    assert words(lines[4]) == ["└─", "disk:", "read", "server", "1.00", "ms", "header"]
    assert lines[4].startswith("   └─ ")
    assert lines[5] == ""


def test_traces_keep_the_order_they_came_in() -> None:
    """Each trace has a heading of its own, also when its spans come in several requests."""
    other = bytes(16)
    lines = list(render_traces([request(S(1)), request(S(1, trace=other)), request(S(2, 1))]))
    assert [words(line)[1] for line in lines if line.startswith("trace")] == [TRACE.hex(), other.hex()]


def test_span_without_its_parent_says_so() -> None:
    """A span whose parent is not there is drawn as a root with a hint."""
    lines = list(render_traces([request(S(1, 99, method="seq"))]))
    assert lines[1].endswith("seq (parent not here)")


@pytest.mark.parametrize("parents", [(1,), (2, 1), (2, 3, 1, 1)])
def test_loops_are_drawn_once(parents: tuple[int, ...]) -> None:
    """Spans that are their own ancestors are drawn once each, and the first says that there is a loop."""
    lines = list(render_traces([request(*(S(i + 1, parent) for i, parent in enumerate(parents)))]))
    assert len(lines) == len(parents) + 2
    assert lines[1].endswith("(loop)")


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 10)), max_size=12))
def test_every_span_is_drawn_exactly_once(edges: list[tuple[int, int]]) -> None:
    """Whatever spans claim about ids and parents, each has one line."""
    spans = [S(own, parent, name=f"n{i};") for i, (own, parent) in enumerate(edges)]
    text = "\n".join(render_traces([request(*spans)]))
    assert [text.count(f" n{i};") for i in range(len(edges))] == [1] * len(edges)


@pytest.mark.parametrize("width", [10, 80, 120])
def test_lines_are_bounded_however_deep_and_long(width: int) -> None:
    """A long chain with long names stays within the width."""
    chain = request(*(S(i, i - 1, "n" * 500) for i in range(1, 2000)))
    lines = list(render_traces([chain], width=width))
    assert len(lines) == 2001
    assert max(map(len, lines)) <= max(width, 80)


def test_spans_cannot_command_a_terminal() -> None:
    """Control characters of names are not printed."""
    text = "\n".join(render_traces([request(S(1, name="a\x1b[2Jb\nc"))]))
    assert "a?[2Jb?c" in text


def test_nothing_is_no_lines() -> None:
    """No requests and empty requests draw nothing."""
    assert list(render_traces([])) == list(render_traces([b""])) == []
