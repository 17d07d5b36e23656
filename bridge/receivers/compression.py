"""Content-Encoding: bodies decompressed up to a bound, so that a bomb is refused without being inflated."""

import sys
from collections.abc import Callable
from typing import Protocol

from isal import isal_zlib

from bridge.errors import InvalidData, TooLarge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP_WINDOW = 31
_ZLIB_WINDOW = 15
# RFC 9659 allows windows up to 8 MiB on the web; a sender that compresses in one piece may use one as big as its body
_ZSTD_WINDOW_LOG = (23, 27)
# Members and pieces are bounded together: after each member the rest of a piece is copied, and a body of nothing but
# empty members would be copied without end.
_MAX_MEMBERS = 1024
_PIECE_BYTES = 256 * 1024


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


def _zstd_stream(limit: int) -> _Stream:
    low, high = _ZSTD_WINDOW_LOG
    window_log = min(high, max(low, (limit - 1).bit_length()))
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window_log})


_STREAMS: dict[str, Callable[[int], _Stream]] = {
    "gzip": lambda _: isal_zlib.decompressobj(_GZIP_WINDOW),
    "x-gzip": lambda _: isal_zlib.decompressobj(_GZIP_WINDOW),
    "deflate": lambda _: isal_zlib.decompressobj(_ZLIB_WINDOW),
    "zlib": lambda _: isal_zlib.decompressobj(_ZLIB_WINDOW),
    "zstd": _zstd_stream,
}
ENCODINGS = ("identity", *_STREAMS)
"""What `decompress` understands."""


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """The body that was encoded so; several gzip members or zstd frames are one body, and no bytes are an empty one.

    Raises TooLarge once it is known to be longer than `limit` bytes, having inflated no more than that, and
    InvalidData when the bytes are not of that encoding or end early. `encoding` is one of ENCODINGS.
    """
    if encoding == "identity" or not data:
        return data
    try:
        return _inflate(data, encoding, limit)
    except (isal_zlib.error, zstd.ZstdError) as exc:  # type: ignore[misc]  # the stubs take the class for an instance
        raise InvalidData(f"body: not readable as {encoding}: {exc}") from exc


def _inflate(data: bytes, encoding: str, limit: int) -> bytes:
    parts: list[bytes] = []
    room = limit + 1
    rest = memoryview(data)
    for _ in range(_MAX_MEMBERS):
        stream = _STREAMS[encoding](limit)
        while not stream.eof:
            if not rest:
                raise InvalidData(f"body: the {encoding} data end early, after {limit + 1 - room} decompressed bytes")
            piece, rest = rest[:_PIECE_BYTES], rest[_PIECE_BYTES:]
            parts.append(stream.decompress(piece, room))
            room -= len(parts[-1])
            if not room:
                raise TooLarge(f"the body is larger than max_request_bytes = {limit} when decompressed")
        rest = memoryview(data)[len(data) - len(rest) - len(stream.unused_data) :]
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise InvalidData(f"body: more than {_MAX_MEMBERS} {encoding} members one after another")
