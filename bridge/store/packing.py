"""Arrays as bytes: a frame of reference per array, then isal's zlib over all of them together.

One array is a head of 13 bytes (mode, length, base) and a body. A constant array has no body. Integers that lie close
together are kept as offsets from the least of them in 1, 2 or 4 bytes; anything else is kept as it is. Arrays carry no
names: their order is the format, and whoever packs them stores a version beside the bytes.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from isal import isal_zlib
from isal.isal_zlib import IsalError
from numpy.typing import DTypeLike, NDArray

_HEAD = struct.Struct("<BI8s")
_SIZE = struct.Struct("<Q")
_CONSTANT = 0
_PLAIN = 255
_OFFSETS: dict[int, np.dtype[Any]] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
LEVEL = 1
"""isal's level 1: level 0 packs a fifth worse, levels above 1 cost more for next to nothing."""
MAX_RATIO = 1032
"""Deflate makes at most so many bytes out of one (RFC 1951: a match of 258 bytes in two bits)."""


class Damaged(Exception):
    """Stored bytes that are not what was written. Never leaves the store: whoever reads decides what it means."""


def compress(*parts: bytes) -> bytes:
    """The parts, one after another, compressed, behind their length in 8 bytes."""
    raw = parts[0] if len(parts) == 1 else b"".join(parts)
    return _SIZE.pack(len(raw)) + isal_zlib.compress(raw, LEVEL)


def decompress(data: bytes) -> bytes:
    """What `compress` was given. Raises Damaged."""
    try:
        (size,) = _SIZE.unpack_from(data)
        bound = max(1, min(size, MAX_RATIO * len(data)))  # the length may be damaged too
        raw: bytes = isal_zlib.decompress(memoryview(data)[_SIZE.size :], bufsize=bound)
    except (struct.error, IsalError) as exc:  # type: ignore[misc]  # isal's stubs declare an instance of the class
        raise Damaged(str(exc)) from exc
    if len(raw) != size:
        raise Damaged(f"{len(raw)} bytes where {size} were written")
    return raw


def pack_arrays(arrays: Sequence[NDArray[Any]]) -> bytes:
    """1-D arrays of integers or floats as bytes, uncompressed; all heads first, then all bodies."""
    heads, bodies = [], []
    for array in arrays:
        mode, base, body = _pack(array)
        heads.append(_HEAD.pack(mode, array.size, base))
        bodies.append(body)
    return b"".join(heads + bodies)


def unpack_arrays(data: bytes, dtypes: Sequence[DTypeLike], at: int = 0) -> tuple[list[NDArray[Any]], int]:
    """The arrays that start at this byte, as these dtypes, and the position after them. Raises Damaged."""
    body_at = at + _HEAD.size * len(dtypes)
    arrays = []
    try:
        for position, dtype in enumerate(dtypes):
            mode, n, base = _HEAD.unpack_from(data, at + position * _HEAD.size)
            array, body_at = _unpack(data, body_at, np.dtype(dtype), mode, n, base)
            arrays.append(array)
    except (struct.error, KeyError, ValueError) as exc:
        raise Damaged(f"array {len(arrays)}: {exc}") from exc
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
