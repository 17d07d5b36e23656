"""Puts batches and the ticks that mention them together again. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.component import StoredBatch
from bridge.spans import Decisions, Departure, SpanColumns


@dataclass(slots=True, eq=False)
class _Left:
    """Rows that left in one tick, by batch."""

    left_ns: int
    departure: Departure
    order: NDArray[np.int64]
    numbers: NDArray[np.int64]
    """Batches that are mentioned, ascending."""
    starts: NDArray[np.int64]
    """Where the rows of each begin in `order`."""
    to_come: int
    """Batches it mentions that were not asked for yet."""


class Recovery:
    """Holds the ticks that mention batches still to come; each batch is asked for once."""

    def __init__(self) -> None:
        self._ticks: dict[int, _Left] = {}

    def add_tick(self, number: int, left_ns: int, departure: Departure, batches: int) -> None:
        """Each tick comes before the first batch it mentions is asked for; `batches` of them will be."""
        order = np.argsort(departure.batch, kind="stable")
        numbers, starts = np.unique(departure.batch[order], return_index=True)
        self._ticks[number] = _Left(left_ns, departure, order, numbers, starts, batches)

    def batch(self, number: int, arrival_ns: int, columns: SpanColumns) -> StoredBatch:
        """The batch with what is known of its rows that left; ticks that mention no further batch are let go of."""
        rows, left_ns, decisions = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)], [Decisions.zeros(0)]
        for tick, left in sorted(self._ticks.items()):
            at = int(np.searchsorted(left.numbers, number))
            if at < left.numbers.size and left.numbers[at] == number:
                end = left.starts[at + 1] if at + 1 < left.numbers.size else None
                positions = left.order[left.starts[at] : end]
                rows.append(left.departure.row[positions])
                left_ns.append(np.full(positions.size, left.left_ns, np.int64))
                decisions.append(left.departure.decisions.take(positions))
                left.to_come -= 1
            if not left.to_come:
                del self._ticks[tick]
        return StoredBatch(
            number, arrival_ns, columns, np.concatenate(rows), np.concatenate(left_ns), Decisions.concatenate(decisions)
        )
