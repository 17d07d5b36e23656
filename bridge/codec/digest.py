"""Digests of spans: a 64-bit hash of each span's own bytes.

The hash is XXH64 with seed 0 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md). It tells copies of a
span from other spans with the same id; it is no protection against someone who wants two spans to collide. `cut_out` is
the kernel of bridge/codec/_digest.pyx, or, where that was not built, its twin `cut_out_plain`.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

try:
    from bridge.codec import _digest
except ImportError:  # not built
    _digest = None  # type: ignore[assignment]

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]

_P1: Final = np.uint64(0x9E3779B185EBCA87)
_P2: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_P3: Final = np.uint64(0x165667B19E3779F9)
_P4: Final = np.uint64(0x85EBCA77C2B2AE63)
_P5: Final = np.uint64(0x27D4EB2F165667C5)
_LANES: Final = np.array([0x60EA27EEADC0B5D6, 0xC2B2AE3D27D4EB4F, 0, 0x61C8864E7A143579], np.uint64)
"""What the four lanes begin with: P1 + P2, P2, 0, -P1."""
_STRIPE: Final = 32


def digests(data: bytes, offsets: I64Array) -> U64Array:
    """The digest of each data[offsets[i]:offsets[i + 1]]; offsets: shape (n + 1,), ascending.

    Raises ValueError for offsets that are not sorted, or outside the data.
    """
    if not offsets.size or offsets[0] < 0 or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise ValueError("digests: offsets that are not sorted, or outside the data")
    padded = np.frombuffer(data + bytes(8), np.uint8)
    at, left = offsets[:-1].copy(), np.diff(offsets)
    state = _consume_stripes(padded, at, left) + np.diff(offsets).astype(np.uint64)
    while (rows := np.flatnonzero(left >= 8)).size:
        mixed = state[rows] ^ _round(np.zeros(rows.size, np.uint64), _read(padded, at[rows], "<u8"))
        state[rows] = _rotated(mixed, 27) * _P1 + _P4
        at[rows], left[rows] = at[rows] + 8, left[rows] - 8
    rows = np.flatnonzero(left >= 4)
    state[rows] = _rotated(state[rows] ^ _read(padded, at[rows], "<u4") * _P1, 23) * _P2 + _P3
    at[rows], left[rows] = at[rows] + 4, left[rows] - 4
    while (rows := np.flatnonzero(left > 0)).size:
        state[rows] = _rotated(state[rows] ^ _read(padded, at[rows], "u1") * _P5, 11) * _P1
        at[rows], left[rows] = at[rows] + 1, left[rows] - 1
    state = (state ^ (state >> np.uint64(33))) * _P2
    state = (state ^ (state >> np.uint64(29))) * _P3
    return state ^ (state >> np.uint64(32))


def _consume_stripes(padded: NDArray[np.uint8], at: I64Array, left: I64Array) -> U64Array:
    """What the whole stripes of each span come to; `at` and `left` are moved behind them."""
    state = np.full(at.size, _P5, np.uint64)
    rows = striped = np.flatnonzero(left >= _STRIPE)
    lanes = np.tile(_LANES, (at.size, 1))
    while rows.size:
        words = _read(padded, at[rows, np.newaxis] + np.arange(0, _STRIPE, 8), "<u8")
        lanes[rows] = _round(lanes[rows], words)
        at[rows], left[rows] = at[rows] + _STRIPE, left[rows] - _STRIPE
        rows = rows[left[rows] >= _STRIPE]
    a, b, c, d = (lanes[striped, i] for i in range(4))
    merged = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
    for lane in (a, b, c, d):
        merged = (merged ^ _round(np.zeros(striped.size, np.uint64), lane)) * _P1 + _P4
    state[striped] = merged
    return state


def _round(state: U64Array, words: U64Array) -> U64Array:
    return _rotated(state + words * _P2, 31) * _P1


def _rotated(values: U64Array, by: int) -> U64Array:
    return values << np.uint64(by) | values >> np.uint64(64 - by)


def _read(padded: NDArray[np.uint8], at: I64Array, number: str) -> U64Array:
    """The number of this dtype that begins at each place."""
    dtype: np.dtype[Any] = np.dtype(number)
    found = padded[at[..., np.newaxis] + np.arange(dtype.itemsize)]
    return np.ascontiguousarray(found).view(dtype)[..., 0].astype(np.uint64)


def offsets_of(lengths: I64Array) -> I64Array:
    """Shape (n + 1,): where each of n texts begins that stand one behind another, and where the last one ends."""
    offsets = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def cut_out_plain(datas: tuple[bytes, ...], starts: I64Array, lengths: I64Array) -> tuple[bytes, U64Array]:
    """The bytes at these places in the texts, counted as if these stood one behind another, and the digest of each.

    Places are in their order and do not overlap, none is empty, each is within one text. Raises ValueError for others.
    """
    ends = np.cumsum([len(data) for data in datas])
    of_data = np.searchsorted(ends, starts, "right")
    outside = (starts < 0).any() or (lengths < 0).any() or (of_data >= ends.size).any()
    if outside or (lengths > ends[of_data] - starts).any() or (starts[1:] < (starts + lengths)[:-1]).any():
        raise ValueError("cut_out: a place outside the texts, or not in their order")
    data = b"".join(datas)
    cut = b"".join(data[at : at + n] for at, n in zip(starts.tolist(), lengths.tolist(), strict=True))
    return cut, digests(cut, offsets_of(lengths))


cut_out = cut_out_plain if _digest is None else _digest.cut_out
