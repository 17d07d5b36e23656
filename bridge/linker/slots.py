"""Rows in slots: columns that are as wide as what was put into them, and slots that are used again."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bridge.linker.narrow import bits_in, gather, scatter
from bridge.linker.room import Room

I32Array = NDArray[np.int32]
U64Array = NDArray[np.uint64]

MIN_CAPACITY = 1024
MAX_DISTINCT: Final = 1 << 16
"""Values a `RepeatedColumn` has codes for."""
_BITS: Final[dict[int, np.dtype[Any]]] = {width: np.dtype(f"u{width}") for width in (1, 2, 4, 8)}


class NarrowColumn:
    """One column of numbers, kept as bit patterns in the narrowest unsigned type that held every value so far.

    A column in which nothing but 0 was ever put takes no memory.
    """

    __slots__ = ("_bits", "_capacity", "_dtype", "_room")

    def __init__(self, dtype: DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._bits = _BITS[self._dtype.itemsize]
        self._room: Room | None = None
        self._capacity = 0

    @property
    def row_bytes(self) -> int:
        """Bytes one row takes at present."""
        return 0 if self._room is None else self._room.array.itemsize

    def resize(self, capacity: int) -> None:
        """Make room for slots below `capacity`; what is in them stays."""
        if self._room is not None:
            self._room.resize(capacity)
        self._capacity = capacity

    def put(self, slots: I32Array | slice, values: NDArray[np.generic]) -> None:
        """Write values, of this column's dtype, into slots."""
        given: NDArray[Any] = np.ascontiguousarray(values, self._dtype)
        width = self._bits.itemsize
        top = bits_in(given.view(np.uint8), width) if self.row_bytes < width else 0
        if top >> (8 * self.row_bytes):
            self._widen(np.min_scalar_type(top))
        if self._room is None:
            return
        if isinstance(slots, slice):
            self._room.array[slots] = given.view(self._bits)
        else:
            scatter(self._room.array.view(np.uint8), self.row_bytes, slots, given.view(np.uint8), width)

    def take(self, slots: I32Array) -> NDArray[np.generic]:
        """The values in these slots, in their own dtype."""
        if self._room is None:
            return np.zeros(slots.size, self._dtype)
        values = np.empty(slots.size, self._dtype)
        gather(self._room.array.view(np.uint8), self.row_bytes, slots, values.view(np.uint8), self._bits.itemsize)
        return values

    def _widen(self, dtype: np.dtype[np.unsignedinteger]) -> None:
        wider = Room(self._capacity, dtype)
        if self._room is not None:
            wider.array[:] = self._room.array
        self._room = wider


class RepeatedColumn:
    """One column of 64-bit numbers of which few are distinct: a narrow code a row, and a table of what codes mean.

    When `MAX_DISTINCT` values have come, those that no slot holds any more are dropped; if that does not halve them,
    the column keeps the values themselves from then on. 0 needs no memory, as in a `NarrowColumn`.
    """

    __slots__ = ("_capacity", "_code_of", "_codes", "_plain", "_sorted", "_table")

    def __init__(self) -> None:
        self._codes = NarrowColumn(np.uint32)
        self._plain: NarrowColumn | None = None
        self._capacity = 0
        self._know(np.zeros(1, np.uint64))

    @property
    def row_bytes(self) -> int:
        """Bytes one row takes at present, the table apart."""
        return (self._plain or self._codes).row_bytes

    def resize(self, capacity: int) -> None:
        """Make room for slots below `capacity`; what is in them stays."""
        self._capacity = capacity
        (self._plain or self._codes).resize(capacity)

    def put(self, slots: I32Array | slice, values: NDArray[np.generic]) -> None:
        """Write uint64 values into slots."""
        numbers: U64Array = np.ascontiguousarray(values, np.uint64)
        first = np.ones(numbers.size, np.bool_)
        first[1:] = numbers[1:] != numbers[:-1]
        starts = np.flatnonzero(first)
        runs = numbers[starts]  # rows of one sender stand together
        if self._plain is None:
            self._learn(runs)
        if self._plain is not None:
            self._plain.put(slots, numbers)
        else:
            codes = self._code_of[np.searchsorted(self._sorted, runs)]
            self._codes.put(slots, np.repeat(codes, np.diff(starts, append=numbers.size)))

    def take(self, slots: I32Array) -> NDArray[np.generic]:
        """The values in these slots, as uint64."""
        if self._plain is not None:
            return self._plain.take(slots)
        values: NDArray[np.generic] = self._table[self._codes.take(slots)]
        return values

    def _know(self, table: U64Array) -> None:
        """Let code i stand for table[i]; table[0] is 0."""
        self._table = table
        self._code_of = np.argsort(table).astype(np.uint32)
        self._sorted = table[self._code_of]

    def _learn(self, numbers: U64Array) -> None:
        at = np.minimum(np.searchsorted(self._sorted, numbers), self._sorted.size - 1)
        new = np.unique(numbers[self._sorted[at] != numbers])
        if not new.size:
            return
        if self._table.size + new.size > MAX_DISTINCT:
            self._drop_unused()
            new = np.setdiff1d(numbers, self._table)  # also what was known, and dropped since no slot held it
        if self._table.size + new.size > MAX_DISTINCT:
            self._keep_values()
        else:
            self._know(np.concatenate([self._table, new]))

    def _drop_unused(self) -> None:
        codes = self._codes.take(np.arange(self._capacity, dtype=np.int32))
        used = np.union1d(np.zeros(1, np.uint32), codes)
        if used.size > MAX_DISTINCT // 2:
            self._keep_values()
        else:
            self._codes.put(slice(0, self._capacity), np.searchsorted(used, codes).astype(np.uint32))
            self._know(self._table[used])

    def _keep_values(self) -> None:
        if self._plain is not None:
            return
        plain = NarrowColumn(np.uint64)
        plain.resize(self._capacity)
        plain.put(slice(0, self._capacity), self.take(np.arange(self._capacity, dtype=np.int32)))
        self._plain, self._codes = plain, NarrowColumn(np.uint32)


class SlotStore:
    """Named columns over slots 0..capacity; capacity doubles when no slot is free and falls back when all are.

    repeated: names of uint64 columns of which few values are distinct.
    """

    def __init__(self, dtypes: Mapping[str, DTypeLike], repeated: frozenset[str] = frozenset()) -> None:
        self._dtypes, self._repeated = dict(dtypes), repeated
        self._reset()

    def _reset(self) -> None:
        self._columns: dict[str, NarrowColumn | RepeatedColumn] = {
            name: RepeatedColumn() if name in self._repeated else NarrowColumn(dtype)
            for name, dtype in self._dtypes.items()
        }
        self._free = Room(1, np.dtype(np.int32))
        self._n_free = 0
        self._fresh = 0
        self.capacity = 0

    def __len__(self) -> int:
        return self._fresh - self._n_free

    @property
    def top(self) -> int:
        """Slots in use are below this."""
        return self._fresh

    @property
    def row_bytes(self) -> int:
        """Bytes one row takes at present, its place in the free list included."""
        return sum(c.row_bytes for c in self._columns.values()) + self._free.array.itemsize

    def allocate(self, n: int) -> I32Array:
        """n slots that were free; raises nothing but MemoryError."""
        again = min(n, self._n_free)
        slots = np.empty(n, np.int32)
        slots[:again] = self._free.array[self._n_free - again : self._n_free][::-1]
        self._n_free -= again
        slots[again:] = np.arange(self._fresh, self._fresh + n - again, dtype=np.int32)
        self._fresh += n - again
        if self._fresh > self.capacity:
            self._grow(self._fresh)
        return slots

    def _grow(self, least: int) -> None:
        capacity = max(MIN_CAPACITY, 1 << (least - 1).bit_length())
        self._free.resize(capacity)
        for column in self._columns.values():
            column.resize(capacity)
        self.capacity = capacity

    def put(self, slots: I32Array, values: Mapping[str, NDArray[np.generic]]) -> None:
        """Write columns (each of slots.size values) into slots; every column of the store must be given."""
        n = slots.size
        if not n:
            return
        where: I32Array | slice = slots
        if int(slots[-1]) - int(slots[0]) == n - 1 and (np.diff(slots) == 1).all():
            where = slice(int(slots[0]), int(slots[0]) + n)
        for name, column in self._columns.items():
            column.put(where, values[name])

    def put_one(self, name: str, slots: I32Array, values: NDArray[np.generic]) -> None:
        """Write one column into slots."""
        self._columns[name].put(slots, values)

    def take(self, slots: I32Array, names: tuple[str, ...] | None = None) -> dict[str, NDArray[np.generic]]:
        """Columns of these slots, copied: all of them, or those named."""
        return {name: self._columns[name].take(slots) for name in names or self._columns}

    def release(self, slots: I32Array) -> None:
        """Give slots back; none may be given back twice."""
        if not slots.size:
            return
        self._free.array[self._n_free : self._n_free + slots.size] = slots[::-1]
        self._n_free += slots.size
        if not len(self):
            self._reset()
