"""Any messages: both editors agree; what they do is what the same rules do to parsed messages; the rest stays."""

from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from bridge.codec import attribute_rules
from bridge.codec.attribute_fields import Message
from bridge.codec.attribute_rules import Action, AttributeEditor, PlainAttributeEditor, Rule
from bridge.codec.points.point_pb2 import Field, PBPoint
from bridge.errors import InvalidData
from tests.support.wire_bytes import Changes, changed, changes, holding, message, strange

KEY = b"sixteen bytes...."
NAMES = ("a", "b", "url", "url.path", "url.full", "user.id", "span.name", "status.message", "n" * 70)
name = st.sampled_from(NAMES)
rules = st.lists(
    st.builds(
        Rule,
        st.sampled_from([*NAMES, "url*", "u*", "url.p*", "n" * 70 + "*"]),
        st.sampled_from([Action.DROP, Action.HASH, Action.TRUNCATE, Action.STRIP_QUERY])
        | st.sampled_from([Action.STRIP_QUERY | Action.HASH, Action.STRIP_QUERY | Action.TRUNCATE]),
        st.integers(0, 9),
    ),
    unique_by=lambda rule: rule.name,
    max_size=5,
)
text = st.text(st.sampled_from("ab?/é漢😀"), max_size=12)
scalars = st.one_of(
    st.builds(AnyValue, string_value=text),
    st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
    st.builds(AnyValue, bytes_value=st.binary(max_size=20)),
    st.just(AnyValue()),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(lambda v: AnyValue(array_value=ArrayValue(values=v)), st.lists(inner, max_size=3)),
        st.builds(
            lambda v: AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=k, value=w) for k, w in v])),
            st.lists(st.tuples(name, inner), max_size=2),
        ),
    ),
    max_leaves=5,
)
attributes = st.lists(st.builds(KeyValue, key=name, value=values), max_size=5)
spans = st.builds(
    Span,
    trace_id=st.just(bytes(16)),
    name=text,
    attributes=attributes,
    events=st.lists(st.builds(Span.Event, name=text, attributes=attributes), max_size=2),
    links=st.lists(st.builds(Span.Link, trace_id=st.just(b"\1" * 16), attributes=attributes), max_size=2),
    status=st.builds(Status, message=text, code=st.integers(0, 2)),
)
resources = st.builds(lambda a: ResourceSpans(resource=Resource(attributes=a), schema_url="s"), attributes)
scopes = st.builds(lambda a: ScopeSpans(scope=InstrumentationScope(name="x", attributes=a), schema_url="s"), attributes)
field_values = st.one_of(
    st.builds(lambda v: {"s": v}, text),
    st.builds(lambda v: {"d": v}, st.binary(max_size=20)),
    st.builds(lambda v: {"i": v}, st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda v: {"u": v}, st.integers(0, 2**64 - 1)),
    st.builds(lambda v: {"b": v}, st.booleans()),
    st.builds(lambda v: {"f": v}, st.floats(allow_nan=False)),
    st.just({}),
)
points = st.builds(
    lambda fields: PBPoint(name="dketrace", fields=[Field(key=k, is_tag=t, **v) for k, v, t in fields], time=5),
    st.lists(st.tuples(name, field_values, st.booleans()), max_size=6),
)

# As no SDK writes them: anything twice, in any order, among what is not known, or cut off.
raw_value = st.recursive(
    message(
        holding(1, st.binary(max_size=9)),
        holding(7, st.binary(max_size=9)),
        st.just(b"\x18\x85\x80\x00"),
        own=9,
        most=3,
    ),
    lambda inner: message(
        holding(5, message(holding(1, inner), own=3)), holding(6, message(holding(1, holding(2, inner)), own=3)), own=9
    ),
    max_leaves=4,
)
raw_name = name.map(str.encode)
raw_pair = message(holding(1, raw_name), holding(2, raw_value), own=5, least=1)
raw_event = message(holding(2, raw_name), holding(3, raw_pair), holding(4, raw_pair), own=5)
raw_span = message(
    holding(5, st.binary(max_size=9)),
    holding(9, raw_pair),
    holding(11, raw_event),
    holding(13, raw_event),
    holding(15, message(holding(2, st.binary(max_size=9)), own=4)),
    own=18,
    most=6,
)
raw_field = message(
    holding(1, raw_name),
    holding(11, st.binary(max_size=9)),
    holding(6, st.binary(max_size=9)),
    holding(7, st.binary(max_size=9)),
    strange(range(2, 6)),
    own=13,
    least=1,
)
raw_point = message(holding(1, raw_name), holding(2, raw_field), own=6, most=6)
raw_resource = message(holding(1, message(holding(1, raw_pair), own=3)), own=4)
raw_scope = message(holding(1, message(holding(3, raw_pair), own=5)), own=4)
RAW = {
    Message.SPAN: raw_span,
    Message.POINT: raw_point,
    Message.RESOURCE_SPANS: raw_resource,
    Message.SCOPE_SPANS: raw_scope,
}
PARSED = {
    Message.SPAN: spans,
    Message.POINT: points,
    Message.RESOURCE_SPANS: resources,
    Message.SCOPE_SPANS: scopes,
}
kinds = st.sampled_from(sorted(RAW))


def edited(editor: PlainAttributeEditor, kind: Message, parts: list[bytes]) -> tuple[list[bytes], dict[Action, int]]:
    """The messages as they leave; the same ones where nothing changed."""
    found = editor.edit(kind, b"xx" + b"".join(parts), 2 + np.cumsum([0, *map(len, parts)], dtype=np.int64))
    if found is None:
        return parts, {}
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.data)
    return [found.data[a:b] for a, b in pairwise(found.offsets.tolist())], dict(found.counts)


def outcome(editor: PlainAttributeEditor, kind: Message, parts: list[bytes]) -> object:
    try:
        return edited(editor, kind, parts)
    except InvalidData:
        return "invalid"


def test_the_editor_in_use_is_compiled() -> None:
    """Where a compiler was there, which this suite is run with, the twin is not what serves."""
    assert AttributeEditor is not PlainAttributeEditor
    assert attribute_rules.AttributeEditor is AttributeEditor


@given(st.data(), kinds, rules, st.lists(changes, max_size=1))
def test_both_editors_agree_on_any_bytes(
    data: st.DataObject, kind: Message, own: list[Rule], how: list[Changes]
) -> None:
    """Also on bytes that are no message at all."""
    parts = data.draw(st.lists(RAW[kind], max_size=4))
    if how and parts:
        parts[-1] = changed(parts[-1], how[0])
    assert outcome(AttributeEditor(own, KEY), kind, parts) == outcome(PlainAttributeEditor(own, KEY), kind, parts)


@given(st.data(), kinds, rules)
def test_what_parses_parses_afterwards(data: st.DataObject, kind: Message, own: list[Rule]) -> None:
    """The wire format is kept whatever was in it."""
    parsed = {
        Message.SPAN: Span,
        Message.POINT: PBPoint,
        Message.RESOURCE_SPANS: ResourceSpans,
        Message.SCOPE_SPANS: ScopeSpans,
    }[kind]
    part = data.draw(RAW[kind])
    try:
        parsed.FromString(part)
    except DecodeError:
        return
    ((left,), _) = edited(AttributeEditor(own, KEY), kind, [part])
    parsed.FromString(left)


# --- what rules mean, said again with parsed messages -----------------------------------------------------------------


def rule_for(own: list[Rule], wanted: str) -> Rule | None:
    fitting = [r for r in own if r.name == wanted]
    fitting += sorted(
        (r for r in own if r.name.endswith("*") and wanted.startswith(r.name[:-1])), key=lambda r: -len(r.name)
    )
    return fitting[0] if fitting else None


def hashed(plain: bytes) -> str:
    return blake2b(plain, key=KEY, digest_size=16).hexdigest()


def cut(plain: bytes, rule: Rule, *, is_text: bool) -> bytes:
    if rule.actions & Action.STRIP_QUERY:
        plain = plain.split(b"?")[0]
    if rule.actions & Action.TRUNCATE:
        left = plain[: rule.max_bytes]
        plain = left.decode(errors="ignore").encode() if is_text else left
    return plain


def expected_text(plain: str, rule: Rule) -> str:
    left = cut(plain.encode(), rule, is_text=True)
    return hashed(left) if rule.actions & Action.HASH else left.decode()


def expect_value(value: AnyValue, rule: Rule) -> None:
    what = value.WhichOneof("value")
    if what == "array_value":
        for inner in value.array_value.values:
            expect_value(inner, rule)
    elif what == "kvlist_value":
        for pair in value.kvlist_value.values:
            expect_value(pair.value, rule)
    elif what == "string_value":
        value.string_value = expected_text(value.string_value, rule)
    elif what == "bytes_value" and not rule.actions & Action.HASH:
        value.bytes_value = cut(value.bytes_value, rule, is_text=False)
    elif what is not None and rule.actions & Action.HASH:
        value.string_value = hashed(plain_of(getattr(value, what), rule))


def plain_of(value: object, rule: Rule) -> bytes:
    match value:
        case bool():
            return b"true" if value else b"false"
        case int():
            return str(value).encode()
        case float():
            return np.float64(value).tobytes()
        case bytes():
            return cut(value, rule, is_text=False)
    raise AssertionError(value)


def expect_attributes(owner: object, own: list[Rule]) -> None:
    found: list[KeyValue] = owner.attributes  # type: ignore[attr-defined]
    for i in reversed(range(len(found))):
        rule = rule_for(own, found[i].key)
        if rule is not None and rule.actions & Action.DROP:
            del found[i]
        elif rule is not None:
            expect_value(found[i].value, rule)


def expect_point(point: PBPoint, own: list[Rule]) -> None:
    for i in reversed(range(len(point.fields))):
        field = point.fields[i]
        rule, what = rule_for(own, field.key), field.WhichOneof("val")
        if rule is None:
            continue
        if rule.actions & Action.DROP:
            del point.fields[i]
        elif what == "s":
            field.s = expected_text(field.s, rule)
        elif what == "d" and not rule.actions & Action.HASH:
            field.d = cut(field.d, rule, is_text=False)
        elif what is not None and rule.actions & Action.HASH:
            field.s = hashed(plain_of(getattr(field, what), rule))


def expect_span(span: Span, own: list[Rule]) -> None:
    for owner in (span, *span.events, *span.links):
        expect_attributes(owner, own)
    for owner, attribute, wanted in ((span, "name", "span.name"), (span.status, "message", "status.message")):
        rule, said = rule_for(own, wanted), getattr(owner, attribute)
        if rule is not None and said:
            setattr(owner, attribute, "" if rule.actions & Action.DROP else expected_text(said, rule))


@given(st.data(), kinds, rules)
@pytest.mark.parametrize("kind_of_editor", [AttributeEditor, PlainAttributeEditor])
def test_rules_mean_what_they_mean_on_parsed_messages(
    kind_of_editor: type[PlainAttributeEditor], data: st.DataObject, kind: Message, own: list[Rule]
) -> None:
    """Whatever no rule names is equal, whatever one names is as the rule says, at every place of the message."""
    sent = data.draw(PARSED[kind])
    want = type(sent)()
    want.CopyFrom(sent)
    if kind == Message.SPAN:
        expect_span(want, own)
    elif kind == Message.POINT:
        expect_point(want, own)
    else:
        expect_attributes(want.resource if kind == Message.RESOURCE_SPANS else want.scope, own)
    raw = sent.SerializeToString()
    ((left,), counts) = edited(kind_of_editor(own, KEY), kind, [raw])
    assert type(sent).FromString(left) == want
    assert bool(counts) == (left != raw)


def test_hashes_are_blake2b_of_any_length() -> None:
    """The kernel's own BLAKE2b is that of RFC 7693: with a key and without, around the edges of its blocks."""
    for length in (0, 1, 127, 128, 129, 255, 256, 257, 1000):
        for key in (b"", b"k", b"k" * 64):
            sent = PBPoint(fields=[Field(key="a", d=bytes(i & 255 for i in range(length)))])
            ((left,), _) = edited(
                AttributeEditor([Rule("a", Action.HASH)], key), Message.POINT, [sent.SerializeToString()]
            )
            want = blake2b(sent.fields[0].d, key=key, digest_size=16).hexdigest()
            assert PBPoint.FromString(left).fields[0].s == want, (length, key)


def test_known_answer() -> None:
    """A hash does not change from one version of the bridge to the next: what was hashed is still found."""
    sent = PBPoint(fields=[Field(key="a", s="karl@example.com")]).SerializeToString()
    ((left,), _) = edited(AttributeEditor([Rule("a", Action.HASH)], b"a key of 16 bytes"), Message.POINT, [sent])
    assert PBPoint.FromString(left).fields[0].s == "7f649eb25306f97e622590a392df372e"


@pytest.mark.parametrize("kind_of_editor", [AttributeEditor, PlainAttributeEditor])
@pytest.mark.parametrize("offsets", [[], [-1, 0], [0, 3], [2, 1], [0, 2, 1]])
def test_offsets_that_leave_the_data_are_refused(
    kind_of_editor: type[PlainAttributeEditor], offsets: list[int]
) -> None:
    """No byte outside the data is read, whatever the offsets say."""
    with pytest.raises(ValueError, match="offsets"):
        kind_of_editor([Rule("a", Action.DROP)], b"").edit(Message.SPAN, b"ab", np.array(offsets, np.int64))


@pytest.mark.parametrize("kind_of_editor", [AttributeEditor, PlainAttributeEditor])
def test_values_that_nest_without_end_are_refused(kind_of_editor: type[PlainAttributeEditor]) -> None:
    """Deeper than protobuf reads, so that nobody runs out of stack."""
    value = b""
    for _ in range(300):
        value = b"\x2a" + _length(b"\x0a" + _length(value) + value) + b"\x0a" + _length(value) + value
    pair = b"\x0a\x01a\x12" + _length(value) + value
    span = b"\x4a" + _length(pair) + pair
    with pytest.raises(InvalidData, match="deep"):
        edited(kind_of_editor([Rule("a", Action.HASH)], b""), Message.SPAN, [span])


def _length(of: bytes) -> bytes:
    n, out = len(of), bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])
