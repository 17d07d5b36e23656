"""Arrays as bytes: a frame of reference per array, then LZ4 over all of them together.

One array is a head of 13 bytes (mode, length, base) and a body. A constant array has no body. Integers that lie close
together are kept as offsets from the least of them in 1, 2 or 4 bytes; anything else is kept as it is. Arrays carry no
names: their order is the format, and whoever packs them stores a version beside the bytes.

What is compressed is a section: a head of 16 bytes (length of what was packed with the codec above it, length of the
body, CRC-32 of these two and the body) and a body, an LZ4 block. Sections may follow one another. What earlier versions
wrote, a length in 8 bytes and a zlib stream, has a codec of 0.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

import lz4.block
import numpy as np
from isal import isal_zlib
from isal.isal_zlib import IsalError
from numpy.typing import DTypeLike, NDArray

try:
    from bridge.store import _packing, _squeezing
except ImportError:  # not built
    _packing = _squeezing = None  # type: ignore[assignment]

_HEAD = struct.Struct("<BI8s")
_SECTION: Final = struct.Struct("<QII")
_CHECKED: Final = 12
"""Bytes of a section's head that its checksum covers."""
_ZLIB, _LZ4 = 0, 1
_CODEC_BITS: Final = 56
"""Where the codec stands above the length of what was packed."""
_CONSTANT = 0
_PLAIN = 255
_OFFSETS: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
MAX_RATIO: Final = {_ZLIB: 1032, _LZ4: 255}
"""How many bytes each can make out of one: a match of 258 bytes in two bits (RFC 1951), of 255 in one more byte."""


class Damaged(Exception):
    """Stored bytes that are not what was written. Never leaves the store: whoever reads decides what it means."""


def compress(*parts: bytes | memoryview) -> bytes:
    """The parts, one after another, as a section."""
    return sections_plain(parts[0] if len(parts) == 1 else b"".join(parts))


def sections_plain(*raws: bytes | memoryview) -> bytes:
    """Each of these as a section, one section after another.

    The kernel's LZ4 is made for spans, on which it takes half the time of lz4's; arrays take lz4 less room.
    """
    written: list[bytes] = []
    for raw in raws:
        body: bytes = lz4.block.compress(raw, store_size=False)
        checked = _SECTION.pack(len(raw) | _LZ4 << _CODEC_BITS, len(body), 0)[:_CHECKED]
        written += (checked, isal_zlib.crc32(body, isal_zlib.crc32(checked)).to_bytes(4, "little"), body)
    return b"".join(written)


def decompress(data: bytes) -> bytes:
    """What `compress` was given for these bytes, one section. Raises Damaged."""
    found = decompress_all(data)
    if len(found) != 1:
        raise Damaged(f"{len(found)} sections where one was written")
    return found[0]


def decompress_all(data: bytes) -> list[bytes]:
    """What `compress` was given for each of the sections that follow one another. Raises Damaged."""
    found, at = [], 0
    while at < len(data):
        raw, at = _section(data, at)
        found.append(raw)
    return found


def _section(data: bytes, at: int) -> tuple[bytes, int]:
    try:
        word, length, checksum = _SECTION.unpack_from(data, at)
    except struct.error as exc:
        raise Damaged(str(exc)) from exc
    codec, size = word >> _CODEC_BITS, word & (1 << _CODEC_BITS) - 1
    if codec == _ZLIB:
        return _inflate(memoryview(data)[at + 8 :], size), len(data)
    start = at + _SECTION.size
    body = memoryview(data)[start : start + length]
    found = isal_zlib.crc32(body, isal_zlib.crc32(memoryview(data)[at : at + _CHECKED]))
    if codec != _LZ4 or found != checksum or size > MAX_RATIO[_LZ4] * length:
        raise Damaged(f"section of codec {codec}: checksum {found:08x} where {checksum:08x} was written")
    try:
        return expand(data, start, length, size), start + length
    except ValueError as exc:
        raise Damaged(str(exc)) from exc


def expand_plain(data: bytes, start: int, length: int, size: int) -> bytes:
    """The `size` bytes that the LZ4 block of this length at this place was made of.

    Raises ValueError where it was made of something else, or is not one.
    """
    try:
        raw: bytes = lz4.block.decompress(memoryview(data)[start : start + length], uncompressed_size=size)
    except lz4.block.LZ4BlockError as exc:
        raise ValueError(str(exc)) from exc
    if len(raw) != size:
        raise ValueError(f"{len(raw)} bytes where {size} were written")
    return raw


def _inflate(stream: memoryview, size: int) -> bytes:
    bound = max(1, min(size, MAX_RATIO[_ZLIB] * len(stream)))  # the length may be damaged too
    try:
        raw: bytes = isal_zlib.decompress(stream, bufsize=bound)
    except IsalError as exc:  # type: ignore[misc]  # isal's stubs declare an instance of the class
        raise Damaged(str(exc)) from exc
    if len(raw) != size:
        raise Damaged(f"{len(raw)} bytes where {size} were written")
    return raw


def pack_arrays_plain(arrays: Sequence[NDArray[Any]]) -> bytes:
    """1-D arrays of integers or floats as bytes, uncompressed; all heads first, then all bodies."""
    heads, bodies = [], []
    for array in arrays:
        mode, base, body = _pack(array)
        heads.append(_HEAD.pack(mode, array.size, base))
        bodies.append(body)
    return b"".join(heads + bodies)


def unpack_arrays(data: bytes, dtypes: Sequence[DTypeLike], at: int = 0) -> tuple[list[NDArray[Any]], int]:
    """The arrays that start at this byte, as these dtypes, and the position after them. Raises Damaged."""
    try:
        return _unpack_arrays(data, dtypes, at)
    except (struct.error, KeyError, ValueError) as exc:
        raise Damaged(f"arrays: {exc}") from exc


def lengths_of(data: bytes, arrays: int) -> list[int]:
    """How many numbers so many arrays at the beginning say that they have. Raises Damaged."""
    try:
        return [_HEAD.unpack_from(data, i * _HEAD.size)[1] for i in range(arrays)]
    except struct.error as exc:
        raise Damaged(f"arrays: {exc}") from exc


def unpack_arrays_plain(data: bytes, dtypes: Sequence[DTypeLike], at: int = 0) -> tuple[list[NDArray[Any]], int]:
    """As `unpack_arrays`; bytes that are not what was packed may be any of the errors it translates."""
    body_at = at + _HEAD.size * len(dtypes)
    arrays = []
    for position, dtype in enumerate(dtypes):
        mode, n, base = _HEAD.unpack_from(data, at + position * _HEAD.size)
        array, body_at = _unpack(data, body_at, np.dtype(dtype), mode, n, base)
        arrays.append(array)
    return arrays, body_at


def _pack(array: NDArray[Any]) -> tuple[int, bytes, bytes]:
    if not array.size:
        return _CONSTANT, bytes(8), b""
    first = array[0].tobytes().ljust(8, b"\0")
    if array.dtype.kind == "f":
        bits = array.view(np.dtype(f"u{array.dtype.itemsize}"))  # NaN equals nothing, its bits do
        if (bits == bits[0]).all():
            return _CONSTANT, first, b""
        return _PLAIN, bytes(8), array.tobytes()
    low, high = array.min(), array.max()
    span = int(high) - int(low)
    if not span:
        return _CONSTANT, first, b""
    width = 1 if span < 1 << 8 else 2 if span < 1 << 16 else 4 if span < 1 << 32 else 8
    if width >= array.dtype.itemsize:
        return _PLAIN, bytes(8), array.tobytes()
    return width, low.tobytes().ljust(8, b"\0"), (array - low).astype(_OFFSETS[width]).tobytes()


def _unpack(data: bytes, at: int, dtype: np.dtype[Any], mode: int, n: int, base: bytes) -> tuple[NDArray[Any], int]:
    low = np.frombuffer(base, dtype, 1)[0]
    if mode == _CONSTANT:
        return np.full(n, low, dtype), at
    stored = dtype if mode == _PLAIN else _OFFSETS[mode]
    end = at + n * stored.itemsize
    array = np.frombuffer(data, stored, n, at)
    return (array.copy() if mode == _PLAIN else array.astype(dtype) + low), end


pack_arrays = pack_arrays_plain if _packing is None else _packing.pack_arrays
_unpack_arrays = unpack_arrays_plain if _packing is None else _packing.unpack_arrays
sections = sections_plain if _squeezing is None else _squeezing.sections
expand = expand_plain if _packing is None else _packing.expand
