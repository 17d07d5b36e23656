"""An Assembler with its surroundings: batches that are numbered, a store's view of what left, and what was decided."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge.linker import Assembler, Departed, LinkOptions, WindowOptions
from bridge.linker.groups import PlainGroups
from bridge.spans import Decisions, SpanLinks
from tests.support.link_scenes import columns_of

Row = dict[str, int]
Place = tuple[int, int]
"""(batch, row)"""
Decision = dict[str, float]


@dataclass(frozen=True)
class Left:
    """A row that left."""

    at: int
    tick: int
    row: Row
    decision: Decision
    links: frozenset[tuple[int, int, int]]
    """(trace_hi, trace_lo, span id) of the span links it carries."""


@dataclass
class Run:
    """What came in and what left so far."""

    link_options: LinkOptions
    window: WindowOptions
    groups: type[PlainGroups] | None = None
    batches: list[tuple[list[Row], int]] = field(default_factory=list)
    left: dict[Place, Left] = field(default_factory=dict)
    ticks: int = 0

    def __post_init__(self) -> None:
        self.assembler = self._new()

    def _new(self) -> Assembler:
        return Assembler(self.link_options, self.window, groups=self.groups() if self.groups else None)

    def add(self, rows: Sequence[Row], at: int) -> int:
        """Store and add a batch; return its number."""
        self.batches.append((list(rows), at))
        number = len(self.batches)
        self.assembler.add(number, columns_of(rows), at)
        return number

    def tick(self, at: int, **how: Any) -> Departed:
        """Tick and note what left; a row that leaves twice fails."""
        departed = self.assembler.tick(at, **how)
        d = departed.departure
        self.ticks += 1
        carried = carried_by(d.links)
        for i, place in enumerate(zip(d.batch.tolist(), d.row.tolist(), strict=True)):
            assert place not in self.left, f"{place} left twice"
            row = self.batches[place[0] - 1][0][place[1]]
            self.left[place] = Left(at, self.ticks, row, decision(d.decisions, i), carried.get(i, frozenset()))
        assert self.assembler.waiting == len(self.waiting)
        return departed

    @property
    def waiting(self) -> set[Place]:
        """Rows that came and did not leave."""
        came = {(number, row) for number, (rows, _) in enumerate(self.batches, 1) for row in range(len(rows))}
        return came - self.left.keys()

    def remembered(self, at: int) -> list[Place]:
        """Rows that left within the late window before this time."""
        return [place for place, left in self.left.items() if left.at > at - self.window.late_ns]

    def restart(self, at: int) -> None:
        """Go on with a new assembler that is told what a store still keeps at this time."""
        self.assembler = self._new()
        kept = set(self.remembered(at)) | self.waiting
        for number, (rows, arrival) in enumerate(self.batches, 1):
            places = [(number, row) for row in range(len(rows))]
            if not any(place in kept for place in places):
                continue
            left = [place for place in places if place in self.left]
            self.assembler.restore(
                number,
                columns_of(rows),
                arrival,
                np.array([row for _, row in left], np.uint32),
                np.array([self.left[place].at for place in left], np.int64),
                decisions_of([self.left[place].decision for place in left]),
            )


def carried_by(links: SpanLinks) -> dict[int, frozenset[tuple[int, int, int]]]:
    """Span links by the row that carries them."""
    found: dict[int, set[tuple[int, int, int]]] = {}
    for row, *rest in zip(*(column.tolist() for _, column in links.items()), strict=True):
        found.setdefault(row, set()).add(tuple(rest))
    return {row: frozenset(rest) for row, rest in found.items()}


def decision(decisions: Decisions, row: int) -> Decision:
    """One row of the table."""
    return {name: column[row].item() for name, column in decisions.items()}


def decisions_of(rows: Sequence[Decision]) -> Decisions:
    """Rows back in a table."""
    dtypes = Decisions.dtypes()
    return Decisions(**{name: np.array([row[name] for row in rows], dtype) for name, dtype in dtypes.items()})
