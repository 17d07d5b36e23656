"""What a port for HTTP says to gRPC, byte by byte."""

import pytest

from bridge.connections import NO_GRPC
from bridge.http2 import GOAWAY, HEADERS, SETTINGS, GrpcRefusal, begins_as_server, frame

CALL = (
    frame(SETTINGS, 0, 0, bytes(6)) + frame(8, 0, 0, bytes(4)) + frame(HEADERS, 4, 5, b"fields") + frame(0, 1, 5, b"x")
)


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """(type, stream, payload) of each whole frame; raises where there is a rest."""
    found = []
    while data:
        end = 9 + int.from_bytes(data[:3], "big")
        assert len(data) >= end
        found.append((data[3], int.from_bytes(data[5:9], "big"), data[9:end]))
        data = data[end:]
    return found


@pytest.mark.parametrize("size", [1, 2, 9, 10, 1000])
def test_the_first_call_is_answered_however_its_bytes_come(size: int) -> None:
    """In pieces of any size: settings are acknowledged, the stream ends with the text, and the connection is over."""
    refusal = GrpcRefusal(NO_GRPC)
    said = b"".join(refusal.answer(CALL[at : at + size]) for at in range(0, len(CALL), size))
    kinds = [(kind, stream) for kind, stream, _ in frames(said)]
    assert kinds == [(SETTINGS, 0), (HEADERS, 5), (GOAWAY, 0)]
    assert refusal.answered
    assert refusal.answer(CALL) == b""


def test_nothing_is_kept_of_what_is_passed_over() -> None:
    """A peer that sends without a call takes no memory."""
    refusal = GrpcRefusal("no")
    refusal.answer(frame(0, 0, 1, bytes(16_000))[:9])
    for _ in range(100):
        assert refusal.answer(bytes(160)) == b""
    assert frames(refusal.answer(frame(HEADERS, 4, 1)))[0][0] == HEADERS


@pytest.mark.parametrize("size", [1, 126, 127, 128, 254, 255, 1000])
def test_a_text_of_any_length_travels(size: int) -> None:
    """Lengths of a header's value take one byte up to 126, more beyond (RFC 7541, 5.1)."""
    (_, _, fields), _ = frames(GrpcRefusal("t" * size).answer(frame(HEADERS, 4, 1)))
    value = fields[fields.index(b"grpc-message") + len("grpc-message") :]
    length, rest = value[0], value[1:]
    if length == 127:
        shift = 0
        while True:
            digit, rest = rest[0], rest[1:]
            length += (digit & 127) << shift
            shift += 7
            if digit < 128:
                break
    assert (length, rest) == (size, b"t" * size)


def test_a_server_is_known_by_its_first_frame() -> None:
    """Settings of the connection, whatever is in them."""
    assert begins_as_server(GrpcRefusal("no").greeting())
    assert begins_as_server(frame(SETTINGS, 0, 0, bytes(12)))
    assert not begins_as_server(b"HTTP/1.1 400 Bad Request")
    assert not begins_as_server(frame(SETTINGS, 0, 1))
    assert not begins_as_server(b"\0\0\0\4")
