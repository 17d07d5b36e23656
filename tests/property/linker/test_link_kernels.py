"""The compiled parts of the linker give what their plain twins give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.linker.joining import match_plain, repeated_plain
from bridge.linker.keys import row_keys_plain
from bridge.linker.narrow import bits_in_plain, gather_plain, scatter_plain
from bridge.linker.thread_order import begun_plain
from bridge.linker.trace_ids import trace_ids_plain
from bridge.spans import Kind, SpanColumns
from tests.support.link_rows import Row, columns_of, rows

missing = "no C compiler was there"
join = pytest.importorskip("bridge.linker._join", reason=missing)
keys = pytest.importorskip("bridge.linker._keys", reason=missing)
md5 = pytest.importorskip("bridge.linker._md5", reason=missing)
threads = pytest.importorskip("bridge.linker._thread_order", reason=missing)
narrow = pytest.importorskip("bridge.linker._columns", reason=missing)

number = st.integers(0, 2**64 - 1)
few_keys = st.lists(st.sampled_from([0, 1, 2, 3, 2**32, 2**63, 2**64 - 1]), max_size=12)
many_keys = st.builds(
    lambda n, most: [k * 0x9E3779B97F4A7C15 % most for k in range(n)], st.integers(0, 400), st.integers(1, 2**64)
)


def u64(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint64)


@given(st.lists(st.tuples(number, number), max_size=20))
def test_trace_ids_are_md5(pairs: list[tuple[int, int]]) -> None:
    """Digests are those of hashlib, bit by bit."""
    first, second = u64([a for a, _ in pairs]), u64([b for _, b in pairs])
    got, want = md5.trace_ids(first, second), trace_ids_plain(first, second)
    assert [half.tolist() for half in got] == [half.tolist() for half in want]


@given(st.one_of(few_keys, many_keys), st.one_of(few_keys, many_keys))
def test_matches(candidates: list[int], wanted: list[int]) -> None:
    """The first candidate of each key, and whether it is the only one."""
    got, want = join.match(u64(candidates), u64(wanted)), match_plain(u64(candidates), u64(wanted))
    assert [column.tolist() for column in got] == [column.tolist() for column in want]
    assert got[0].tolist() == [candidates.index(key) if key in candidates else -1 for key in wanted]


@given(st.one_of(few_keys, many_keys))
def test_repeated_keys(some: list[int]) -> None:
    """Keys that come more than once."""
    want = [some.count(key) > 1 for key in some]
    assert join.repeated(u64(some)).tolist() == repeated_plain(u64(some)).tolist() == want


@settings(deadline=None)
@given(rows(), st.sets(st.integers(0, 11)))
def test_row_keys(spans: list[Row], ordinary: set[int]) -> None:
    """Group keys, timelines and ends of rows, ordinary ones among them."""
    columns = columns_of(spans)
    kind = columns.kind.copy()
    kind[[row for row in ordinary if row < kind.size]] = Kind.ORDINARY
    columns = SpanColumns(**(dict(columns.items()) | {"kind": kind}))
    for got, want in zip(keys.row_keys(columns), row_keys_plain(columns), strict=True):
        assert (got.dtype, got.shape, got.tolist()) == (want.dtype, want.shape, want.tolist())


@given(
    st.sampled_from([(a, b) for a in (1, 2, 4, 8) for b in (1, 2, 4, 8) if a <= b]),
    st.lists(st.tuples(st.integers(0, 15), number), max_size=12),
)
def test_numbers_in_narrow_columns(widths: tuple[int, int], written: list[tuple[int, int]]) -> None:
    """What is written at one width is read at another; slots that are not there are refused, and nothing is written."""
    width, wide = widths
    slots = np.array([slot for slot, _ in written], np.int32)
    values = np.array([value % 2 ** (8 * width) for _, value in written], f"u{wide}").view(np.uint8)
    columns, read = [], []
    for scatter, gather in ((narrow.scatter, narrow.gather), (scatter_plain, gather_plain)):
        column, back = np.zeros(16 * width, np.uint8), np.empty_like(values)
        scatter(column, width, slots, values, wide)
        gather(column, width, slots, back, wide)
        for beyond in (-1, 16):
            with pytest.raises(IndexError):
                scatter(column, width, np.array([0, beyond], np.int32), np.ones(2 * wide, np.uint8), wide)
            with pytest.raises(IndexError):
                gather(column, width, np.array([0, beyond], np.int32), np.empty(2 * wide, np.uint8), wide)
        columns.append(column.tolist())
        read.append(back.tolist())
    assert columns[0] == columns[1]
    assert read[0] == read[1]
    assert narrow.bits_in(values, wide) == bits_in_plain(values, wide)


few = st.integers(0, 3)


@given(st.lists(st.tuples(st.integers(1, 3), few, few, few), max_size=40), st.lists(st.tuples(few, few), max_size=12))
def test_entries_in_order_of_their_threads(entries: list[tuple[int, ...]], exits: list[tuple[int, int]]) -> None:
    """The entry that began last before each exit of its thread, and all before that one in the same order."""
    line, at, span_id, digest = (np.array([e[i] for e in entries], "iu"[i != 1] + "8") for i in range(4))
    exit_line, exit_at = u64([e[0] for e in exits]), np.array([e[1] for e in exits], np.int64)
    before = []
    for begun in (threads.begun, begun_plain):
        order, low, place = begun(line, at, span_id, digest, exit_line, exit_at)
        assert sorted(order.tolist()) == list(range(len(entries)))
        before.append([order[start : stop + 1].tolist() for start, stop in zip(low, place, strict=True)])
    assert before[0] == before[1]
