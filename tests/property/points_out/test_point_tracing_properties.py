"""Any OTLP spans: as points they keep the limits, and the kernels and their plain twins agree."""

import json
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from bridge.codec.points import from_otlp, limits, point_writer, restoring
from bridge.codec.points.from_otlp import point, span_attributes
from bridge.codec.points.mapping import KEYS, NOTES, POINT_SCOPE
from bridge.codec.points.otlp_values import Scalar, by_key
from bridge.codec.points.point_pb2 import Field, PBPoint
from bridge.codec.points.point_writer import value_field, value_field_plain
from bridge.errors import InvalidData
from bridge.spans import Context, convention
from tests.support.espans import field
from tests.support.linked_points import field_of

TEXTS = st.one_of(st.text(max_size=20), st.just("ü" * 600))
SCALARS = st.one_of(
    st.builds(lambda s: AnyValue(string_value=s), TEXTS),
    st.builds(lambda i: AnyValue(int_value=i), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda f: AnyValue(double_value=f), st.floats()),
    st.builds(lambda b: AnyValue(bool_value=b), st.booleans()),
    st.builds(lambda d: AnyValue(bytes_value=d), st.binary(max_size=20)),
    st.just(AnyValue()),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: AnyValue(array_value=ArrayValue(values=items))),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(
            lambda d: AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=k, value=v) for k, v in d.items()]))
        ),
    ),
    max_leaves=4,
)
NAMED = [
    *convention.KEY_OF_BIT,
    *NOTES,
    "status",
    "operation",
    "message",
    "a.b",
    *(name for key in KEYS for name in key.attributes),
]
PAIRS = st.builds(KeyValue, key=st.one_of(st.sampled_from(NAMED), st.text(max_size=300)), value=VALUES)
EVENTS = st.builds(Span.Event, name=st.sampled_from(["exception", "e"]), attributes=st.lists(PAIRS, max_size=2))
SPANS = st.builds(
    Span,
    trace_id=st.just(b"t" * 16),
    span_id=st.just(b"s" * 8),
    parent_span_id=st.binary(max_size=8),
    name=TEXTS,
    kind=st.integers(0, 6),
    start_time_unix_nano=st.integers(0, 2**64 - 1),
    end_time_unix_nano=st.integers(0, 2**64 - 1),
    attributes=st.lists(PAIRS, max_size=8),
    events=st.lists(EVENTS, max_size=2),
    status=st.builds(Status, code=st.sampled_from([0, 1, 2]), message=TEXTS),
)


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    resource, scope = ResourceSpans(), ScopeSpans()
    resource.resource.attributes.extend(draw(st.lists(PAIRS, max_size=4)))
    if draw(st.booleans()):
        scope.scope.attributes.add(key=POINT_SCOPE).value.int_value = 1
        scope.scope.name = "dketrace"
    return Context(resource.SerializeToString(), scope.SerializeToString())


@given(span=SPANS, context=contexts(), is_espan=st.booleans())
@settings(max_examples=200)
def test_points_keep_their_limits(span: Span, context: Context, is_espan: bool) -> None:
    """Whatever a span has, its point is one that Dataway takes: keys once, tags short texts, message JSON."""
    try:
        made = PBPoint.FromString(point(span.SerializeToString(), context, is_espan=is_espan))
    except InvalidData as exc:
        assert "datakit.point.rest" in str(exc)
        return
    if b"datakit.point" in context.scope_spans:
        return  # what a point had is not for us to judge
    keys = [each.key for each in made.fields]
    assert len(keys) == len(set(keys))
    assert all(0 < len(key.encode()) <= limits.MAX_KEY_BYTES for key in keys)
    tags = [each for each in made.fields if each.is_tag]
    assert all(0 < len(tag.s.encode()) <= limits.MAX_TAG_VALUE_BYTES for tag in tags)
    assert all(each.WhichOneof("val") for each in made.fields)
    values = {each.key: each for each in made.fields}
    assert isinstance(json.loads(values["message"].s), dict)
    assert values["duration"].i >= 0
    assert {"service", "operation", "status", "span_type", "source_type", "start"} <= values.keys()


@given(span=SPANS, context=contexts(), is_espan=st.booleans())
@settings(max_examples=200)
def test_points_are_equal_with_kernel_and_without(span: Span, context: Context, is_espan: bool) -> None:
    """Which implementation runs cannot be seen in what leaves."""
    answers: list[Any] = []
    for attributes, field_ in ((span_attributes, value_field), (from_otlp._no_kernel, value_field_plain)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(from_otlp, "span_attributes", attributes)
            for module in (point_writer, restoring):
                patch.setattr(module, "value_field", field_)
            try:
                answers.append(point(span.SerializeToString(), context, is_espan=is_espan))
            except InvalidData as exc:
                answers.append(str(exc))
    assert answers[0] == answers[1]


# As others may write them: parts in any order, twice, not at all, among unknown fields; numbers longer than need be.
PARTS = st.one_of(
    st.text(max_size=3).map(lambda key: field(1, key.encode())),
    SCALARS.map(lambda value: field(2, value.SerializeToString())),
    st.sampled_from(
        [b"\x12\x03\x98\x00\x05", b"\x12\x04\x18\x85\x80\x00", b"\xa8\x06\x01", b"\x12\x04\x18\x05\x10\x01"]
    ),
)
RAW = st.lists(st.lists(PARTS, max_size=3).map(lambda parts: field(9, b"".join(parts))), max_size=4).map(b"".join)


@given(
    raw=st.one_of(RAW, st.binary(max_size=40), st.lists(PAIRS).map(lambda p: Span(attributes=p).SerializeToString()))
)
@settings(max_examples=300)
def test_attributes_are_what_protobuf_reads(raw: bytes) -> None:
    """Of a span that protobuf reads, the kernel says the same, or that it cannot."""
    try:
        wanted = by_key(Span.FromString(raw).attributes)
    except DecodeError:
        return
    found = span_attributes(raw)
    assert found is None or repr(found) == repr(wanted)


def test_usual_attributes_are_read_by_the_kernel() -> None:
    """Scalars take the short way, if there is one; lists do not."""
    scalars = Span(attributes=[KeyValue(key="a", value=AnyValue(int_value=-1)), KeyValue(key="b")])
    built = span_attributes is not from_otlp._no_kernel
    assert span_attributes(scalars.SerializeToString()) == ({"a": -1, "b": None} if built else None)
    scalars.attributes.add(key="c").value.array_value.SetInParent()
    assert span_attributes(scalars.SerializeToString()) is None


@given(
    key=st.text(max_size=130),
    value=st.one_of(st.text(max_size=200), st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans(), st.binary()),
    is_tag=st.booleans(),
)
@settings(max_examples=200)
def test_fields_are_written_as_protobuf_writes_them(key: str, value: Scalar, is_tag: bool) -> None:
    """Both implementations write what protobuf reads as this field."""
    assert value is not None
    written = value_field(key, value, is_tag)
    assert written == value_field_plain(key, value, is_tag)
    (read,) = PBPoint.FromString(written).fields
    assert read.SerializeToString() == field_of(key, value, is_tag=is_tag).SerializeToString()


def test_field_without_a_value_is_written() -> None:
    """None is a field that has none."""
    assert value_field("k", None, True) == value_field_plain("k", None, True)
    assert PBPoint.FromString(value_field("k", None, True)).fields[0] == Field(key="k", is_tag=True)
