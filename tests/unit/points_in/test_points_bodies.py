"""Which form a body is read as, and what is said of one that cannot be read."""

from collections.abc import Callable

import pytest

from bridge.codec.points.decode import InvalidPoints, decode_points
from bridge.codec.points.limits import MAX_POINTS
from bridge.codec.points.point_pb2 import PBPoint
from bridge.errors import TooLarge
from tests.support.espans import espan_of, request_of
from tests.support.point_bodies import (
    JSON,
    LINES,
    PBJSON,
    PEER,
    PROTOBUF,
    Point,
    as_json,
    as_lines,
    as_pbjson,
    as_protobuf,
)

POINTS = [Point("dketrace", (), (("req_seq", 1), ("resp_seq", 2)), 1_767_225_600_000_000_000)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (PROTOBUF, as_protobuf(POINTS)),
        ("application/protobuf", as_protobuf(POINTS)),
        ("application/x-protobuf", as_protobuf(POINTS)),
        ("Application/Protobuf;proto=com.guance.Point", as_protobuf(POINTS)),
        (JSON, as_json(POINTS)),
        ("application/json; charset=utf-8", as_json(POINTS)),
        (JSON, as_pbjson(POINTS)),
        (PBJSON, as_pbjson(POINTS)),
        (LINES, as_lines(POINTS)),
        ("text/plain", as_lines(POINTS)),
        ("", as_lines(POINTS)),
    ],
)
def test_content_type_says_the_form(content_type: str, body: bytes) -> None:
    """Whatever else it is, it is line protocol."""
    columns = decode_points(body, content_type, peer=PEER).batch.columns
    assert (columns.req_seq.tolist(), columns.resp_seq.tolist()) == ([1], [2])
    assert columns.start_ns.tolist() == [POINTS[0].time]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (PROTOBUF, b""),
        (JSON, b""),
        (JSON, b" \n"),
        (JSON, b" [ ] "),
        (PBJSON, b"[]"),
        (LINES, b""),
        (LINES, b"\r\n \n# only a comment"),
    ],
)
def test_body_without_points(content_type: str, body: bytes) -> None:
    """There is a code for it."""
    with pytest.raises(InvalidPoints) as refused:
        decode_points(body, content_type, peer=PEER)
    assert refused.value.error_code == "datakit.noPoints"


@pytest.mark.parametrize(
    ("content_type", "body", "error_code", "message"),
    [
        (PROTOBUF, b"\xff", "datakit.invalidProtobufPoint", "^body: "),
        (PROTOBUF, as_protobuf(POINTS)[:-1], "datakit.invalidProtobufPoint", "^body: "),
        (PROTOBUF, as_json(POINTS), "datakit.invalidProtobufPoint", "^body: "),
        (PROTOBUF, b"\x0a\x02\x0a\x09" * 5, "datakit.invalidProtobufPoint", r"^points\[0\]: .*; and 2 more$"),
        (PROTOBUF, request_of(espan_of()), "datakit.invalidProtobufPoint", r"^points\[0\]: "),
        (JSON, b"{}", "datakit.invalidJsonPoint", "^body: want an array of points at character 0$"),
        (JSON, b"\xff[]", "datakit.invalidJsonPoint", "^body: no UTF-8 at byte 0$"),
        (JSON, b"[1]", "datakit.invalidJsonPoint", r"^points\[0\]: want an object, got 1$"),
        (JSON, b'[{"measurement":', "datakit.invalidJsonPoint", r"^points\[0\]: no JSON: "),
        (JSON, as_json(POINTS)[:-1], "datakit.invalidJsonPoint", "^body: want the array's end at character"),
        (JSON, as_json(POINTS) + b"x", "datakit.invalidJsonPoint", "^body: want the array's end at character"),
        (JSON, as_json(POINTS)[:-1] + b",]", "datakit.invalidJsonPoint", r"^points\[1\]: no JSON: "),
        (JSON, b'[{"fields":' + b"[" * 10**5, "datakit.invalidJsonPoint", r"^points\[0\]: nested too deep$"),
        (PBJSON, as_protobuf(POINTS), "datakit.invalidJsonPoint", "^body: "),
        (LINES, b"m\nn", "datakit.invalidLinePoint", '^line 1: want a space and fields, got ""; line 2: '),
        (LINES, as_protobuf(POINTS), "datakit.invalidLinePoint", "^line 2: "),
    ],
)
def test_unreadable_body(content_type: str, body: bytes, error_code: str, message: str) -> None:
    """By the reference's code, with the place."""
    with pytest.raises(InvalidPoints, match=message) as refused:
        decode_points(body, content_type, peer=PEER)
    assert refused.value.error_code == error_code


@pytest.mark.parametrize(("content_type", "start", "point"), [(JSON, b"[", b"{},"), (LINES, b"", b"m\n")])
def test_too_many_points(content_type: str, start: bytes, point: bytes) -> None:
    """Good or bad."""
    with pytest.raises(TooLarge, match=str(MAX_POINTS)):
        decode_points(start + point * (MAX_POINTS + 1), content_type, peer=PEER)


TIMELESS = [Point("dketrace", (), (("req_seq", 1),))]
RECEIVED_NS = 1_767_225_600_000_000_007


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, as_json(TIMELESS)),
        (JSON, b'[{"measurement":"m","fields":{"a":1}}]'),
        (PBJSON, as_pbjson(TIMELESS)),
        (LINES, as_lines(TIMELESS)),
    ],
)
def test_point_in_text_without_a_time_has_that_of_its_arrival(content_type: str, body: bytes) -> None:
    """For linking, and in the bytes that are made of it; a time of 0 is none."""
    batch = decode_points(body, content_type, peer=PEER, precision="ms", received_ns=RECEIVED_NS).batch
    assert batch.columns.start_ns.tolist() == [RECEIVED_NS]
    assert PBPoint.FromString(batch.payload.span(0)).time == RECEIVED_NS


@pytest.mark.parametrize(("content_type", "write"), [(JSON, as_json), (PBJSON, as_pbjson), (LINES, as_lines)])
def test_time_of_arrival_is_for_points_without_one(content_type: str, write: Callable[[list[Point]], bytes]) -> None:
    """Others keep theirs."""
    batch = decode_points(write(POINTS), content_type, peer=PEER, received_ns=RECEIVED_NS).batch
    assert PBPoint.FromString(batch.payload.span(0)).time == POINTS[0].time


@pytest.mark.parametrize(("content_type", "write"), [(JSON, as_json), (PBJSON, as_pbjson), (LINES, as_lines)])
def test_start_goes_before_the_time_of_arrival(content_type: str, write: Callable[[list[Point]], bytes]) -> None:
    """So that a point without a time that is sent again is a copy."""
    sent = [Point("dketrace", (), (("req_seq", 1), ("start", 1_767_225_600_000_001)))]
    first, again = (
        decode_points(write(sent), content_type, peer=PEER, received_ns=RECEIVED_NS + late).batch for late in (0, 1)
    )
    assert PBPoint.FromString(first.payload.span(0)).time == 1_767_225_600_000_001_000
    assert first.columns.digest.tolist() == again.columns.digest.tolist()


def test_protobuf_keeps_its_bytes_without_a_time() -> None:
    """What there is no time for has none."""
    batch = decode_points(as_protobuf(TIMELESS), PROTOBUF, peer=PEER, received_ns=RECEIVED_NS).batch
    assert batch.columns.start_ns.tolist() == [0]
    assert PBPoint.FromString(batch.payload.span(0)).time == 0


def test_points_are_numbered_as_they_were_sent() -> None:
    """Also where what is wrong with one comes to light after others were left out."""
    body = b'[{"measurement":1},{"measurement":"m","fields":{"a":1}},{"measurement":"m"},{"measurement":[]}]'
    found = decode_points(body, JSON, peer=PEER)
    assert (len(found.batch), found.rejected) == (1, {"invalid_value": 2, "no_fields": 1})
    assert [told.partition(":")[0] for told in found.rejection.split("; ")] == ["points[0]", "points[2]", "points[3]"]
