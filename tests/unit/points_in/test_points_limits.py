"""Limits of a point: each is kept at its value and costs the point one beyond it, and that point alone."""

import numpy as np
import pytest

from bridge.codec.limits import RequestLimits
from bridge.codec.points.decode import InvalidPoints, decode_points
from bridge.codec.points.limits import MAX_POINTS
from bridge.codec.points.point_pb2 import PBPoint
from bridge.errors import TooLarge
from tests.support.espans import field as wire_field
from tests.support.point_bodies import PEER, PROTOBUF, body_of, decoded, espan_point, field_of, point_of

A = {"a": 1}
LIMITS = {
    "measurement_too_long": (1024, lambda n: point_of(A, name="m" * n)),
    "key_too_long": (256, lambda n: point_of({"k" * n: 1})),
    "tag_value_too_long": (1024, lambda n: point_of(A, {"t": "ä" * (n // 2) + "b" * (n % 2)})),
    "field_value_too_long": (32 * 2**20, lambda n: point_of({"f": "v" * n})),
    "too_many_tags": (256, lambda n: point_of(A, [(str(i), "v") for i in range(n)])),
    "too_many_fields": (1024, lambda n: point_of([(str(i), i) for i in range(n)])),
}


@pytest.mark.parametrize("reason", LIMITS)
def test_limit_costs_what_is_beyond_it(reason: str) -> None:
    """Bytes count, not characters."""
    limit, point = LIMITS[reason]
    found = decoded(espan_point(), point(limit), point(limit + 1), espan_point())
    assert (len(found.batch), found.rejected) == (3, {reason: 1})
    assert found.rejection.startswith("points[2]: ")
    assert str(limit) in found.rejection


BAD = {
    "no_measurement": point_of(A, name=""),
    "no_fields": point_of((), {"only": "a tag"}),
    "key_too_long": point_of({"k" * 300: 1}),
    "tag_value_too_long": point_of(A, {"city": "x" * 2000}),
}


@pytest.mark.parametrize(
    ("reason", "rejection"),
    [
        ("no_measurement", "points[1]: no measurement"),
        ("no_fields", "points[1]: no fields"),
        ("key_too_long", f'points[1]: "{"k" * 60}...": key longer than 256 bytes'),
        ("tag_value_too_long", 'points[1]: tag "city": value longer than 1024 bytes'),
    ],
)
def test_rejection_names_point_key_and_reason(reason: str, rejection: str) -> None:
    """For whoever sent it."""
    found = decoded(espan_point(), BAD[reason])
    assert (len(found.batch), found.rejected, found.rejection) == (1, {reason: 1}, rejection)


def test_binary_values_have_limits_too() -> None:
    """As text has."""
    found = decoded(espan_point(), point_of(A, {"t": b"\xff" * 1025}))
    assert found.rejected == {"tag_value_too_long": 1}


def test_value_that_does_not_count_has_no_limit() -> None:
    """The last value of a field is what is looked at."""
    field = wire_field(1, b"t") + wire_field(11, b"x" * 2000) + b"\x10\x01" + b"\x40\x01"  # key, s, i, is_tag
    body = wire_field(1, espan_point().SerializeToString() + wire_field(2, field))
    assert len(decode_points(body, PROTOBUF, peer=PEER).batch) == 1


def test_first_bad_field_is_told() -> None:
    """Of several reasons in one point."""
    point = point_of({"k" * 257: 1}, {"t": "x" * 1025}, name="m")
    assert decoded(espan_point(), point).rejected == {"tag_value_too_long": 1}


def test_first_few_are_told_and_all_are_counted() -> None:
    """So that an answer stays short."""
    found = decoded(*[point_of(A, name="")] * 5, espan_point(), *[point_of(())] * 2)
    assert found.rejected == {"no_measurement": 5, "no_fields": 2}
    told = "; ".join(f"points[{i}]: no measurement" for i in range(3))
    assert found.rejection == f"{told}; and 4 more"


@pytest.mark.parametrize(
    "broken", [b"\x0a\x01\xff", b"\x0a\x05m", b"\x12\x03\x0a\x01\xff", b"\x12\x04\x0a\x01kZ", b"\x0b"], ids=repr
)
def test_unreadable_point_costs_no_other(broken: bytes) -> None:
    """Text that is no UTF-8, or what is no protobuf: the points around it are taken."""
    good = wire_field(1, espan_point().SerializeToString())
    found = decode_points(good + wire_field(1, broken) + good, PROTOBUF, peer=PEER)
    assert (len(found.batch), found.rejected) == (2, {"unreadable": 1})
    assert found.rejection.startswith("points[1]: ")


def test_body_of_which_no_point_is_taken() -> None:
    """The sender is told why, and the points are counted all the same."""
    with pytest.raises(InvalidPoints, match=r"^points\[0\]: no fields; points\[1\]: no measurement$") as refused:
        decoded(PBPoint(name="m"), PBPoint(fields=[field_of("a", 1)]))
    assert refused.value.error_code == "datakit.invalidProtobufPoint"
    assert refused.value.rejected == {"no_fields": 1, "no_measurement": 1}


def test_too_many_points() -> None:
    """A body is refused before columns are made of it."""
    with pytest.raises(TooLarge, match=str(MAX_POINTS)):
        decode_points(b"\x0a\x00" * (MAX_POINTS + 1), PROTOBUF, peer=PEER)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_point_that_is_too_large_costs_no_other(beyond: int) -> None:
    """What is kept is as it was, and with its own host and service."""
    large = espan_point(host="large", service="s", note="x" * 5000)
    small = [espan_point(host=f"h{i}", service=f"s{i}", pid=str(i)) for i in range(3)]
    body = body_of(small[0], large, *small[1:])
    whole = decode_points(body, PROTOBUF, peer=PEER).batch
    limits = RequestLimits(max_span_bytes=large.ByteSize() - beyond)
    found = decode_points(body, PROTOBUF, peer=PEER, limits=limits)
    kept = [0, 2, 3] if beyond else [0, 1, 2, 3]
    assert found.rejected == ({"span_too_large": 1} if beyond else {})
    assert found.rejection == (f"1 larger than max_span_bytes = {limits.max_span_bytes}" if beyond else "")
    assert [found.batch.payload.span(i) for i in range(len(kept))] == [whole.payload.span(i) for i in kept]
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(getattr(found.batch.columns, name), column[kept], err_msg=name)


def test_a_body_of_points_that_are_all_too_large() -> None:
    """There is nothing to keep of it."""
    with pytest.raises(InvalidPoints, match="1 larger than max_span_bytes = 10") as refused:
        decode_points(body_of(espan_point()), PROTOBUF, peer=PEER, limits=RequestLimits(max_span_bytes=10))
    assert refused.value.rejected == {"span_too_large": 1}
