"""As much of HTTP/2 (RFC 9113) as tells who speaks at a port, and tells a gRPC client that it came to the wrong one.

Pure: no I/O. Decided against a library: nothing here has a state worth one, and no request is ever taken in HTTP/2.
"""

from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client's connection begins with."""
HEADERS, SETTINGS, GOAWAY = 1, 4, 7
HEAD_BYTES = 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
UNAVAILABLE = 14
"""Of the statuses of gRPC the one after which senders keep what they have."""
_STATUS_200 = b"\x88"
_LONG = 127


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def begins_as_server(data: bytes) -> bool:
    """Whether these first bytes are those of an HTTP/2 server: a SETTINGS frame of the connection."""
    return len(data) >= HEAD_BYTES and data[3] == SETTINGS and data[4:HEAD_BYTES] == bytes(5)


class GrpcRefusal:
    """The server's side of a connection that speaks gRPC where nobody takes it: its first call ends with `text`.

    The status is UNAVAILABLE, after which OTLP senders keep their spans while somebody sets the address right.
    """

    def __init__(self, text: str) -> None:
        """text: printable ASCII without "%", as the header it travels in has it."""
        self._text = text
        self._unread = b""
        self._skip = 0
        self.answered = False
        """Whether the call was answered; nothing more is to be sent."""

    def greeting(self) -> bytes:
        """What a server begins with."""
        return frame(SETTINGS, 0, 0)

    def answer(self, data: bytes) -> bytes:
        """What is to be sent after these bytes, which follow the preface; payloads are passed over."""
        return b"" if self.answered else b"".join(self._answers(data))

    def _answers(self, data: bytes) -> Iterator[bytes]:
        for kind, flags, stream in self._heads(data):
            if kind == SETTINGS and not flags & ACK:
                yield frame(SETTINGS, ACK, 0)
            if kind == HEADERS:
                self.answered = True
                yield frame(HEADERS, END_STREAM | END_HEADERS, stream, self._fields())
                yield frame(GOAWAY, 0, 0, stream.to_bytes(4, "big") + bytes(4) + self._text.encode("ascii"))
                return

    def _heads(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        data = self._unread + data
        at = self._skip
        while at + HEAD_BYTES <= len(data):
            yield data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + HEAD_BYTES], "big") & 0x7FFFFFFF
            at += HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
        self._unread, self._skip = data[at:], max(0, at - len(data))

    def _fields(self) -> bytes:
        """A response without a body, as gRPC has it: literals without indexing (RFC 7541, 6.2.2)."""
        fields = {"content-type": "application/grpc", "grpc-status": str(UNAVAILABLE), "grpc-message": self._text}
        return _STATUS_200 + b"".join(b"\0" + _string(name) + _string(value) for name, value in fields.items())


def _string(text: str) -> bytes:
    """Not compressed (RFC 7541, 5.2)."""
    data, size = text.encode("ascii"), len(text)
    if size < _LONG:
        return bytes((size,)) + data
    rest, length = size - _LONG, bytearray((_LONG,))
    while rest >= 128:
        length.append(rest % 128 | 128)
        rest //= 128
    return bytes((*length, rest)) + data
