"""Rows without a partner, by the connection they were seen on, and which of them may have one all the same."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.groups import INCOMING, MET, NAMED, OPEN, OUTGOING, PlainGroups
from bridge.linker.slots import I32Array
from bridge.linker.waiting import WaitingRows

U8Array = NDArray[np.uint8]
U32Array = NDArray[np.uint32]
Mask = NDArray[np.bool_]

_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)


class OpenRows:
    """Waiting rows that have met no row of the other direction with their numbers.

    Most never will: clients of the first spans and servers of the last ones are not observed. A row is compared once,
    when it is added, with those that are here; what that costs does not depend on how many these are, but for the copy
    of 8 bytes each.
    """

    def __init__(self, rows: WaitingRows, groups: PlainGroups) -> None:
        self._rows, self._groups = rows, groups
        self._keys, self._slots = np.empty(0, np.uint32), np.empty(0, np.int32)
        self._candidates = np.empty(0, np.int32)

    def add(self, slots: I32Array) -> None:
        """Take in those of these waiting rows that have no partner."""
        marks = self._groups.marks(slots)
        open_ = (marks & (INCOMING | OUTGOING) != 0) & (marks & MET == 0)
        slots, marks = slots[open_], marks[open_]
        if not slots.size:
            return
        self._groups.set_open(slots, True)
        keys, known = self._ends(slots, marks)
        self._candidates = np.concatenate([self._candidates, slots[marks & NAMED != 0]])
        order = np.argsort(keys)
        order = order[known[order]]
        keys, slots = np.concatenate([self._keys, keys[order]]), np.concatenate([self._slots, slots[order]])
        order = np.argsort(keys, kind="stable")  # two runs in order: merged, not sorted
        self._keys, self._slots = keys[order], slots[order]
        # both directions of a connection stand side by side: their keys differ in the lowest bit alone
        both = self._keys[1:][(self._keys[1:] ^ self._keys[:-1]) == 1]
        if both.size:
            mine = np.isin(self._keys | np.uint32(1), both)
            self._candidates = np.union1d(self._candidates, self._slots[mine])

    def _ends(self, slots: I32Array, marks: U8Array) -> tuple[U32Array, Mask]:
        """Half a hash of the client's end of each row's connection, with the row's direction as its lowest bit; and
        whether it is known."""
        keys, known = np.zeros(slots.size, np.uint32), np.zeros(slots.size, np.bool_)
        for direction, end, bit in ((INCOMING, "dst", 0), (OUTGOING, "src", 1)):
            mine = np.flatnonzero(marks & direction)
            values = self._rows.columns(slots[mine], (f"{end}_ip", f"{end}_port"))
            ip, port = values[f"{end}_ip"].astype(np.uint64, copy=False), values[f"{end}_port"].astype(np.uint64)
            hashed = (ip * _FACTOR + port) * _FACTOR >> np.uint64(32)
            keys[mine] = hashed.astype(np.uint32) & np.uint32(0xFFFFFFFE) | np.uint32(bit)
            known[mine] = port != 0
        return keys, known

    def candidates(self) -> tuple[I32Array, U8Array]:
        """Rows that are still open and share a connection with one of the other direction, or have a request id; and
        their marks."""
        if not self._candidates.size:
            return self._candidates, np.empty(0, np.uint8)
        slots = np.unique(self._candidates)
        slots, marks = self._live(slots)
        self._candidates = slots
        return slots, marks

    def close(self, slots: I32Array) -> None:
        """Rows that are paired now are in nobody's way."""
        self._groups.set_open(slots, False)

    def prune(self) -> None:
        """Forget rows that left or were closed."""
        marks = self._groups.marks(self._slots)
        live = (marks & OPEN != 0) & (marks & MET == 0)
        self._keys, self._slots = self._keys[live], self._slots[live]

    def _live(self, slots: I32Array) -> tuple[I32Array, U8Array]:
        marks = self._groups.marks(slots)
        live = (marks & OPEN != 0) & (marks & MET == 0)
        return slots[live], marks[live]
