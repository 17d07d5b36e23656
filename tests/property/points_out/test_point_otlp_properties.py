"""Any points: as OTLP spans nothing of them is lost, and whoever reads OTLP can read them."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.codec.otlp_encode import encode_requests
from bridge.codec.points import to_otlp
from bridge.codec.points.encode import encode_points
from bridge.codec.points.mapping import DERIVED, MOVED, NOTES, PARTS, REPLACED_KEYS
from bridge.codec.points.point_pb2 import Field, PBPoint
from bridge.codec.points.to_otlp import otlp_span
from bridge.errors import InvalidData
from bridge.spans import Context, PayloadFormat, convention
from tests.support.espans import field
from tests.support.linked_points import agent_point, block_of, linked_of, linked_points, points_in

NO_LIMIT = 1 << 62

NAMED = [
    *(moved.key for moved in MOVED),
    *PARTS,
    *(moved.attribute for moved in MOVED),
    *DERIVED,
    *NOTES,
    *(key.decode() for key in REPLACED_KEYS),
    *convention.KEY_OF_BIT,
    *("status", "operation", "http_version", "err_msg", "err_code", "status_msg", ""),
]
KEYS = st.one_of(st.sampled_from(NAMED), st.text(max_size=9))
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["200", "007", "-5", "-0", "503", "9" * 19, "entry", "exit", "incoming", "error", "/a"]),
    st.sampled_from(["HTTP/1.1", "HTTP", "HTTP2", "gRPC", "MySQL", "Redis", "AMQP", "10.0.0.1", "x" * 300]),
)
INT64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, -1, 1500, 1767225600000000, 2**63 - 1]))
VALUES = st.one_of(
    st.builds(lambda s: {"s": s}, TEXTS),
    st.builds(lambda i: {"i": i}, INT64),
    st.builds(lambda u: {"u": u}, st.integers(0, 2**64 - 1)),
    st.builds(lambda f: {"f": f}, st.floats(allow_nan=False)),
    st.builds(lambda b: {"b": b}, st.booleans()),
    st.builds(lambda d: {"d": d}, st.binary(max_size=200)),
    st.builds(lambda v: {"a": AnyMessage(type_url="t/point.Array", value=v)}, st.binary(max_size=5)),
    st.just({}),
)
EXTRA = st.sampled_from([{}, {}, {}, {"is_tag": True}, {"type": 2}, {"unit": "s"}])
FIELDS = st.builds(lambda key, value, extra: Field(key=key, **value, **extra), KEYS, VALUES, EXTRA)
AGENT = st.builds(agent_point, start=INT64, http_status_code=TEXTS, resource=TEXTS, tid=INT64).map(lambda p: p.fields)
NAMES = st.sampled_from(["dketrace", "", "größe"])


@st.composite
def a_point(draw: st.DrawFn) -> PBPoint:
    """As agents send it and with other fields among them, or of any fields."""
    fields = [*draw(st.one_of(AGENT, st.just([]))), *draw(st.lists(FIELDS, max_size=6))]
    fields = draw(st.permutations(fields)) if len(fields) < 8 else fields
    point = PBPoint(name=draw(NAMES), time=draw(INT64), fields=fields)
    if draw(st.booleans()):
        point.warns.add(type="w", msg=draw(st.text(max_size=5)))
    return point


def exported(*points: PBPoint) -> Iterator[tuple[Context, Span]]:
    """Each point as it leaves over OTLP, read by opentelemetry's messages."""
    for point in points:
        ((body, count),) = encode_requests(linked_points(point), max_spans=1, max_bytes=NO_LIMIT)
        assert count == 1
        (around,) = ExportTraceServiceRequest.FromString(body).resource_spans
        (scope,) = around.scope_spans
        (span,) = scope.spans
        around.ClearField("scope_spans")
        scope.ClearField("spans")
        yield Context(around.SerializeToString(), scope.SerializeToString()), span


def last_of_each_key(point: PBPoint) -> tuple[Any, ...]:
    """What a point says, whatever the order it says it in."""
    fields = {each.key: each.SerializeToString(deterministic=True) for each in point.fields}
    return point.name, point.time, fields, list(point.warns), list(point.debugs)


def encoded(linked: Any) -> PBPoint:
    ((body, _),) = encode_points(linked, max_bytes=NO_LIMIT, form="protobuf", global_tags={})
    (point,) = points_in(body)
    assert len({each.key for each in point.fields}) == len(point.fields)
    return point


@given(point=a_point())
@settings(max_examples=300)
def test_point_comes_back_from_otlp_as_it_was(point: PBPoint) -> None:
    """point -> OTLP -> point is the point as it would have left itself: every key, value, type, tag, name and time."""
    ((context, span),) = exported(point)
    back = linked_of(block_of([span.SerializeToString()], PayloadFormat.OTLP_SPAN, context))
    assert last_of_each_key(encoded(back)) == last_of_each_key(encoded(linked_points(point)))


def test_points_in_support_are_usual() -> None:
    """What an agent sends takes the short way, if there is one."""
    usual = to_otlp.split_point(agent_point().SerializeToString(), frozenset())
    assert (usual is None) == (to_otlp.split_point is to_otlp._no_kernel)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A point with numbers written longer than need be, or some bytes overwritten, removed or put in."""
    raw = bytearray(draw(a_point()).SerializeToString())
    if draw(st.booleans()):
        raw += field(2, b"\x0a\x84\x00long\x10\xff\xff\xff\xff\x00" + draw(st.sampled_from([b"", b"\x40\x01"])))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


@given(raw=st.one_of(a_point().map(PBPoint.SerializeToString), damaged(), st.binary(max_size=60)))
@settings(max_examples=300)
def test_short_way_makes_the_same_span(raw: bytes) -> None:
    """With the kernel or without, of any bytes the same span is made, or the same error."""
    answers: list[Any] = []
    for split in (to_otlp.split_point, to_otlp._no_kernel):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(to_otlp, "split_point", split)
            try:
                answers.append(otlp_span(raw))
            except InvalidData as exc:
                answers.append(str(exc))
    assert answers[0] == answers[1]
    if not isinstance(answers[0], str):
        Span.FromString(answers[0][1])


@given(raw=st.one_of(damaged(), st.binary(max_size=60)))
@settings(max_examples=200)
def test_bad_bytes_are_named(raw: bytes) -> None:
    """Bytes that are no point are an InvalidData that says which span, whatever they leave as, and nothing else."""
    good = agent_point().SerializeToString()
    linked = linked_points(good, raw)
    for encode in (
        lambda: encode_requests(linked, max_spans=9, max_bytes=NO_LIMIT),
        lambda: encode_points(linked, max_bytes=NO_LIMIT, form="protobuf", global_tags={"env": "e"}),
        lambda: encode_points(linked, max_bytes=NO_LIMIT, form="line_protocol", global_tags={}),
    ):
        try:
            assert sum(count for _, count in encode()) == 2
        except InvalidData as exc:
            assert "span 1" in str(exc)


SPANS = a_point().map(lambda point: next(exported(point))[1].SerializeToString())


@given(raw=st.one_of(st.binary(max_size=80), SPANS), at=st.data())
@settings(max_examples=200)
def test_bad_spans_are_named(raw: bytes, at: st.DataObject) -> None:
    """Bytes that are no OTLP span, or one that was a point no longer: InvalidData, which says which."""
    raw = raw[: at.draw(st.integers(0, len(raw)))] + at.draw(st.binary(max_size=2))
    context = next(exported(agent_point()))[0] if at.draw(st.booleans()) else Context()
    linked = linked_of(block_of([b"", raw], PayloadFormat.OTLP_SPAN, context))
    try:
        ((body, count),) = encode_points(linked, max_bytes=NO_LIMIT, form="protobuf", global_tags={})
        assert len(points_in(body)) == count == 2
    except InvalidData as exc:
        assert "span 1" in str(exc)
