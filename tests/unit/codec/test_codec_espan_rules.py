"""docs/espan.md, rule by rule: what becomes of an eSpan's attributes."""

from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValueList

from bridge.codec.otlp_protobuf import decode_request
from bridge.spans import Direction, Encoding, Kind, convention, text_hash
from tests.support.espans import REQUIRED, Value, any_value, espan_of, pairs, request_of, span_of

U64 = 2**64 - 1
MAX_NS = 2**63 - 1
HEX_ID = "0123456789abcdef" + "fedcba9876543210"
ARRAY = AnyValue(array_value=ArrayValue(values=[any_value("1")]))
LIST = AnyValue(kvlist_value=KeyValueList(values=pairs({"1": "1"})))


def row_of(span: Any) -> dict[str, int]:
    """The columns of the only span of a request."""
    batch = decode_request(request_of(span), peer="peer").batch
    assert len(batch) == 1
    return {name: int(column[0]) for name, column in batch.columns.items()}


def faults_of(row: dict[str, int]) -> set[str]:
    return {key for key, bit in convention.FAULT.items() if row["faults"] & bit}


@pytest.mark.parametrize("key", sorted(convention.MARKERS))
@pytest.mark.parametrize("value", ["x", 1, 1.5, None], ids=repr)
def test_marker_makes_an_espan(key: str, value: Value) -> None:
    """A span with any marker is an eSpan, whatever the value, without ids of its own."""
    assert row_of(span_of({key: value}))["kind"] != Kind.ORDINARY


def test_span_without_marker_is_ordinary() -> None:
    """Other keys of eSpans make none."""
    others = {key: "1" for key in convention.KEY_OF_BIT if key not in convention.MARKERS}
    row = row_of(span_of(others, trace_id=b"t" * 16, span_id=b"s" * 8))
    assert (row["kind"], row["faults"], row["pid"]) == (Kind.ORDINARY, 0, 0)


def test_required_keys_are_enough() -> None:
    """An eSpan with the four required keys has no fault."""
    row = row_of(espan_of())
    assert faults_of(row) == set()
    assert (row["kind"], row["direction"], row["req_seq"], row["resp_seq"]) == (Kind.ENTRY, Direction.INCOMING, 11, 12)


@pytest.mark.parametrize("key", sorted(convention.REQUIRED))
def test_missing_required_key_is_a_fault(key: str) -> None:
    """Each required key that is absent is a fault, that one alone."""
    without = {k: v for k, v in REQUIRED.items() if k != key} | {"thread_trace_id": 1}
    assert faults_of(row_of(span_of(without))) == {key}


@pytest.mark.parametrize("value", ["", None], ids=repr)
@pytest.mark.parametrize("key", convention.KEY_OF_BIT)
def test_empty_value_counts_as_absent(key: str, value: Value) -> None:
    """Empty text or no value at all: as if the key were not there."""
    row = row_of(espan_of(**{key: value}))
    without = row_of(span_of({k: v for k, v in REQUIRED.items() if k != key}))
    del row["digest"], without["digest"]
    assert row == without


@pytest.mark.parametrize("value", [1.5, True, b"1", ARRAY, LIST], ids=["double", "bool", "bytes", "array", "list"])
@pytest.mark.parametrize("key", convention.KEY_OF_BIT)
def test_value_of_another_type_is_a_fault(key: str, value: Value) -> None:
    """A value that is neither text nor an integer cannot be read."""
    assert faults_of(row_of(espan_of(**{key: value}))) == {key}


INTEGERS = ("req_seq", "resp_seq", "thread_trace_id", "tid", "tid_usr")


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (7, 7),
        ("7", 7),
        ("007", 7),
        (0, 0),
        ("-0", 0),
        (-1, U64),
        ("-1", U64),
        (str(U64), U64),
        (str(2**63), 2**63),
        (-(2**63), 2**63),
        (str(-(2**63)), 2**63),
        ("0" * 19 + "7", 7),
    ],
    ids=repr,
)
def test_integers_come_as_int_or_decimal_text(key: str, sent: Value, read: int) -> None:
    """Signed and unsigned write the same bit pattern."""
    row = row_of(espan_of(**{key: sent}))
    assert row[key] == read
    assert faults_of(row) == set()


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize(
    "text",
    ["x", "-", "--1", "+1", " 1", "1 ", "1.0", "1_0", "0x1", "٣", "1" * 21, str(2**64), "9" * 20, str(-(2**63) - 1)],
)
def test_text_that_is_no_64_bit_number_is_a_fault(key: str, text: str) -> None:
    """What is no number counts as 0, with a fault."""
    row = row_of(espan_of(**{key: text}))
    assert (row[key], faults_of(row)) == (0, {key})


@pytest.mark.parametrize(("word", "kind"), [("entry", Kind.ENTRY), ("exit", Kind.EXIT), ("unknown", Kind.UNKNOWN)])
def test_span_type_is_the_kind(word: str, kind: Kind) -> None:
    """ebpf_span_type has three words, all without fault."""
    row = row_of(espan_of(ebpf_span_type=word))
    assert (row["kind"], faults_of(row)) == (kind, set())


@pytest.mark.parametrize("value", ["Entry", "entry ", "e", 1], ids=repr)
def test_unknown_span_type_is_a_fault(value: Value) -> None:
    """Any other word leaves an eSpan of unknown kind."""
    row = row_of(espan_of(ebpf_span_type=value))
    assert (row["kind"], faults_of(row)) == (Kind.UNKNOWN, {"ebpf_span_type"})


@pytest.mark.parametrize(
    ("word", "direction"),
    [("incoming", Direction.INCOMING), ("outgoing", Direction.OUTGOING), ("unknown", Direction.UNKNOWN)],
)
def test_direction_unknown_is_no_fault(word: str, direction: Direction) -> None:
    """direction has three words, all without fault."""
    row = row_of(espan_of(direction=word))
    assert (row["direction"], faults_of(row)) == (direction, set())


@pytest.mark.parametrize("value", ["in", "INCOMING", 1], ids=repr)
def test_unknown_direction_is_a_fault(value: Value) -> None:
    """Any other word counts as absent, with a fault."""
    row = row_of(espan_of(direction=value))
    assert (row["direction"], faults_of(row)) == (Direction.ABSENT, {"direction"})


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (4711, 4711),
        ("4711", 4711),
        ("-1", U64),
        ("java", text_hash("java")),
        *((t, text_hash(t)) for t in ("4" * 21, "ä" * 300)),
    ],
    ids=lambda v: repr(v)[:20],
)
def test_pid_may_be_a_name(sent: Value, read: int) -> None:
    """Text that is no number is hashed, and as good."""
    row = row_of(espan_of(pid=sent))
    assert (row["pid"], faults_of(row)) == (read, set())


@pytest.mark.parametrize("key", ["src_ip", "dst_ip"])
@pytest.mark.parametrize(
    ("sent", "read"),
    [("10.0.0.17", 0x0A000011), ("255.255.255.255", 2**32 - 1), ("0.0.0.0", 0), ("::ffff:10.0.0.17", 0x0A000011)],  # noqa: S104
)
def test_ipv4_is_compared_as_a_number(key: str, sent: str, read: int) -> None:
    """Also where it is mapped into IPv6."""
    row = row_of(espan_of(**{key: sent}))
    assert (row[key], faults_of(row)) == (read, set())


OTHER_ADDRESSES = ("::1", "2001:db8::1", "db.internal", "10.0.0", "10.0.0.256", "10.0.0.1.2", "01.2.3.4", "1.2.3.4 ")
NO_ADDRESSES = ("1..2.3", "1.2.3.", "1.2.3.0004", "1.2.3.4x", "a" * 300, "ä")


@pytest.mark.parametrize("key", ["src_ip", "dst_ip"])
@pytest.mark.parametrize("sent", OTHER_ADDRESSES + NO_ADDRESSES, ids=lambda text: text[:20])
def test_any_other_address_is_compared_as_text(key: str, sent: str) -> None:
    """By its text hash, without a fault."""
    row = row_of(espan_of(**{key: sent}))
    assert (row[key], faults_of(row)) == (text_hash(sent), set())


@pytest.mark.parametrize("key", ["src_ip", "dst_ip"])
def test_address_that_is_no_text_is_a_fault(key: str) -> None:
    """A number is no address."""
    row = row_of(espan_of(**{key: 0x0A000011}))
    assert (row[key], faults_of(row)) == (0, {key})


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (4711, 4711),
        ("4711", 4711),
        ("0", 0),
        (-1, U64),
        ("abc", 0x44BC2CF5AD770999),
        ("9f2c1a1e-5b0a-4c7e-8f63-0d6f7d5b2a11", 0xB6AE74E0B4666411),
        *((t, None) for t in (True, 1.5)),
    ],
    ids=repr,
)
def test_request_id_is_a_number_or_hashed(sent: Value, read: int | None) -> None:
    """By XXH64 of its text; anything else is a fault."""
    row = row_of(espan_of(request_id=sent))
    assert (row["request_id"], faults_of(row)) == ((0, {"request_id"}) if read is None else (read, set()))


@pytest.mark.parametrize(
    ("sent", "read"), [(1, 1), ("4294967295", 2**32 - 1), (0, 0), (2**32, None), (-1, None), ("odd", None)], ids=repr
)
def test_stream_id_has_32_bits(sent: Value, read: int | None) -> None:
    """Beyond that is a fault."""
    row = row_of(espan_of(stream_id=sent))
    assert (row["stream_id"], faults_of(row)) == ((0, {"stream_id"}) if read is None else (read, set()))


@pytest.mark.parametrize("key", ["src_port", "dst_port"])
@pytest.mark.parametrize(
    ("sent", "read"), [("8080", 8080), (65535, 65535), (0, 0), (65536, None), ("-1", None), ("http", None)], ids=repr
)
def test_port_has_16_bits(key: str, sent: Value, read: int | None) -> None:
    """Beyond 0..65535 is a fault."""
    row = row_of(espan_of(**{key: sent}))
    assert (row[key], faults_of(row)) == ((0, {key}) if read is None else (read, set()))


@pytest.mark.parametrize(
    ("sent", "read"), [(5, 5), (str(MAX_NS), MAX_NS), (0, 0), (-5, 0), (str(MAX_NS + 1), 0)], ids=repr
)
def test_negative_ktime_counts_as_absent(sent: Value, read: int) -> None:
    """ktime is ns, without a fault where it cannot be a time."""
    row = row_of(espan_of(ktime=sent))
    assert (row["ktime"], faults_of(row)) == (read, set())


@pytest.mark.parametrize(("sent", "read"), [(1, 1), ("2", 1), (0, 0), (-1, -1), ("-7", -1), (str(U64), -1)], ids=repr)
def test_sampling_flag_is_a_sign(sent: Value, read: int) -> None:
    """Above 0 keep, below 0 reject."""
    assert row_of(espan_of(app_span_sampled=sent))["app_flag"] == read


TOO_LONG_US = MAX_NS // 1000 + 1


@pytest.mark.parametrize(
    ("own", "attributes", "times"),
    [
        ((0, 0), {}, (0, 0)),
        ((5, 9), {}, (5, 9)),
        ((5, 9), {"start": 1, "duration": 1}, (5, 9)),
        ((0, 0), {"start": 3, "duration": 2}, (3000, 5000)),
        ((0, 0), {"start": "3", "duration": "2"}, (3000, 5000)),
        ((7, 0), {"start": 3, "duration": 2}, (7, 2007)),
        ((0, 9), {"start": 3}, (3000, 9)),
        ((0, 0), {"duration": 2}, (0, 0)),
        ((0, 0), {"start": 3}, (3000, 0)),
        ((0, 0), {"start": 3, "duration": 0}, (3000, 3000)),
        ((0, 0), {"start": 3, "duration": -2}, (3000, 0)),
        ((0, 0), {"start": -3, "duration": 2}, (0, 0)),
        ((0, 0), {"start": TOO_LONG_US, "duration": 2}, (0, 0)),
        ((0, 0), {"start": TOO_LONG_US - 1, "duration": TOO_LONG_US - 1}, ((TOO_LONG_US - 1) * 1000, 0)),
        ((2**63, 2**64 - 1), {"start": 3}, (3000, 0)),
    ],
)
def test_own_times_come_before_attributes(own: tuple[int, int], attributes: Any, times: tuple[int, int]) -> None:
    """`start` and `duration` (us) stand in where the span has no time of its own; what is no time counts as absent."""
    span = espan_of(**attributes)
    span.start_time_unix_nano, span.end_time_unix_nano = own
    row = row_of(span)
    assert (row["start_ns"], row["end_ns"]) == times
    assert faults_of(row) == set()


def test_unreadable_duration_is_a_fault() -> None:
    """It leaves the end unknown."""
    row = row_of(espan_of(start=3, duration="long"))
    assert (row["end_ns"], faults_of(row)) == (0, {"duration"})


@pytest.mark.parametrize(
    ("attributes", "halves", "encoding"),
    [
        ({}, (0, 0), Encoding.ABSENT),
        ({"app_trace_encode": "hex"}, (0, 0), Encoding.ABSENT),
        ({"app_trace_id_l": 5}, (0, 5), Encoding.DEC),
        ({"app_trace_id_l": -1}, (0, U64), Encoding.DEC),
        ({"app_trace_id_l": 5, "app_trace_id_h": 6}, (6, 5), Encoding.HEX),
        ({"app_trace_id_h": 6}, (6, 0), Encoding.HEX),
        ({"app_trace_id_l": 5, "app_trace_encode": "hex"}, (0, 5), Encoding.HEX),
        ({"app_trace_id_l": 5, "app_trace_id_h": 6, "app_trace_encode": "dec"}, (6, 5), Encoding.DEC),
        ({"app_trace_id": HEX_ID}, (int(HEX_ID[:16], 16), int(HEX_ID[16:], 16)), Encoding.HEX),
        ({"app_trace_id": HEX_ID.upper()}, (int(HEX_ID[:16], 16), int(HEX_ID[16:], 16)), Encoding.HEX),
        ({"app_trace_id": "0" * 31 + "7"}, (0, 7), Encoding.HEX),
        ({"app_trace_id": "1234"}, (0, 1234), Encoding.DEC),
        ({"app_trace_id": 1234}, (0, 1234), Encoding.DEC),
        ({"app_trace_id": "1234", "app_trace_encode": "hex"}, (0, 1234), Encoding.HEX),
        ({"app_trace_id": HEX_ID, "app_trace_id_l": 5}, (0, 5), Encoding.HEX),
        ({"app_trace_id": "1234", "app_trace_id_l": 5, "app_trace_id_h": 6}, (6, 5), Encoding.DEC),
        ({"app_trace_id": "0" * 31 + "7", "app_trace_id_l": 0, "app_trace_id_h": 0}, (0, 7), Encoding.HEX),
    ],
)
def test_header_trace_id_and_how_it_is_written(attributes: Any, halves: tuple[int, int], encoding: Encoding) -> None:
    """Numbers come first, app_trace_id stands in; app_trace_encode says how ids are written, else app_trace_id, else
    whether there is an upper half."""
    row = row_of(espan_of(**attributes))
    assert (row["app_trace_hi"], row["app_trace_lo"]) == halves
    assert row["app_encode"] == encoding
    assert faults_of(row) == set()


@pytest.mark.parametrize("text", ["x", "a" * 31, "g" * 32, HEX_ID + "0", str(2**64)])
def test_unreadable_header_trace_id_is_a_fault(text: str) -> None:
    """Neither 32 hex digits nor a decimal number."""
    row = row_of(espan_of(app_trace_id=text))
    assert (row["app_trace_hi"], row["app_trace_lo"], faults_of(row)) == (0, 0, {"app_trace_id"})


def test_unknown_encoding_is_a_fault() -> None:
    """The ids are read as if it were absent."""
    row = row_of(espan_of(app_trace_id_l=5, app_trace_encode="oct"))
    assert (row["app_encode"], faults_of(row)) == (Encoding.DEC, {"app_trace_encode"})


@pytest.mark.parametrize(
    ("attributes", "parent"),
    [
        ({"app_parent_id_l": 5}, 5),
        ({"app_parent_id_l": 5, "app_parent_id": "7"}, 5),
        ({"app_parent_id_l": 0, "app_parent_id": "7"}, 7),
        ({"app_parent_id": 7}, 7),
        ({"app_parent_id": "00000000000000ff"}, 255),
        ({"app_parent_id": "00000000000000FF", "app_trace_id": "12"}, 255),
        ({"app_parent_id": "1000000000000000", "app_trace_id": "12"}, 10**15),
        ({"app_parent_id": "1000000000000000", "app_trace_id": HEX_ID}, 16**15),
        ({"app_parent_id": "1000000000000000", "app_trace_encode": "hex"}, 16**15),
        ({"app_parent_id": "1000000000000000"}, 10**15),
    ],
)
def test_header_parent_id(attributes: Any, parent: int) -> None:
    """16 decimal digits are hex where the trace id is."""
    row = row_of(espan_of(**attributes))
    assert (row["app_parent"], faults_of(row)) == (parent, set())


@pytest.mark.parametrize("text", ["x", "ff", "00000000000000fg", "-00000000000000f"])
def test_unreadable_header_parent_id_is_a_fault(text: str) -> None:
    """Neither 16 hex digits nor a decimal number."""
    row = row_of(espan_of(app_parent_id=text))
    assert (row["app_parent"], faults_of(row)) == (0, {"app_parent_id"})


def test_of_a_key_given_twice_the_last_counts() -> None:
    """Also when the last has no value."""
    twice = [*REQUIRED.items(), ("tid", 1), ("tid", 2), ("pid", 1), ("pid", None), ("ktime", "x"), ("ktime", 3)]
    row = row_of(span_of(twice))
    assert (row["tid"], row["pid"], row["ktime"], faults_of(row)) == (2, 0, 3, set())


def test_own_ids_of_an_espan() -> None:
    """Ids are big-endian numbers."""
    row = row_of(
        span_of(
            REQUIRED,
            trace_id=(2**64 + 2).to_bytes(16, "big"),
            span_id=(3).to_bytes(8, "big"),
            parent_span_id=(0x104).to_bytes(8, "big"),
        )
    )
    ids = (row["trace_hi"], row["trace_lo"], row["sent_span_id"], row["span_id"], row["parent_id"])
    assert ids == (1, 2, 3, 3, 0x104)


def test_ids_of_a_wrong_length_count_as_absent() -> None:
    """An eSpan is taken without them."""
    row = row_of(span_of(REQUIRED, trace_id=b"t" * 15, span_id=b"s" * 9, parent_span_id=b"p"))
    assert (row["trace_hi"], row["trace_lo"], row["sent_span_id"], row["parent_id"]) == (0, 0, 0, 0)
    assert row["span_id"] not in (0, int.from_bytes(b"s" * 8, "big"))
