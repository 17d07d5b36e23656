"""Any linked spans: bodies for Dataway hold every row once, in order, and keep their limit."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.codec.points import encode
from bridge.codec.points.decode import decode_points
from bridge.codec.points.encode import encode_points
from bridge.codec.points.lines import line
from bridge.codec.points.point_pb2 import PBPoint
from bridge.codec.points.splice import PlainPointSplicer, PointSplicer
from bridge.spans import LinkedSpans, Outcome, PayloadFormat, SpanLinks
from tests.support.linked_points import block_of, field_of, linked_of, point_of, points_in, tags_of, values_of

Form = Literal["protobuf", "line_protocol"]
FORMS: tuple[Form, ...] = ("protobuf", "line_protocol")
NO_LIMIT = 1 << 62
ROW = st.tuples(
    st.sampled_from([PayloadFormat.POINT, PayloadFormat.OTLP_SPAN]),
    st.sampled_from([Outcome.EXPORT, Outcome.PASS]),
    st.integers(0, 300),
    st.integers(0, 2),
    st.integers(0, 2),
)
ROWS = st.lists(ROW, max_size=20)
Rows = list[tuple[PayloadFormat, Outcome, int, int, int]]


def linked_rows(rows: Rows) -> LinkedSpans:
    """A span each: `resource` is its row and some text; in an exported and an eBPF trace (0: none); blocks reversed."""
    blocks, block, row = [], np.zeros(len(rows), np.uint32), np.zeros(len(rows), np.uint32)
    for number, form in enumerate((PayloadFormat.OTLP_SPAN, PayloadFormat.POINT)):
        chosen = [i for i, each in enumerate(rows) if each[0] == form][::-1]
        texts = [f"{i:03}" + "n" * rows[i][2] for i in chosen]
        spans = [
            point_of({"resource": text}).SerializeToString()
            if form == PayloadFormat.POINT
            else Span(name=text, trace_id=bytes(16), span_id=bytes(8)).SerializeToString()
            for text in texts
        ]
        blocks.append(block_of(spans, form))
        block[chosen], row[chosen] = number, np.arange(len(chosen))
    linked = linked_of(
        *blocks,
        outcome=[each[1] for each in rows],
        trace_lo=[each[3] for each in rows],
        ebpf_trace_lo=[each[4] for each in rows],
    )
    return LinkedSpans(1, linked.blocks, block, row, linked.decisions, SpanLinks.zeros(0))


def bodies_of(linked: LinkedSpans, form: Form, max_bytes: int, **tags: str) -> list[tuple[bytes, int]]:
    return list(encode_points(linked, max_bytes=max_bytes, form=form, global_tags=tags))


def resources_in(body: bytes, form: Form) -> list[str]:
    """The `resource` of each point; lines are read with the bridge's own parser, which knows nothing of its writer."""
    points = points_in(body) if form == "protobuf" else read_lines(body)
    return [values_of(point)["resource"] for point in points]


def read_lines(body: bytes) -> list[PBPoint]:
    payload = decode_points(body, "application/line-protocol", peer="192.0.2.1").batch.payload
    return [PBPoint.FromString(payload.span(i)) for i in range(len(payload))]


@pytest.mark.parametrize("form", FORMS)
@given(rows=ROWS, max_bytes=st.integers(1, 4000))
@settings(max_examples=60)
def test_bodies_hold_every_row_once_within_their_limit(form: Form, rows: Rows, max_bytes: int) -> None:
    """Each row is in one body, in the order of rows; only a point that is larger by itself exceeds the limit, alone."""
    seen = []
    for body, count in bodies_of(linked_rows(rows), form, max_bytes):
        found = resources_in(body, form)
        assert len(found) == count
        assert len(body) <= max_bytes or count == 1
        seen += found
    assert [(int(text[:3]), len(text) - 3) for text in seen] == [(i, row[2]) for i, row in enumerate(rows)]


@pytest.mark.parametrize("form", FORMS)
@given(rows=ROWS, max_bytes=st.integers(1, 4000))
@settings(max_examples=60)
def test_bodies_end_where_a_plain_loop_ends_them(form: Form, rows: Rows, max_bytes: int) -> None:
    """A body takes rows while they fit, then gives back the begun trace unless the body began inside it."""
    linked, wanted, start = linked_rows(rows), [], 0
    sizes = [len(body) for body, _ in bodies_of(linked, form, 1)]
    while start < len(rows):
        stop, used = start, -len("\n") * (form == "line_protocol")
        while stop < len(rows) and (stop == start or used + line_end(form) + sizes[stop] <= max_bytes):
            used += line_end(form) + sizes[stop]
            stop += 1
        begun = stop
        while start < begun < len(rows) and joined(rows, begun):
            begun -= 1
        stop = begun if begun > start else stop
        wanted.append(stop - start)
        start = stop
    assert [count for _, count in bodies_of(linked, form, max_bytes)] == wanted


def line_end(form: Form) -> int:
    return 1 if form == "line_protocol" else 0


def joined(rows: Rows, i: int) -> bool:
    """Whether this row is of the trace of the row before."""
    (*_, trace, ebpf), (*_, trace_before, ebpf_before) = rows[i], rows[i - 1]
    return trace == trace_before != 0 or ebpf == ebpf_before != 0


@given(rows=ROWS, tag=st.text(max_size=5))
@settings(max_examples=30)
def test_bodies_are_equal_with_either_splicer(rows: Rows, tag: str) -> None:
    """Which implementation runs cannot be seen in what leaves."""
    bodies: list[Any] = []
    for splicers in (PlainPointSplicer, PointSplicer):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encode, "PointSplicer", splicers)
            bodies.append(bodies_of(linked_rows(rows), "protobuf", 700, env=tag))
    assert bodies[0] == bodies[1]


NAMES = st.text(min_size=1, max_size=9).filter(lambda s: not s.endswith("\\") and not set(s) & set('\r\n\t#"'))
TEXTS = st.text(max_size=20).filter(lambda s: "\r" not in s)
VALUES = st.one_of(
    TEXTS, st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)
)


@given(name=NAMES, fields=st.dictionaries(NAMES, VALUES, min_size=1, max_size=4), tags=st.dictionaries(NAMES, NAMES))
@settings(max_examples=200)
def test_lines_say_what_the_point_says(name: str, fields: dict[str, Any], tags: dict[str, str]) -> None:
    """What line protocol can say is read from a line as it was: names, tags, values of every type, the time."""
    tags = {key: value for key, value in tags.items() if key not in fields}
    point = point_of(fields, name=name, time=1767225600000000123)
    point.fields.extend(field_of(key, value, is_tag=True) for key, value in tags.items())
    (read,) = read_lines(line(point))
    assert (read.name, read.time) == (name, point.time)
    assert tags_of(read) == tags
    assert {key: (type(value), value) for key, value in values_of(read).items() if key in fields} == {
        key: (type(value), value) for key, value in fields.items()
    }
