"""Which form a body is read as, and what is said of one that cannot be read."""

import pytest

from bridge.codec.points.decode import InvalidPoints, decode_points
from bridge.codec.points.limits import MAX_POINTS
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
        (JSON, b"[1]", "datakit.invalidJsonPoint", r"^points\[0\]: want an object at character 1$"),
        (JSON, b'[{"measurement":', "datakit.invalidJsonPoint", r"^points\[0\]: no JSON: "),
        (JSON, as_json(POINTS)[:-1], "datakit.invalidJsonPoint", "^body: want the array's end at character"),
        (JSON, as_json(POINTS) + b"x", "datakit.invalidJsonPoint", "^body: want the array's end at character"),
        (JSON, as_json(POINTS)[:-1] + b",]", "datakit.invalidJsonPoint", r"^points\[1\]: want an object at character"),
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


def test_points_are_numbered_as_they_were_sent() -> None:
    """Also where what is wrong with one comes to light after others were left out."""
    body = b'[{"measurement":1},{"measurement":"m","fields":{"a":1}},{"measurement":"m"},{"measurement":[]}]'
    found = decode_points(body, JSON, peer=PEER)
    assert (len(found.batch), found.rejected) == (1, {"invalid_value": 2, "no_fields": 1})
    assert [told.partition(":")[0] for told in found.rejection.split("; ")] == ["points[0]", "points[2]", "points[3]"]
