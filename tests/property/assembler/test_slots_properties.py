"""Narrow columns and slots against a dict."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.linker.slots import MIN_CAPACITY, NarrowColumn, RepeatedColumn, SlotStore

DTYPES = {"u8": np.uint8, "i8": np.int8, "u16": np.uint16, "i64": np.int64, "u64": np.uint64, "f32": np.float32}


def values_of(dtype: Any) -> st.SearchStrategy[Any]:
    if np.dtype(dtype).kind == "f":
        return st.floats(width=32, allow_nan=False)
    info = np.iinfo(dtype)
    near = st.integers(max(0, info.min), min(300, info.max))
    return st.one_of(st.just(0), near, st.integers(int(info.min), int(info.max)))


rows = st.fixed_dictionaries({name: values_of(dtype) for name, dtype in DTYPES.items()})


class Slots(RuleBasedStateMachine):
    """Rows are put into slots, read, partly overwritten, and their slots given back."""

    def __init__(self) -> None:
        super().__init__()
        self.store = SlotStore(DTYPES)
        self.kept: dict[int, dict[str, Any]] = {}

    @rule(some=st.lists(rows, max_size=6), times=st.sampled_from([1, 1, 1, 300]))
    def put(self, some: list[dict[str, Any]], times: int) -> None:
        some = some * times
        slots = self.store.allocate(len(some))
        assert len(set(slots.tolist())) == len(some)
        assert not set(slots.tolist()) & self.kept.keys()
        self.store.put(slots, {name: np.array([row[name] for row in some], dtype) for name, dtype in DTYPES.items()})
        self.kept.update(zip(slots.tolist(), some, strict=True))

    @rule(value=values_of(np.uint64), some=st.integers(1, 4))
    def put_one(self, value: int, some: int) -> None:
        slots = list(self.kept)[::some]
        self.store.put_one("u64", np.array(slots, np.int32), np.full(len(slots), value, np.uint64))
        for slot in slots:
            self.kept[slot] = self.kept[slot] | {"u64": value}

    @rule(some=st.integers(1, 4))
    def release(self, some: int) -> None:
        slots = list(self.kept)[::-some]
        self.store.release(np.array(slots, np.int32))
        for slot in slots:
            del self.kept[slot]

    @invariant()
    def same(self) -> None:
        assert len(self.store) == len(self.kept)
        slots = np.array(list(self.kept)[::-1], np.int32)
        taken = self.store.take(slots)
        for name, dtype in DTYPES.items():
            assert taken[name].dtype == dtype
            want = np.array([self.kept[slot][name] for slot in slots.tolist()], dtype)
            assert taken[name].tobytes() == want.tobytes()
        if not self.kept:
            assert (self.store.capacity, self.store.row_bytes) == (0, 4)
        assert self.store.capacity >= len(self.kept)


TestSlots = Slots.TestCase
TestSlots.settings = settings(deadline=None, max_examples=40, stateful_step_count=20)


@given(st.sampled_from(list(DTYPES.values())), st.data())
def test_column_is_as_wide_as_its_values(dtype: Any, data: st.DataObject) -> None:
    """A column takes the fewest bytes that hold the bit patterns put into it, none at all for zeros."""
    values = np.array(data.draw(st.lists(values_of(dtype), min_size=1, max_size=5)), dtype)
    column = NarrowColumn(dtype)
    column.resize(MIN_CAPACITY)
    slots = np.arange(values.size, dtype=np.int32)
    column.put(slots, values)
    top = int(values.view(f"u{values.itemsize}").max())
    assert column.row_bytes == next(width for width in (0, 1, 2, 4, 8) if top < 1 << 8 * width)
    assert column.take(slots).tobytes() == values.tobytes()


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 15), st.sampled_from([0, *range(1 << 63, (1 << 63) + 14)])), min_size=1),
        min_size=1,
        max_size=12,
    )
)
def test_column_of_repeated_values_keeps_them(rounds: list[list[tuple[int, int]]]) -> None:
    """Whatever is put, before and after its table is full, is taken out again; codes are narrower than values until
    more values are held at a time than the table has room for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.linker.slots.MAX_DISTINCT", 8)
        column, kept = RepeatedColumn(), dict.fromkeys(range(16), 0)
        column.resize(16)
        seen = {0}
        for written in rounds:
            put = dict(written)
            column.put(np.array(list(put), np.int32), np.array(list(put.values()), np.uint64))
            kept |= put
            seen |= set(put.values())
            taken = column.take(np.array(list(kept), np.int32))
            assert taken.dtype == np.uint64
            assert taken.tolist() == list(kept.values())
        assert column.row_bytes == (0 if seen == {0} else 1) or len(seen) > 8


def test_column_of_repeated_values_forgets_those_that_went() -> None:
    """A column through which many values pass, few at a time, goes on with codes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.linker.slots.MAX_DISTINCT", 8)
        column = RepeatedColumn()
        column.resize(2)
        for value in range(1 << 60, (1 << 60) + 100):
            column.put(np.array([value % 2], np.int32), np.array([value], np.uint64))
        assert column.row_bytes == 1
        assert column.take(np.array([0, 1], np.int32)).tolist() == [(1 << 60) + 98, (1 << 60) + 99]
