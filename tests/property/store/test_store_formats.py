"""What is written is read again, bit by bit; what is not what was written is told apart."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from bridge.spans import (
    NO_CLOCKS,
    SCHEMA_VERSION,
    ClockOffsets,
    Context,
    PayloadBlock,
    PayloadFormat,
    RowClocks,
    SpanColumns,
)
from bridge.store.linked import LinkedSpansBuilder, cut
from bridge.store.packing import Damaged, compress, decompress, decompress_all, pack_arrays, unpack_arrays
from bridge.store.rows import (
    DECISION_COLUMNS,
    DECISIONS_VERSION,
    SPAN_COLUMNS,
    pack_columns,
    pack_counts,
    pack_departure,
    pack_payload,
    unpack_columns,
    unpack_counts,
    unpack_departure,
    unpack_payload,
)
from tests.support.old_rows import old_payload, repacked
from tests.support.stored import (
    assert_linked,
    assert_same_departure,
    assert_same_table,
    block_spans,
    departure_of,
    first_traces,
    random_batch,
    random_block,
    rows_of,
    with_traces,
)

DTYPES = ("u1", "i1", "u2", "u4", "i4", "u8", "i8", "f4", "f8")
SEEDS = st.integers(0, 10_000)
SIZES = st.one_of(st.integers(0, 3), st.integers(0, 300))


@st.composite
def columns(draw: st.DrawFn) -> NDArray[np.generic]:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "f":
        return draw(arrays.arrays(dtype, st.integers(0, 9)))
    info = np.iinfo(dtype)
    low = draw(st.integers(int(info.min), int(info.max)))
    high = draw(st.sampled_from([low, low + 1, low + 255, low + 256, low + 65535, low + 65536, low + 2**32, 2**64]))
    elements = st.integers(low, min(high, int(info.max)))
    return draw(arrays.arrays(dtype, st.integers(0, 9), elements=elements))


def test_a_resource_of_many_scopes_is_in_memory_once() -> None:
    """However many scopes it has: all that is read back has the bytes of one."""
    resources = [bytes([i]) * 1000 for i in (1, 1, 1, 2, 1)]
    contexts = tuple(Context(resource, b"%d" % i) for i, resource in enumerate(resources))
    spans = PayloadBlock(
        PayloadFormat.OTLP_SPAN, b"abcde", np.arange(6, dtype=np.int64), contexts, np.arange(5, dtype=np.uint32)
    )
    back = unpack_payload(pack_payload(spans)).contexts
    assert back == contexts
    assert len({id(context.resource_spans) for context in back[:3]}) == 1


@settings(max_examples=150)
@given(st.lists(columns(), max_size=5), st.binary(max_size=5))
def test_arrays_come_back_bit_by_bit(packed: list[NDArray[np.generic]], before: bytes) -> None:
    """Any integers and floats, NaN and the ends of each range included, from anywhere in the bytes."""
    data = before + pack_arrays(packed)
    found, end = unpack_arrays(data, [array.dtype for array in packed], len(before))
    assert end == len(data)
    for array, other in zip(found, packed, strict=True):
        assert array.dtype == other.dtype
        assert array.tobytes() == other.tobytes()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.data())
def test_changed_bytes_are_damage(parts: list[bytes], data: st.DataObject) -> None:
    """Compressed bytes come back as they were; with any byte changed, or cut off at the end, they do not."""
    packed = compress(*parts)
    assert decompress(packed) == b"".join(parts)
    at = data.draw(st.integers(0, len(packed) - 1))
    changed = bytearray(packed)
    changed[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(changed), packed[:at]):
        with pytest.raises(Damaged):
            decompress(damaged)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_sections_follow_one_another(raws: list[bytes]) -> None:
    """Each is found again; where one is wanted, others are damage."""
    packed = b"".join(map(compress, raws))
    assert decompress_all(packed) == raws
    if len(raws) != 1:
        with pytest.raises(Damaged):
            decompress(packed)


@settings(max_examples=40)
@given(SEEDS, SIZES, st.integers(0, 50), st.data())
def test_rows_of_version_1_are_read(seed: int, n: int, first_offset: int, data: st.DataObject) -> None:
    """Columns, payload and decisions as earlier versions compressed them; broken ones are damage."""
    batch = random_batch(seed, n, first_offset=first_offset)
    departure = departure_of(rows_of((1, n)), seed)
    columns = repacked(pack_columns(batch.columns, SCHEMA_VERSION))
    assert_same_table(unpack_columns(columns, SCHEMA_VERSION), batch.columns)
    payload = old_payload(batch.payload)
    assert block_spans(unpack_payload(payload)) == block_spans(batch.payload)
    decisions = repacked(pack_departure(departure))
    assert_same_departure(unpack_departure(decisions, DECISIONS_VERSION), departure)
    end = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(Damaged):
        unpack_payload(payload[:end])


@settings(max_examples=40)
@given(SEEDS, SIZES)
def test_columns_come_back(seed: int, n: int) -> None:
    """All columns of a batch."""
    batch = random_batch(seed, n)
    assert_same_table(unpack_columns(pack_columns(batch.columns, SCHEMA_VERSION), SCHEMA_VERSION), batch.columns)


@settings(max_examples=20)
@given(SEEDS, SIZES, st.sampled_from(sorted(SPAN_COLUMNS)))
def test_columns_of_every_version_are_read(seed: int, n: int, version: int) -> None:
    """What an older bridge wrote comes back, columns it did not know as 0."""
    columns = random_batch(seed, n).columns
    found = unpack_columns(pack_columns(columns, version), version)
    known = {name: column for name, column in columns.items() if name in SPAN_COLUMNS[version]}
    assert_same_table(found, SpanColumns.from_columns(n, **known))


@settings(max_examples=40)
@given(SEEDS, SIZES, st.integers(0, 50))
def test_payload_comes_back(seed: int, n: int, first_offset: int) -> None:
    """Every span's bytes, context and format, wherever in its block the first one begins."""
    block = random_batch(seed, n, first_offset=first_offset).payload
    found = unpack_payload(pack_payload(block))
    assert int(found.offsets[0]) == 0
    assert block_spans(found) == block_spans(block)


@settings(max_examples=40)
@given(SEEDS, st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 2**32 - 1)), max_size=60))
def test_departure_comes_back(seed: int, rows: list[tuple[int, int]]) -> None:
    """Batches, rows, all columns of the decisions, links, clocks."""
    departure = departure_of(rows, seed)
    assert_same_departure(unpack_departure(pack_departure(departure), DECISIONS_VERSION), departure)


@settings(max_examples=20)
@given(SEEDS, st.integers(0, 40), st.sampled_from(sorted(DECISION_COLUMNS)))
def test_departures_of_every_version_are_read(seed: int, n: int, version: int) -> None:
    """What an older bridge wrote comes back; before version 2 nothing was known of clocks."""
    departure = departure_of(rows_of((7, n)), seed)
    wanted = departure if version >= 2 else replace(departure, clocks=NO_CLOCKS)
    assert_same_departure(unpack_departure(pack_departure(departure, version), version), wanted)


def test_a_clock_that_is_not_there_is_damage() -> None:
    """A row may not name one; what is damaged is never exported as something else."""
    departure = departure_of(rows_of((7, 3)), 1)
    named = RowClocks(ClockOffsets.zeros(1), np.array([1, 0, 1], np.uint32))
    object.__setattr__(named, "offsets", ClockOffsets.zeros(0))
    with pytest.raises(Damaged, match="names clock 1 of 0"):
        unpack_departure(pack_departure(replace(departure, clocks=named)), DECISIONS_VERSION)


@given(st.dictionaries(st.integers(1, 2**62), st.integers(1, 2**40), max_size=20), st.integers(0, 2**32 - 1))
def test_counts_come_back(counts: dict[int, int], exported: int) -> None:
    """Numbers and counts of a tick, and how many spans of it are for exporters; earlier bridges did not write that."""
    numbers = np.array(sorted(counts), np.int64)
    of_each = np.array([counts[n] for n in numbers.tolist()], np.int64)
    found = unpack_counts(pack_counts(numbers, of_each, exported))
    assert [array.tolist() for array in found[:2]] == [sorted(counts), [counts[n] for n in sorted(counts)]]
    assert found[2] == exported
    assert unpack_counts(pack_arrays([numbers, of_each]))[2] is None


@given(st.dictionaries(st.integers(0, 2**50), st.integers(1, 2**20), min_size=1, max_size=5), st.data())
def test_no_bit_of_counts_is_believed_when_it_is_flipped(counts: dict[int, int], data: st.DataObject) -> None:
    """What is read at every start has a checksum, too, and no length in it takes memory."""
    numbers = np.array(sorted(counts), np.int64)
    whole = bytearray(pack_counts(numbers, np.array([counts[n] for n in numbers.tolist()], np.int64), 7))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        unpack_counts(bytes(whole))


def test_a_place_far_beyond_the_bytes_is_damage() -> None:
    """However far: nothing is read there."""
    for at in (-1, 101, 2**63 - 1, 2**63 - 13):
        with pytest.raises(Damaged):
            unpack_arrays(b"x" * 100, ["u1"], at)


@settings(max_examples=60)
@given(SEEDS, st.lists(st.integers(0, 30), min_size=1, max_size=5), st.data())
def test_linked_spans_are_those_of_the_plain_loop(seed: int, sizes: list[int], data: st.DataObject) -> None:
    """From any part of several batches, in any order: payload, decisions and links row by row, whether a batch is
    taken whole or its spans are cut out."""
    batches = {number: random_batch(seed + number, n) for number, n in enumerate(sizes, 7)}
    everything = [(number, row) for number, batch in batches.items() for row in range(len(batch))]
    rows = data.draw(st.permutations(everything))[: data.draw(st.integers(0, len(everything)))]
    departure = departure_of(rows, seed)
    builder = LinkedSpansBuilder(3, departure)
    for number in data.draw(st.permutations(builder.batches)):
        builder.add(number, batches[number].payload)
    assert_linked(builder.finish(), 3, departure, batches)


@settings(max_examples=60)
@given(SEEDS, st.integers(0, 30), st.integers(0, 35), st.lists(st.integers(1, 9), max_size=8))
@example(1, 0, 0, [])
@example(1, 0, 5, [])
@example(1, 1, 0, [])
@example(1, 1, 1, [])
@example(1, 30, 1, [2])
@example(1, 30, 0, [2])
def test_the_first_traces_are_those_of_the_plain_loop(seed: int, n: int, most: int, sizes: list[int]) -> None:
    """Whole ones as far as they fit; part of the first where it is larger than what is wanted by itself."""
    batch = random_batch(seed, n)
    departure = with_traces(departure_of(rows_of((7, n)), seed), sizes)
    builder = LinkedSpansBuilder(3, departure, most)
    for number in builder.batches:
        builder.add(number, batch.payload)
    rows = first_traces(departure, most)
    assert len(rows) <= most
    assert_linked(builder.finish(), 3, departure, {7: batch}, rows)


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 20), st.lists(st.integers(0, 19), max_size=12), st.integers(0, 9))
def test_cut_takes_these_rows(seed: int, n: int, rows: list[int], first_offset: int) -> None:
    """In this order, also twice the same, with their contexts."""
    block = random_block(np.random.default_rng(seed), n, first_offset=first_offset)
    wanted = [row % n for row in rows]
    spans = block_spans(block)
    assert block_spans(cut(block, np.array(wanted, np.uint32))) == [spans[row] for row in wanted]


@pytest.mark.parametrize("end", [0, 4, 8, 20])
def test_short_bytes_are_damage(end: int) -> None:
    """Bytes that end too early are never read as something."""
    block = random_batch(1, 9)
    for unpack, packed in (
        (unpack_payload, pack_payload(block.payload)),
        (lambda data: unpack_columns(data, SCHEMA_VERSION), pack_columns(block.columns, SCHEMA_VERSION)),
        (unpack_counts, pack_counts(np.array([1, 900]), np.array([1, 900]), 7)),
    ):
        with pytest.raises(Damaged):
            unpack(packed[:end])
