"""Rows of a scene through an Assembler, as they would come: each when it ended, in small batches, between ticks."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from bridge.linker import LinkOptions, WindowOptions
from bridge.linker.groups import PlainGroups
from bridge.spans import SpanColumns
from tests.support.assembling import Decision, Run
from tests.support.link_scenes import MS, Row

SECOND = 1000 * MS
IN_PART = LinkOptions(sampling_rate=1.0, use_app_trace_id=False, timing=True)


def rows_of(columns: SpanColumns) -> list[Row]:
    """A table as rows."""
    names, values = zip(*columns.items(), strict=True)
    return [dict(zip(names, row, strict=True)) for row in zip(*(v.tolist() for v in values), strict=True)]


def replay(
    rows: Sequence[Row],
    at_ns: Sequence[int],
    window: WindowOptions,
    *,
    options: LinkOptions = IN_PART,
    groups: type[PlainGroups] | None = None,
    restarts: Collection[int] = (),
    force: bool = False,
    effort: float = 1.0,
) -> tuple[Run, list[Decision], dict[str, int]]:
    """Let rows come at these times; what became of it, the decision on each row, and all counts.

    Ticks come 16 times in a window, restarts before ticks of these numbers. force: the tick after the last row came is
    the last one. effort: what is allowed to timing.
    """
    run, counts, place = Run(options, window, groups), dict[str, int](), dict[tuple[int, int], int]()
    run.assembler.limit_timing(effort)
    every, ticks = window.window_ns // 16, 0
    order = sorted(range(len(rows)), key=lambda i: at_ns[i])
    now = at_ns[order[0]]
    while order or run.waiting:
        now += every
        came = [i for i in order if at_ns[i] <= now]
        order = order[len(came) :]
        for at in sorted({at_ns[i] for i in came}):
            batch = [i for i in came if at_ns[i] == at]
            number = run.add([rows[i] for i in batch], at)
            place.update({(number, j): i for j, i in enumerate(batch)})
        if ticks in restarts:
            run.restart(now)
        ticks += 1
        for name, count in run.tick(now, force=force and not order).counts.items():
            counts[name] = counts.get(name, 0) + count
    decided: list[Decision] = [{}] * len(rows)
    for where, i in place.items():
        decided[i] = run.left[where].decision
    return run, decided, counts


def score(decided: Sequence[Decision], truth: NDArray[np.uint64], asked: NDArray[np.bool_]) -> tuple[float, float]:
    """Recall and precision of the parents of the rows that are asked for; truth: span ids of parents, 0 for none."""
    found = np.array([int(d["ebpf_parent_id"]) for d in decided], np.uint64)[asked]
    truth = truth[asked]
    right = np.count_nonzero((found == truth) & (truth != 0))
    return right / np.count_nonzero(truth), right / max(1, np.count_nonzero(found))
