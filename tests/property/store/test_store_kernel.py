"""The compiled kernel gives what its plain twins give, for whatever it is given."""

import contextlib
import random

import lz4.block
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from bridge.store.linked import gathered_plain
from bridge.store.packing import (
    decompress_all,
    expand_plain,
    pack_arrays_plain,
    sections_plain,
    unpack_arrays_plain,
)

NOT_BUILT = "not built: its twins are what runs"
kernel = pytest.importorskip("bridge.store._packing", reason=NOT_BUILT, exc_type=ImportError)
squeezing = pytest.importorskip("bridge.store._squeezing", reason=NOT_BUILT, exc_type=ImportError)

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


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """As spans are: the same fields again and again, some of which differ, and now and then in length."""
    fixed = draw(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6))
    drawn = draw(st.randoms(use_true_random=False))
    lengths = draw(st.lists(st.sampled_from([1, 2, 4, 5, 8, 20, 70]), min_size=1, max_size=3))
    fields = (part + drawn.randbytes(drawn.choice(lengths)) for _ in range(draw(st.integers(1, 30))) for part in fixed)
    return b"".join(fields) + draw(st.binary(max_size=20))


@settings(max_examples=200)
@given(st.lists(st.one_of(RAW, records()), max_size=3))
@example([bytes(70_000) + bytes(range(256)) + bytes(70_000)])
@example([random.Random(0).randbytes(70_000) * 2])
def test_sections_hold_what_they_were_made_of(raws: list[bytes]) -> None:
    """Both ways of writing are read alike, and by lz4, which holds blocks to rules about their last bytes."""
    written = squeezing.sections(*map(memoryview, raws))
    assert decompress_all(written) == decompress_all(sections_plain(*raws)) == raws
    for raw in raws:
        block = squeezing.sections(raw)[16:]
        assert expand_plain(block, 0, len(block), len(raw)) == raw
        assert len(block) <= len(raw) + len(raw) // 255 + 16


def test_spans_take_less_room_than_they_are_long() -> None:
    """About what lz4 makes of them, whose blocks they stand for."""
    payload = b"".join(
        b"J\x11\n\nbytes_read\x12\x03\x18%5dJ\x14\n\x06dst_ip\x12\n\n\x0810.0.0.7" % i for i in range(900)
    )
    assert len(squeezing.sections(payload)) < 1.1 * len(sections_plain(payload)) < 0.5 * len(payload)


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
