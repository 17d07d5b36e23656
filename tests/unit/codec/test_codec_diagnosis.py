"""What is said of bytes that are no request: the innermost message, the byte, the reason."""

import pytest

from bridge.codec import otlp_diagnosis
from bridge.codec.otlp_protobuf import decode_request
from bridge.errors import InvalidData
from tests.support.espans import espan_of, field, request_of

SPAN = espan_of(tid=1).SerializeToString()
BAD_TEXT = field(1, b"\xed\xa0\x80")
SPANS = "resource_spans[0].scope_spans[0].spans"


def said_of(body: bytes) -> str:
    with pytest.raises(InvalidData) as caught:
        decode_request(body, peer="peer")
    return str(caught.value)


def spans(*some: bytes) -> bytes:
    """A request; its first span begins at byte 6, if all are short."""
    return field(1, field(2, b"".join(field(2, span) for span in some)))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\x00", "request: byte 0 is no protobuf field (tag 0)"),
        (b"\x02\x00", "request: byte 0 is no protobuf field (tag 2)"),
        (b"hello world", "request: byte 2 is no protobuf field (tag 108)"),
        (b"\x1f\x8b\x08", "request: byte 0 is no protobuf field (tag 31)"),
        (b"\xff" * 9, "request: byte 0 is no protobuf field (its tag is too long)"),
        (b"\xff\xff\xff\xff\x10", "request: byte 0 is no protobuf field (its tag is too long)"),
        (b"\x0a\x00\xff", "request: cut off at byte 2 (inside its tag)"),
        (b"\x0a\x00\x0a\xff", "request: cut off at byte 2 (inside the length of field 1)"),
        (b"\x0a" + b"\xff" * 5, "request: byte 0 is no protobuf field (the length of field 1 is too long)"),
        (b"\x18\x80", "request: cut off at byte 0 (inside the number of field 3)"),
        (b"\x18" + b"\x80" * 10, "request: byte 0 is no protobuf field (the number of field 3 is too long)"),
        (b"\x19abc", "request: cut off at byte 0 (field 3 wants 8 bytes, 3 are left)"),
        (b"\x1dabc", "request: cut off at byte 0 (field 3 wants 4 bytes, 3 are left)"),
        (b"\x7a\x09", "request: cut off at byte 0 (field 15 wants 9 bytes, 0 are left)"),
        (b"\x1b\x00", "request: byte 0 is no protobuf field (group 3 does not end, or holds what is none)"),
    ],
    ids=repr,
)
def test_bytes_that_are_no_field_are_located(body: bytes, said: str) -> None:
    """By the first byte of the field, and what is wrong with it."""
    assert said_of(body) == said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            field(1, b"") + field(1, b"\x12\x7f"),
            "resource_spans[1]: cut off at byte 4 (field 2 wants 127 bytes, 0 are left)",
        ),
        (field(1, field(2, b"\x0c")), "resource_spans[0].scope_spans[0]: byte 4 is no protobuf field (tag 12)"),
        (spans(b"", b"\x2a\x05ab"), f"{SPANS}[1]: cut off at byte 8 (field 5 wants 5 bytes, 2 are left)"),
        (spans(b"", field(5, b"ab\xff")), f"{SPANS}[1].name: no UTF-8 at byte 12"),
        (field(1, field(3, b"\xff")), "resource_spans[0].schema_url: no UTF-8 at byte 4"),
        (spans(field(9, b"") + field(9, field(1, b"\xc0\x80"))), f"{SPANS}[0].attributes[1].key: no UTF-8 at byte 12"),
        (
            spans(field(13, field(4, field(2, BAD_TEXT)))),
            f"{SPANS}[0].links[0].attributes[0].value.string_value: no UTF-8 at byte 14",
        ),
        (
            field(1, field(1, b"\x0a\x05")),
            "resource_spans[0].resource: cut off at byte 4 (field 1 wants 5 bytes, 0 are left)",
        ),
    ],
    ids=repr,
)
def test_innermost_message_is_named(body: bytes, said: str) -> None:
    """Bytes count from the request's first, wherever the message is."""
    assert said_of(body) == said


def test_request_that_ends_too_early_is_located_where_it_ends() -> None:
    """All lengths around the cut lead beyond the end; the innermost is named."""
    body = request_of(espan_of(), espan_of(tid=1, pid="x"))
    at = body.index(b"\x03pid") - 3  # tag and length of the attribute, then tag and length of its key
    assert (
        said_of(body[: at + 5])
        == f"{SPANS}[1].attributes[5]: cut off at byte {at + 2} (field 1 wants 3 bytes, 1 are left)"
    )


def test_request_that_ends_between_fields_is_located_around_them() -> None:
    """Where nothing inside is cut off, what ends too early is the message around."""
    span = field(2, espan_of().SerializeToString())
    body = field(1, field(2, span + span))
    at = len(body) - len(field(2, span + span))
    said = f"resource_spans[0]: cut off at byte {at} (field 2 wants {2 * len(span)} bytes, {len(span)} are left)"
    assert said_of(body[: -len(span)]) == said


@pytest.mark.parametrize("rest", [bytes(9), field(1, b"\xff") + field(3, b"abc")])
def test_length_that_leads_too_far_is_named_itself(rest: bytes) -> None:
    """If what follows is not what it should hold, the bytes did not just end too early."""
    said = f"request: cut off at byte 0 (field 1 wants 127 bytes, {len(rest)} are left)"
    assert said_of(b"\x0a\x7f" + rest) == said


def in_arrays(innermost: bytes, depth: int) -> bytes:
    """An AnyValue inside so many arrays."""
    for _ in range(depth):
        innermost = field(5, field(1, innermost))
    return innermost


def test_messages_that_nest_too_deep_are_told() -> None:
    """Nothing else is wrong with them."""
    assert said_of(field(1, field(1, field(1, field(2, in_arrays(field(5, b""), 48)))))) == "request: nested too deep"


def test_no_more_than_so_many_levels_are_looked_into() -> None:
    """Deeper down the message that was reached is named: the path has a name a level."""
    body = field(1, field(1, field(1, field(2, in_arrays(b"\xff", 40)))))
    path = "resource_spans[0].resource.attributes[0].value" + ".array_value.values[0]" * 4
    assert path.count(".") == otlp_diagnosis.MAX_LEVELS - 1
    at = len(body) - len(in_arrays(b"\xff", 36))
    assert said_of(body) == f"{path}: cannot be read from byte {at} on, or nested too deep"


def test_no_more_than_so_many_fields_are_walked_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind them the message is named, and where it was left."""
    monkeypatch.setattr(otlp_diagnosis, "MAX_FIELDS", 3)
    assert said_of(b"\x0a\x00" * 3 + b"\x00") == "request: byte 6 is no protobuf field (tag 0)"
    assert said_of(b"\x0a\x00" * 4 + b"\x00") == "request: cannot be read from byte 6 on"
    assert said_of(b"\x0a\x7f" + b"\x12\x00" * 4) == "request: cut off at byte 0 (field 1 wants 127 bytes, 8 are left)"
