"""Processes whose entries overlap and whose exits say nothing about whose they are; the truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from bridge.linker.timing import Timed, assign_by_timing
from bridge.spans import Kind, SpanColumns
from tests.support.link_scenes import NOON, Row, client, columns_of, server

US = 1000
BUDGET = 10**9


@dataclass(frozen=True, eq=False)
class Process:
    """Rows of processes, in order of begin, and the row of each one's true parent, -1 for none."""

    columns: SpanColumns
    parent: NDArray[np.int64]

    @property
    def exits(self) -> NDArray[np.bool_]:
        return self.columns.kind == Kind.EXIT

    def timed(self, budget: int = BUDGET, known: NDArray[np.bool_] | None = None) -> Timed:
        """What timing finds; known: exits whose parent it is told."""
        told = np.zeros(len(self.columns), np.bool_) if known is None else known
        parent = np.where(told, self.parent, -1)
        entries = self.columns.kind == Kind.ENTRY
        return assign_by_timing(self.columns, parent, entries, self.exits & ~told, budget=budget)

    def right(self, found: NDArray[np.int64]) -> float:
        """Share of the exits that got their parent."""
        return float((found == self.parent)[self.exits].mean())


def process_of(rows: Sequence[tuple[Row, int]]) -> Process:
    """Rows with the position of their parent."""
    order = sorted(range(len(rows)), key=lambda i: rows[i][0]["start_ns"])
    place = {was: now for now, was in enumerate(order)}
    parents = [place.get(rows[i][1], -1) for i in order]
    return Process(columns_of([rows[i][0] for i in order]), np.array(parents, np.int64))


def sequential(
    requests: int, every_us: float, *, seed: int = 1, calls: Sequence[int] = (1, 2, 3), pid: int = 7, **columns: int
) -> Process:
    """A process that calls these addresses one after the other for each request, which come at random."""
    random, now, rows = Random(seed), 0.0, list[tuple[Row, int]]()

    def add(make: Row, begin: float, end: float, parent: int) -> None:
        times = {"start_ns": NOON + int(begin * US), "end_ns": NOON + int(end * US), "ktime": 10**12 + int(begin * US)}
        rows.append((make | times | {"sender": 1, "pid": pid, "service": 3} | columns, parent))

    for _ in range(requests):
        now += random.expovariate(1 / every_us)
        entry, at = len(rows), now + 200 * random.lognormvariate(0, 0.3)
        rows.append(({}, -1))
        for address in calls:
            length = 2000 * random.lognormvariate(0, 0.5)
            add(client(dst_ip=address, dst_port=80), at, at + length, entry)
            at += length + 40 * random.lognormvariate(0, 0.3)
        add(server(src_port=80), now, at + 100 * random.lognormvariate(0, 0.3), -1)
        rows[entry] = rows.pop()
    return process_of(rows)
