"""Which entry triggered an exit, where neither thread nor id says so: from delays and the order of calls.

`assign_by_timing` is a pure function over the rows of a window. It learns how each kind of process behaves from these
rows and looks for the assignment under which all of them together are likely. It abstains where it is not sure: the
confidence of an edge is the share of samples that agree on it, over independent starts.

Guarantees: no parent outside whose time the exit began, none of another process; independent of the order of rows;
work bounded per pair of an exit and an entry open at its begin, and the number of pairs by a budget.

Taken from published work: learning delays per process from the data itself, iterated, and solving for many requests
at once (TraceWeaver, SIGCOMM 2024); delays of causes on top of a background (Aguilera et al., SOSP 2003). New are
the model of whole chains of calls, ends included, exchanges between two and three entries by beam search in place
of an assignment per call, and confidence from restarts. docs/accuracy.md says how well it does.

Decided against: one assignment problem per position in a sequence of calls (the number of calls differs from
request to request, and an exchange of one call is rarely an improvement without those that follow it).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.linker.timing.scene import scene_of
from bridge.linker.timing.solving import solve
from bridge.spans import SpanColumns

__all__ = ["Timed", "assign_by_timing"]


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """What timing found for n rows."""

    parent: NDArray[np.int64]
    """Shape (n,): row of the entry that triggered each row, -1 for none."""
    confidence: NDArray[np.float32]
    """Shape (n,): 0..1, 0 where there is no parent."""
    skipped: int
    """Exits that were left out for the budget."""


def assign_by_timing(
    columns: SpanColumns,
    parent: NDArray[np.int64],
    entries: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    *,
    budget: int,
    vague: NDArray[np.bool_] | None = None,
    endpoint: NDArray[np.uint64] | None = None,
) -> Timed:
    """Find the entry of each wanted exit.

    parent: shape (n,), rows of parents that are known, -1 for none; known exits below an entry stay and tell how its
    process behaves, known entries below an exit tell who called and what is called. entries: rows that may be parents.
    wanted: exits. Other rows of the same processes, older and younger, may be there with their parents as context.
    budget: most pairs of a wanted exit and an entry open at its begin; processes that are over it are left out whole.
    vague: exits whose end is known only roughly.
    endpoint: a hash of what a row asks for (route, method, statement), 0 where it is not known.
    """
    n = len(columns)
    found = Timed(np.full(n, -1, np.int64), np.zeros(n, np.float32), 0)
    scene, skipped = scene_of(columns, parent, entries, wanted, budget=budget, vague=vague, endpoint=endpoint)
    if scene is None:
        return Timed(found.parent, found.confidence, skipped)
    solved = solve(scene)
    exits = np.flatnonzero((scene.fixed == 0) & (solved.owner >= 0))
    found.parent[scene.exit_row[exits]] = scene.entry_row[solved.owner[exits]]
    found.confidence[scene.exit_row[exits]] = solved.confidence[exits]
    return Timed(found.parent, found.confidence, skipped)
