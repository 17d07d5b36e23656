"""Any bytes: the kernel equals its twin, and what is taken is what protobuf reads and the limits allow."""

from collections import Counter
from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.codec.limits import RequestLimits
from bridge.codec.points import point_view_pb2 as view
from bridge.codec.points.decode import decode_bodies, decode_points
from bridge.codec.points.point_pb2 import PBPoints
from bridge.codec.points.rejections import UNREADABLE, InvalidPoints
from bridge.codec.points.scan import Scan, count_points, kernel_in_use, scan_compiled, scan_plain
from bridge.codec.rows import ROW, span_ids, span_ids_plain
from bridge.spans import Kind, SpanBatch, convention
from tests.support.espans import field, varint
from tests.support.point_bodies import PROTOBUF, REQUIRED, Value, body_of, field_of, point_of
from tests.support.wire_bytes import Changes, changed, changes, holding, message

HEX_ID = "0123456789abcdefFEDCBA9876543210"
SCANS = [scan_plain, scan_compiled] if kernel_in_use() else [scan_plain]
needs_kernel = pytest.mark.skipif(not kernel_in_use(), reason="no C compiler was there")

# --- what points are made of, as bytes --------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-3, 70000), st.integers(-(2**63), 2**64 - 1), st.sampled_from([2**63 - 1, 2**63]))
texts = st.one_of(
    st.sampled_from(["", "entry", "exit", "unknown", "incoming", "outgoing", "hex", "dec", HEX_ID, HEX_ID[:16], "ä€"]),
    st.sampled_from(["10.0.0.1", "256.1.1.1", "::1", "::ffff:1.2.3.4", "-", "1e3", "1" * 16, "65536", "h" * 300]),
    st.integers(-(2**64), 2**65).map(str),
    st.text(max_size=9),
)
python_values = st.one_of(numbers, texts, texts.map(str.encode), st.sampled_from([None, True, 0.5, b"\xff"]))
keys = st.one_of(
    st.sampled_from(convention.KEY_OF_BIT), st.sampled_from(["host", "service", "span_id", "", "tidx", "x" * 40])
)
any_messages = message(
    holding(1, st.sampled_from([b"type.googleapis.com/point.Array", b"\xff"])), holding(2, st.binary(max_size=3)), own=3
)
varints = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))
values = st.one_of(
    *(st.builds(lambda number, n: varint(number << 3) + varint(n), st.just(at), varints) for at in (2, 3, 5)),
    st.binary(min_size=8, max_size=8).map(lambda f: b"\x21" + f),
    holding(6, st.one_of(texts.map(str.encode), st.binary(max_size=3))),
    holding(7, any_messages),
    *[holding(11, texts.map(str.encode))] * 3,
)
others = st.one_of(
    st.builds(lambda tag, n: varint(tag << 3) + varint(n), st.sampled_from([8, 8, 9]), varints),
    holding(10, st.one_of(st.just(b"ms"), st.binary(max_size=1))),
)
fields = st.one_of(
    st.builds(lambda key, value: field_of(key, value).SerializeToString(), keys, python_values),
    message(holding(1, keys.map(str.encode)), values, others, own=12, most=5),
)
remarks = message(holding(1, st.binary(max_size=2)), holding(2, st.binary(max_size=2)), own=4)
required = b"".join(field(2, field_of(k, v).SerializeToString()) for k, v in REQUIRED.items())
points = st.builds(
    lambda name, has, rest: field(1, name) * (len(name) < 9) + (required if has else b"") + rest,
    st.sampled_from([b"dketrace", b"m", b"", b"\xff", b"none of it"]),
    st.booleans(),
    message(
        *[holding(2, fields)] * 6,
        holding(4, remarks),
        holding(5, remarks),
        varints.map(lambda time: b"\x18" + varint(time)),
        own=6,
        most=9,
    ),
)
bodies = message(holding(1, points), own=2, least=1, most=4)


def outcome(scan: Scan) -> tuple[object, ...]:
    """Everything that a scan found, comparable."""
    columns = {name: scan.rows[name].tolist() for name in ROW.names or () if name != "texts"}
    names = [[scan.texts[i] if i >= 0 else None for i in number.tolist()] for number in (scan.host, scan.service)]
    return columns, scan.data, scan.lengths.tolist(), names, scan.rejections


def is_read(body: bytes) -> bool:
    try:
        PBPoints.FromString(body)
    except DecodeError:
        return False
    return True


def sent_points(body: bytes) -> list[bytes] | None:
    """The bytes of each point; None where protobuf cannot tell them apart."""
    try:
        return list(view.Points.FromString(body).arr)
    except DecodeError:
        return None


@needs_kernel
@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(keys, python_values, st.booleans()), min_size=6, max_size=25), st.integers(-(2**63), 2**63 - 1)
)
def test_kernel_reads_fields_as_its_twin(given_fields: list[tuple[str, Value, bool]], time: int) -> None:
    """Any keys with any values, in any order, given twice or more, tags or none."""
    point = point_of(time=time)
    point.fields.extend(field_of(key, value, is_tag=is_tag) for key, value, is_tag in given_fields)
    body = body_of(point)
    assert outcome(scan_compiled(body)) == outcome(scan_plain(body))


@needs_kernel
@settings(max_examples=120, deadline=None)
@given(bodies)
def test_kernel_is_its_twin(body: bytes) -> None:
    """On bodies of points, in whatever way they are written."""
    assert outcome(scan_compiled(body)) == outcome(scan_plain(body))


@needs_kernel
@settings(max_examples=30, deadline=None)
@given(bodies)
def test_compiled_ids_are_the_plain_ones(body: bytes) -> None:
    """Derived or sent."""
    scan = scan_compiled(body)
    digest = scan.lengths.astype("uint64")
    assert span_ids(scan.rows, digest).tolist() == span_ids_plain(scan.rows, digest).tolist()


@pytest.mark.parametrize("scan", SCANS)
@settings(max_examples=100, deadline=None)
@given(bodies, changes)
@example(b"", [("insert", 0.0, 0xFF)])
def test_points_are_taken_that_protobuf_reads(scan: Callable[[bytes], Scan], body: bytes, how: Changes) -> None:
    """Of bytes that were changed anywhere: a body is refused where protobuf does not find its points, a point rejected
    as unreadable where protobuf does not read a body of this point alone, and no point for another's sake."""
    body = changed(body, how)
    sent = sent_points(body)
    if sent is None:
        with pytest.raises(InvalidPoints, match=r"^body: .+") as refused:
            scan(body)
        assert refused.value.error_code == "datakit.invalidProtobufPoint"
        return
    found = scan(body)
    assert outcome(found) == outcome(scan_plain(body))
    readable = [point for point in sent if is_read(field(1, point))]
    assert found.rejections.counts[UNREADABLE] == len(sent) - len(readable)
    assert found.lengths.size + found.rejections.counts.total() == len(sent)
    assert len(readable) == len(sent) if is_read(body) else len(readable) < len(sent)


@settings(max_examples=60, deadline=None)
@given(bodies)
def test_every_point_is_taken_or_rejected_with_its_own_bytes(body: bytes) -> None:
    """What is taken stands in the batch as it was sent, in its order."""
    sent = sent_points(body)
    assert sent is not None
    try:
        decoded = decode_points(body, PROTOBUF, peer="peer")
    except InvalidPoints as exc:
        assert sum(exc.rejected.values()) == len(sent)
        return
    payload = decoded.batch.payload
    left = iter(sent)
    assert all(payload.span(i) in left for i in range(len(payload)))  # `in` reads on behind what it found
    assert len(payload) > 0
    assert len(payload) + sum(decoded.rejected.values()) == len(sent)
    assert decoded.batch.columns.span_id.all()
    assert (decoded.batch.columns.kind != Kind.ORDINARY).all()
    assert is_read(b"".join(field(1, payload.span(i)) for i in range(len(payload))))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(bodies, changes, st.sampled_from(["192.0.2.1", "192.0.2.2"])), min_size=1, max_size=4))
def test_bodies_decoded_together_are_what_they_are_alone(sent: list[tuple[bytes, Changes, str]]) -> None:
    """Or, where one of them is not taken as a whole, nothing."""
    together = [
        (data, peer, points) for body, how, peer in sent if (points := count_points(data := changed(body, how))) > 0
    ]
    if not together:
        return
    try:
        alone = [decode_points(data, PROTOBUF, peer=peer) for data, peer, _ in together]
    except InvalidPoints:
        assert decode_bodies(together) is None
        return
    found = decode_bodies(together)
    if any(decoded.rejected for decoded in alone):
        assert found is None
        return
    assert found is not None
    whole = SpanBatch.concatenate([decoded.batch for decoded in alone])
    assert {name: column.tolist() for name, column in found.batch.columns.items()} == {
        name: column.tolist() for name, column in whole.columns.items()
    }
    assert found.batch.payload.data == whole.payload.data
    assert found.batch.payload.offsets.tolist() == whole.payload.offsets.tolist()
    assert found.faulty == dict(sum((Counter(decoded.faulty) for decoded in alone), Counter[str]()))


@pytest.mark.parametrize("limits", [RequestLimits(max_spans=2), RequestLimits(max_span_bytes=100)])
def test_limits_hold_for_each_of_the_bodies(limits: RequestLimits) -> None:
    """What keeps them alone keeps them together; what does not is decoded by itself."""
    small = body_of(point_of(REQUIRED)), "192.0.2.1", 1
    large = body_of(*[point_of({**REQUIRED, "note": "x" * 100})] * 3), "192.0.2.1", 3
    found = decode_bodies([small] * 9, limits)
    assert (found is None) == (len(small[0]) > limits.max_span_bytes)
    assert decode_bodies([small, large], limits) is None
    assert decode_bodies([small, large]) is not None
