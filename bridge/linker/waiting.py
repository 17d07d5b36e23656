"""Rows that wait, by slot, and when to look at them again."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.keys import thread_keys, timelines
from bridge.linker.remembered import REPEATED, packed, unpacked
from bridge.linker.slots import I32Array, SlotStore
from bridge.spans import SpanColumns

_THREAD: Final = ("sender", "pid", "tid", "tid_usr", "ktime", "thread_trace_id")


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """Rows of one stored batch, all of them or some, that came at one time."""

    batch: int
    columns: SpanColumns
    arrival_ns: int
    rows: NDArray[np.uint32] | None = None
    """Their positions in the batch; None: all of its rows, in order."""

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """n rows that came, in order: where the store holds them, their columns, and when they came."""

    batch: NDArray[np.int64]
    row: NDArray[np.uint32]
    columns: SpanColumns
    arrival_ns: NDArray[np.int64]
    """Never decreasing."""

    def __len__(self) -> int:
        return len(self.columns)

    @classmethod
    def of(cls, parts: Sequence[Arrived]) -> "Received":
        """All rows of these, in order."""
        sizes = np.array([len(part) for part in parts])
        starts = np.cumsum(sizes) - sizes
        row = (np.arange(sizes.sum()) - np.repeat(starts, sizes)).astype(np.uint32)
        for start, part in zip(starts.tolist(), parts, strict=True):
            if part.rows is not None:
                row[start : start + part.rows.size] = part.rows
        return cls(
            np.repeat(np.array([part.batch for part in parts], np.int64), sizes),
            row,
            SpanColumns.concatenate([part.columns for part in parts]),
            np.repeat(np.array([part.arrival_ns for part in parts], np.int64), sizes),
        )

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Received":
        """The rows at these positions."""
        return Received(self.batch[rows], self.row[rows], self.columns.take(rows), self.arrival_ns[rows])


@dataclass(frozen=True, slots=True, eq=False)
class ExitPlaces:
    """Where exits stand: their timeline, ktime and THREAD key."""

    timelines: NDArray[np.uint64]
    at_ns: NDArray[np.int64]
    threads: NDArray[np.uint64]


def _places(values: dict[str, NDArray[np.generic]]) -> ExitPlaces:
    sender, pid, tid, tid_usr, ktime, thread = (values[name] for name in _THREAD)
    lines = timelines(sender, pid, tid, tid_usr)  # type: ignore[arg-type]  # a column has the dtype of its name
    return ExitPlaces(lines, ktime, thread_keys(thread))  # type: ignore[arg-type]


class WaitingRows:
    """Columns of waiting rows, by slot."""

    def __init__(self) -> None:
        self._store = SlotStore(
            SpanColumns.dtypes() | {"batch": np.dtype(np.int64), "row": np.dtype(np.uint32)}, REPEATED
        )

    def __len__(self) -> int:
        return len(self._store)

    @property
    def top(self) -> int:
        """Slots in use are below this."""
        return self._store.top

    @property
    def row_bytes(self) -> int:
        """Bytes of columns per row at present."""
        return self._store.row_bytes

    def put(self, received: Received) -> I32Array:
        """Keep rows; return their slots."""
        slots = self._store.allocate(len(received))
        self._store.put(slots, packed(received.columns) | {"batch": received.batch, "row": received.row})
        return slots

    def take(self, slots: I32Array) -> Received:
        """Rows back, in the order of the slots; their arrival is not kept and reads 0."""
        values = self._store.take(slots)
        batch, row = values.pop("batch"), values.pop("row")
        arrival_ns = np.zeros(slots.size, np.int64)
        return Received(batch, row, unpacked(values), arrival_ns)  # type: ignore[arg-type]

    def columns(self, slots: I32Array, names: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
        """Some columns of rows, of those that are kept as they came."""
        return self._store.take(slots, names)

    def in_order(self, slots: I32Array) -> I32Array:
        """These ascending slots in order of receipt of their rows, which mostly is the same."""
        values = self._store.take(slots, ("batch", "row"))
        batch, row = values["batch"].astype(np.int64), values["row"].astype(np.int64)
        if ((batch[1:] > batch[:-1]) | ((batch[1:] == batch[:-1]) & (row[1:] > row[:-1]))).all():
            return slots
        return slots[np.lexsort((row, batch))]

    def exit_places(self, slots: I32Array) -> ExitPlaces:
        """Where these exits, which must be `placed`, stand."""
        return _places(self._store.take(slots, _THREAD))

    def release(self, slots: I32Array) -> None:
        """Free slots."""
        self._store.release(slots)


@dataclass(frozen=True, slots=True, eq=False)
class _Beat:
    at_ns: int
    exits: list[I32Array]
    entries: list[I32Array]


class Holds:
    """Exits and entries to be looked at half a window after they came, in beats so that small batches cost little.

    The beats are fixed in time rather than counted from arrivals: what a beat sees depends on nothing but the times
    of arrival, and is the same after a restart.
    """

    def __init__(self, window_ns: int) -> None:
        self._delay_ns = window_ns // 2
        self._every_ns = max(1, window_ns // 32)
        self._beats: deque[_Beat] = deque()

    def beat_of(self, arrival_ns: int) -> int:
        """The first beat at least half a window after an arrival."""
        return -(-(arrival_ns + self._delay_ns) // self._every_ns) * self._every_ns

    @property
    def next_ns(self) -> int | None:
        """Time of the first beat that has rows."""
        return self._beats[0].at_ns if self._beats else None

    def push(self, arrival_ns: NDArray[np.int64], slots: I32Array, entry: NDArray[np.bool_]) -> None:
        """Add rows in order of arrival, none of which came before those that are here."""
        beats = -(-(arrival_ns + self._delay_ns) // self._every_ns) * self._every_ns
        bounds = [0, *(np.flatnonzero(np.diff(beats)) + 1).tolist(), beats.size]
        for start, stop in pairwise(bounds):
            if start == stop:
                continue
            at_ns = int(beats[start])
            if not self._beats or self._beats[-1].at_ns < at_ns:
                self._beats.append(_Beat(at_ns, [], []))
            rows, entries = slots[start:stop], entry[start:stop]
            self._beats[-1].exits.append(rows[~entries])
            self._beats[-1].entries.append(rows[entries])

    def pop(self) -> tuple[I32Array, I32Array]:
        """Exits and entries of the first beat."""
        beat = self._beats.popleft()
        return np.concatenate(beat.exits), np.concatenate(beat.entries)

    def clear(self) -> None:
        """Forget every beat."""
        self._beats.clear()


class Checks:
    """Rows in order of arrival, to be checked when they have waited for a window."""

    def __init__(self) -> None:
        self._runs: deque[tuple[NDArray[np.int64], NDArray[np.intp], I32Array]] = deque()
        """(arrival of each run of rows, where each run ends, slots)"""

    def push(self, arrival_ns: NDArray[np.int64], slots: I32Array) -> None:
        """Add rows in order of arrival."""
        if slots.size:
            ends = np.append(np.flatnonzero(np.diff(arrival_ns)) + 1, slots.size)
            self._runs.append((arrival_ns[ends - 1], ends, slots))

    @property
    def first_ns(self) -> int | None:
        """When the first of the rows came."""
        return int(self._runs[0][0][0]) if self._runs else None

    def parts(self) -> list[I32Array]:
        """Slots of all rows, in order, in some parts."""
        return [slots for _, _, slots in self._runs]

    def has(self, until_ns: int | None) -> bool:
        """Whether there are rows that came at or before this time (None: ever)."""
        first_ns = self.first_ns
        return first_ns is not None and (until_ns is None or first_ns <= until_ns)

    def pop(self, until_ns: int | None, most: int | None = None) -> I32Array:
        """Slots of rows that came at or before this time (None: all), the first `most` of them."""
        popped, n = [np.empty(0, np.int32)], 0
        while self._runs and (most is None or n < most):
            arrivals, ends, slots = self._runs[0]
            runs = arrivals.size if until_ns is None else int(np.searchsorted(arrivals, until_ns, "right"))
            cut = int(ends[runs - 1]) if runs else 0
            if most is not None and cut > most - n:
                cut = most - n
                runs = int(np.searchsorted(ends, cut, "right"))
            if cut:
                n += cut
                popped.append(slots[:cut])
                self._runs[0] = (arrivals[runs:], ends[runs:] - cut, slots[cut:].copy())
            if runs < arrivals.size:
                break
            self._runs.popleft()
        return np.concatenate(popped)
