"""The compiled kernel gives what its plain twins give, for whatever it is given."""

import contextlib

import lz4.block
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from bridge.store.linked import gathered_plain
from bridge.store.packing import expand_plain, pack_arrays_plain, unpack_arrays_plain

kernel = pytest.importorskip("bridge.store._packing", reason="not built: its twins are what runs", exc_type=ImportError)

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


@st.composite
def columns(draw: st.DrawFn) -> NDArray[np.generic]:
    """Up to 40 values, all equal, close together or far apart; not always one behind another in memory."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    step = draw(st.integers(1, 3))
    if dtype.kind == "f":
        return draw(arrays.arrays(dtype, st.integers(0, 12)))[::step]
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    start = draw(st.integers(low, high))
    spread = draw(st.sampled_from([0, 1, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64]))
    return draw(arrays.arrays(dtype, st.integers(0, 40), elements=st.integers(start, min(start + spread, high))))[
        ::step
    ]


@settings(max_examples=150)
@given(st.lists(columns(), max_size=6), st.binary(max_size=9))
def test_arrays_are_packed_and_unpacked_alike(packed: list[NDArray[np.generic]], before: bytes) -> None:
    """Byte by byte, from anywhere in the bytes."""
    data = before + kernel.pack_arrays(packed)
    assert data == before + pack_arrays_plain(packed)
    dtypes = [array.dtype for array in packed]
    found, end = kernel.unpack_arrays(data, dtypes, len(before))
    wanted, wanted_end = unpack_arrays_plain(data, dtypes, len(before))
    assert end == wanted_end == len(data)
    assert [(a.dtype, a.tobytes()) for a in found] == [(a.dtype, a.tobytes()) for a in wanted]


@settings(max_examples=100)
@given(st.lists(columns(), min_size=1, max_size=4), st.data())
def test_broken_arrays_are_refused(packed: list[NDArray[np.generic]], data: st.DataObject) -> None:
    """Bytes that end too early, always; changed ones where they cannot be what was packed. Nothing is read beyond."""
    whole = kernel.pack_arrays(packed)
    dtypes = [array.dtype for array in packed]
    with pytest.raises(ValueError, match="ends within"):
        kernel.unpack_arrays(whole[: data.draw(st.integers(0, len(whole) - 1))], dtypes)
    changed = bytearray(whole)
    head = 13 * data.draw(st.integers(0, len(packed) - 1))
    changed[head] = data.draw(st.sampled_from([3, 5, 8, 100, 254]))
    with pytest.raises(ValueError, match="mode"):
        kernel.unpack_arrays(bytes(changed), dtypes)


def test_other_arrays_are_refused() -> None:
    """Neither text nor matrices nor numbers of another byte order are taken for something else."""
    for array in (np.zeros((2, 2)), np.array(["a"]), np.zeros(2, ">u4"), np.zeros(2, np.complex128)):
        with pytest.raises(ValueError, match="pack_arrays"):
            kernel.pack_arrays([array])


RAW = st.one_of(
    st.binary(max_size=300),
    # long literals, long matches and matches that overlap what they write
    st.builds(
        lambda parts, times: b"".join(parts) * times,
        st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"a" * 300, bytes(range(256)) * 2])), max_size=6),
        st.integers(1, 9),
    ),
)


@settings(max_examples=150)
@given(RAW, st.binary(max_size=9), st.binary(max_size=20))
@example(b"", b"", b"")
def test_blocks_expand_alike(raw: bytes, before: bytes, after: bytes) -> None:
    """From anywhere in the bytes, to exactly the size that was written."""
    block = lz4.block.compress(raw, store_size=False)
    data, start = before + block + after, len(before)
    assert kernel.expand(data, start, len(block), len(raw)) == expand_plain(data, start, len(block), len(raw)) == raw
    for size in (len(raw) + 1, max(0, len(raw) - 1)):
        if size != len(raw):
            with pytest.raises(ValueError, match="expand"):
                kernel.expand(data, start, len(block), size)
    with pytest.raises(ValueError, match="not in the data"):
        kernel.expand(data, start, len(data) - start + 1, len(raw))


CHANGES = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=300)
@given(RAW, CHANGES, st.integers(-3, 40))
def test_broken_blocks_are_refused_or_expand_alike(raw: bytes, changes: list[tuple[int, int]], more: int) -> None:
    """Whatever becomes of a block: where both make something of it, they make the same. lz4 goes beyond the format in
    how it lets a block end, and stays behind it in that it takes an offset of 0."""
    block = bytearray(lz4.block.compress(raw, store_size=False))
    for at, value in changes:
        block[at % len(block)] = value
    size = max(0, len(raw) + more)
    made = []
    for expand in (kernel.expand, expand_plain):
        with contextlib.suppress(ValueError):
            made.append(expand(bytes(block), 0, len(block), size))
    assert all(len(found) == size and found == made[0] for found in made)


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(-1, 61), st.integers(-1, 61)), max_size=6))
def test_ranges_are_gathered_alike(data: bytes, ranges: list[tuple[int, int]]) -> None:
    """Those that are not in the data are refused by both."""
    starts, ends = np.array([a for a, _ in ranges], np.int64), np.array([b for _, b in ranges], np.int64)
    try:
        wanted = gathered_plain(data, starts, ends)
    except ValueError:
        with pytest.raises(ValueError, match="gathered"):
            kernel.gathered(data, starts, ends)
    else:
        assert kernel.gathered(data, starts, ends) == wanted
