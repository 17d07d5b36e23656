"""What becomes of the keys of a point, beside what docs/espan.md says of every eSpan."""

import pytest
from google.protobuf.message import DecodeError

from bridge.codec.points.decode import InvalidPoints, decode_points
from bridge.codec.points.point_pb2 import Array, BasicTypes, Field, PBPoints
from bridge.spans import Kind, PayloadFormat, convention, text_hash
from tests.support.espans import field as wire_field
from tests.support.point_bodies import (
    PEER,
    PROTOBUF,
    REQUIRED,
    Value,
    decoded,
    espan_point,
    field_of,
    point_of,
    row_of,
)

U64 = 2**64 - 1
START_US = 1_767_225_600_000_000


def faults_of(row: dict[str, int]) -> set[str]:
    return {key for key, bit in convention.FAULT.items() if row["faults"] & bit}


def test_point_keeps_its_bytes() -> None:
    """As sent: fields that nobody knows, in any order, a key given twice."""
    again = wire_field(2, field_of("tid", 2).SerializeToString())
    sent = [b"\xa2\x06\x03new" + espan_point(tid=1).SerializeToString() + again, espan_point(tid=3).SerializeToString()]
    payload = decode_points(b"".join(wire_field(1, point) for point in sent), PROTOBUF, peer=PEER).batch.payload
    assert payload.format is PayloadFormat.POINT
    assert [payload.span(i) for i in range(len(payload))] == sent


def test_every_point_is_an_espan() -> None:
    """Without what eSpans need it is faulty, by key, and in the batch all the same."""
    found = decoded(point_of({"resource": "GET /"}), espan_point())
    assert found.batch.columns.kind.tolist() == [Kind.UNKNOWN, Kind.ENTRY]
    assert found.faulty == dict.fromkeys(REQUIRED, 1)
    assert (found.rejected, found.rejection) == ({}, "")


@pytest.mark.parametrize("value", [-1, U64, "-1", str(U64)], ids=repr)
@pytest.mark.parametrize("key", ["req_seq", "thread_trace_id", "app_trace_id_l"])
def test_ids_are_read_in_whatever_type_they_come(key: str, value: Value) -> None:
    """int64, uint64 and decimal text are one bit pattern."""
    row = row_of(espan_point(**{key: value}))
    assert row["app_trace_lo" if key == "app_trace_id_l" else key] == U64
    assert faults_of(row) == set()


@pytest.mark.parametrize("value", [1.0, True, b"\xff"], ids=repr)
def test_other_types_are_faults(value: Value) -> None:
    """No float, no boolean, no binary data is an id."""
    assert faults_of(row_of(espan_point(thread_trace_id=value))) == {"thread_trace_id"}


def test_array_is_a_fault() -> None:
    """A value can be anything that is packed."""
    field = Field(key="tid")
    field.a.Pack(Array(arr=[BasicTypes(i=1)]))
    point = espan_point()
    point.fields.append(field)
    assert faults_of(row_of(point)) == {"tid"}


def test_binary_text_is_text() -> None:
    """As agents sent it before points had text."""
    row = row_of(espan_point(direction=b"outgoing", req_seq=b"77", host=b"node-1"))
    assert (row["direction"], row["req_seq"], row["sender"]) == (2, 77, text_hash("node-1"))


def test_last_value_of_a_field_counts() -> None:
    """Whichever member of the oneof it is."""
    field = b"\x0a\x03tid" + b"\x5a\x01" + b"5" + b"\x10\x07"  # key, s, i
    body = wire_field(1, espan_point().SerializeToString() + wire_field(2, field))
    assert decode_points(body, PROTOBUF, peer=PEER).batch.columns.tid.tolist() == [7]


@pytest.mark.parametrize(("last", "tid"), [(field_of("tid", 8), 8), (Field(key="tid"), 0)], ids=["value", "none"])
def test_last_field_of_a_key_counts(last: Field, tid: int) -> None:
    """A field without a value takes away what was there."""
    point = espan_point(tid=7)
    point.fields.append(last)
    assert row_of(point)["tid"] == tid


def test_tags_are_read_like_fields() -> None:
    """A key is a key."""
    row = row_of(point_of({"req_seq": 1}, {"direction": "incoming", "host": "node-1"}))
    assert (row["direction"], row["sender"]) == (1, text_hash("node-1"))


@pytest.mark.parametrize(
    ("host", "sender"), [("node-1", "node-1"), ("", PEER), (None, PEER), (5, PEER), (b"\xff", PEER)], ids=repr
)
def test_sender_is_the_host_else_the_peer(host: Value, sender: str) -> None:
    """Only text names a host."""
    assert row_of(espan_point(host=host))["sender"] == text_hash(sender)


@pytest.mark.parametrize(("service", "expected"), [("cart", text_hash("cart")), ("", 0), (None, 0), (5, 0)], ids=repr)
def test_service_is_its_key(service: Value, expected: int) -> None:
    """Only text names a service."""
    assert row_of(espan_point(service=service))["service"] == expected


def test_many_hosts_and_services_are_told_apart() -> None:
    """More names than the kernel knows again, and equal beginnings, ends and lengths."""
    names = [f"service-{i % 700:03}-of-the-shop" for i in range(1500)]
    columns = decoded(*(espan_point(service=name, host=name[::-1]) for name in names)).batch.columns
    assert columns.service.tolist() == [text_hash(name) for name in names]
    assert columns.sender.tolist() == [text_hash(name[::-1]) for name in names]


@pytest.mark.parametrize(
    ("value", "span_id"),
    [
        ("00000000000000ff", 255),
        ("1234567812345678", 0x1234567812345678),
        ("FFFFFFFFFFFFFFFF", U64),
        ("17", 17),
        (17, 17),
        (-1, U64),
    ],
)
def test_span_id_is_hex_or_a_number(value: Value, span_id: int) -> None:
    """16 digits are hex, also where they could be decimal."""
    row = row_of(espan_point(span_id=value))
    assert (row["sent_span_id"], row["span_id"]) == (span_id, span_id)


@pytest.mark.parametrize("value", ["", "x", "0", 0, "00ff", 1.0, None, "0" * 16], ids=repr)
def test_other_span_ids_are_none(value: Value) -> None:
    """It is derived then, from the same parts as without one."""
    row = row_of(espan_point(span_id=value))
    assert row["sent_span_id"] == 0
    assert row["span_id"] == row_of(espan_point())["span_id"]


@pytest.mark.parametrize(
    ("start", "time", "expected"),
    [
        (START_US, 99, START_US * 1000),
        (str(START_US), 99, START_US * 1000),
        (None, 99, 99),
        (0, 99, 99),
        (-5, 99, 99),
        ("soon", 99, 99),
        (2**62, 99, 99),
        (None, 0, 0),
        (None, -7, 0),
    ],
)
def test_start_is_its_key_else_the_time_of_the_point(start: Value, time: int, expected: int) -> None:
    """`start` counts microseconds, the point's time nanoseconds."""
    point = espan_point(start=start, duration=3)
    point.time = time
    row = row_of(point)
    assert row["start_ns"] == expected
    assert row["end_ns"] == (expected + 3000 if expected else 0)


def test_negative_and_huge_ids_do_not_depend_on_the_form() -> None:
    """A derived id is one and the same, whatever type the parts came in."""
    rows = [row_of(espan_point(thread_trace_id=value, tid=1)) for value in (-5, 2**64 - 5, "-5", str(2**64 - 5))]
    assert len({row["span_id"] for row in rows}) == 1


def nested(groups: int) -> bytes:
    return b"\x9b\x06" * groups + b"\x9c\x06" * groups  # number 99


@pytest.mark.parametrize("groups", range(95, 102))
@pytest.mark.parametrize("level", ["body", "point", "field", "remark"])
def test_groups_are_read_as_deep_as_protobuf_reads_them(level: str, groups: int) -> None:
    """Unknown groups inside one another, wherever they stand: what protobuf does not read as a body is not taken."""
    deep, field = nested(groups), field_of("x", 1).SerializeToString()
    parts = {"body": b"", "point": deep, "field": wire_field(2, field + deep), "remark": wire_field(4, deep)}
    body = wire_field(1, espan_point().SerializeToString() + parts[level]) + deep * (level == "body")
    try:
        PBPoints.FromString(body)
    except DecodeError:
        with pytest.raises(InvalidPoints):
            decode_points(body, PROTOBUF, peer=PEER)
    else:
        assert len(decode_points(body, PROTOBUF, peer=PEER).batch) == 1
