"""Whether SQLite's log (the file beside a database that ends in -wal) is whole, so that what it hides is not lost in
silence.

SQLite reads a log up to the first frame whose checksum is wrong, and takes what comes behind for the rest of a write
that a power failure cut off. That can be one transaction, as none begins before the one before is on the disk. Where
more of them end behind that frame, the frame was written as it should be and has changed since.

https://sqlite.org/fileformat2.html#the_write_ahead_log is the format.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

U32Array = NDArray[np.uint32]

MAGIC: Final = 0x377F0682
"""The last bit says in which order the bytes of checksums' numbers are."""
_HEAD: Final = Struct(">8I")
_FRAME_HEAD: Final = 24
_SUMMED: Final = 8
"""Bytes of a frame's head that its checksum is of, besides its page."""
_BYTES: Final = 4 << 20
"""Read at once."""
_LEFT_OUT: Final = 1 << 16
"""The page size that is written as 1."""


def has_broken_head(log: Path) -> bool:
    """Whether there is something in a log that SQLite takes for none, as its head is not what was written."""
    with log.open("rb") as file:
        head = file.read(_HEAD.size)
    return len(head) == _HEAD.size and not _is_sound(head)


def commits_lost(log: Path) -> int:
    """How many transactions end behind the first frame that is broken; 0 for what has no sound head."""
    with log.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or not _is_sound(head):
            return 0
        magic, _, page_bytes, _, *salts, first, second = _HEAD.unpack(head)
        page_bytes = _LEFT_OUT if page_bytes == 1 else page_bytes
        words = _words(magic)
        state, lost, whole = (first, second), 0, True
        for frames in _frames(file, _FRAME_HEAD + page_bytes):
            heads = frames[:, :_FRAME_HEAD].copy().view(">u4")
            ours = (heads[:, 2:4] == salts).all(axis=1)
            sound = 0
            if whole:
                state, sound = _followed(state, ours, heads[:, 4:6], _sums(frames, words), page_bytes)
                whole = sound == len(frames)
            lost += int(np.count_nonzero(ours[sound:] & (heads[sound:, 1] != 0)))
        return lost


def _is_sound(head: bytes) -> bool:
    magic, *_, first, second = _HEAD.unpack(head)
    if magic & ~1 != MAGIC:
        return False
    s = t = 0
    numbers = np.frombuffer(head, _words(magic), 6).tolist()
    for x, y in zip(numbers[::2], numbers[1::2], strict=True):
        s = (s + x + t) & 0xFFFFFFFF
        t = (t + y + s) & 0xFFFFFFFF
    return (s, t) == (first, second)


def _words(magic: int) -> np.dtype[np.uint32]:
    """The numbers that checksums are of."""
    return np.dtype(">u4" if magic & 1 else "<u4")


def _frames(file: BinaryIO, size: int) -> Iterator[NDArray[np.uint8]]:
    """Whole frames, some at a time; shape (frames, bytes)."""
    while data := file.read(max(1, _BYTES // size) * size):
        if n := len(data) // size:
            yield np.frombuffer(data, np.uint8, n * size).reshape(n, size)


def _followed(
    state: tuple[int, int], ours: NDArray[np.bool_], written: U32Array, sums: U32Array, page_bytes: int
) -> tuple[tuple[int, int], int]:
    """The checksum after the frames from the first on that are sound, and how many these are."""
    a, b, c = (int(column[-1]) for column in _weights((_SUMMED + page_bytes) // 8 + 1))
    for i, ((x, y), (wanted_x, wanted_y)) in enumerate(zip(sums.tolist(), written.tolist(), strict=True)):
        found = (a * state[0] + b * state[1] + x) & 0xFFFFFFFF, (b * state[0] + c * state[1] + y) & 0xFFFFFFFF
        if not ours[i] or found != (wanted_x, wanted_y):
            return state, i
        state = found
    return state, len(ours)


def _sums(frames: NDArray[np.uint8], words: np.dtype[np.uint32]) -> U32Array:
    """What the bytes of each frame add to a checksum; shape (frames, 2).

    With each pair of numbers (x, y) the checksum (s, t) becomes (s + t + x, s + 2 t + x + y): what a pair adds is
    multiplied with each one that follows by the same matrix, whose powers hold Fibonacci's numbers.
    """
    summed = np.concatenate([frames[:, :_SUMMED], frames[:, _FRAME_HEAD:]], axis=1).view(words).astype(np.uint32)
    x, both = summed[:, ::2], summed[:, ::2] + summed[:, 1::2]
    a, b, c = (column[::-1] for column in _weights(x.shape[1]))
    return np.stack([(x * a + both * b).sum(1, np.uint32), (x * b + both * c).sum(1, np.uint32)], axis=1)


@lru_cache(maxsize=4)
def _weights(n: int) -> tuple[U32Array, U32Array, U32Array]:
    """(a, b, c) of the first n powers [[a, b], [b, c]] of [[1, 1], [1, 2]], modulo 2^32."""
    powers = [(1, 0, 1)]
    for _ in range(n - 1):
        a, b, c = powers[-1]
        powers.append(((a + b) & 0xFFFFFFFF, (b + c) & 0xFFFFFFFF, (b + 2 * c) & 0xFFFFFFFF))
    columns = np.array(powers, np.uint32)
    return columns[:, 0].copy(), columns[:, 1].copy(), columns[:, 2].copy()
