"""Edges that were found among waiting rows, by slot, until their rows leave. Takes memory for these edges alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.linker.across import Held
from bridge.linker.slots import I32Array


@dataclass(frozen=True, slots=True, eq=False)
class SlotEdges:
    """Edges of rows by slot. parent: -1 where a row is to stay without; the others as in `Held`."""

    child: I32Array
    parent: I32Array
    method: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    yields: NDArray[np.uint8]

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_]) -> "SlotEdges":
        """Some of them."""
        return SlotEdges(self.child[at], self.parent[at], self.method[at], self.confidence[at], self.yields[at])


def _none() -> SlotEdges:
    none = np.empty(0, np.int32)
    return SlotEdges(none, none, np.empty(0, np.uint8), np.empty(0, np.float32), np.empty(0, np.uint8))


class HeldEdges:
    """The edge of each waiting row that has one which no key says; a row's edge is put once."""

    def __init__(self) -> None:
        self._edges = _none()

    def __len__(self) -> int:
        return self._edges.child.size

    def put(self, new: SlotEdges) -> None:
        """Keep edges of rows that have none here."""
        had = self._edges
        order = np.argsort(np.concatenate([had.child, new.child]))
        self._edges = SlotEdges(
            *(np.concatenate([getattr(had, name), getattr(new, name)])[order] for name in SlotEdges.__slots__)
        )

    def has(self, slots: I32Array) -> NDArray[np.bool_]:
        """Which of these rows have an edge here."""
        return self._find(slots) >= 0

    def among(self, slots: I32Array) -> Held:
        """The edges of these rows; rows are positions in `slots`, -1 for a parent that is not among them."""
        if not len(self):
            return Held.zeros(0)
        at = self._find(slots)
        rows = np.flatnonzero(at >= 0)
        found = self._edges.take(at[rows])
        order = np.argsort(slots)
        place = np.minimum(np.searchsorted(slots[order], found.parent), slots.size - 1)
        parent = order[place] if slots.size else np.empty(0, np.int64)
        here = slots[parent] == found.parent
        return Held(
            row=rows.astype(np.int64),
            parent=np.where(here, parent, -1).astype(np.int64),
            method=found.method.copy(),
            confidence=found.confidence.copy(),
            yields=found.yields.copy(),
        )

    def drop(self, slots: I32Array) -> None:
        """Forget the edges of rows that left."""
        if len(self):
            at = self._find(slots)
            kept = np.ones(len(self), np.bool_)
            kept[at[at >= 0]] = False
            self._edges = self._edges.take(kept)

    def _find(self, slots: I32Array) -> NDArray[np.intp]:
        """Position of each row's edge, -1 for rows without."""
        child = self._edges.child
        if not child.size:
            return np.full(slots.size, -1, np.intp)
        at = np.minimum(np.searchsorted(child, slots), child.size - 1)
        return np.where(child[at] == slots, at, -1)
