"""Edges inside some processes of which all that waits is there, part of it decided before. Pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.across import Held, pair_across
from bridge.linker.copies import originals
from bridge.linker.keys import placed
from bridge.linker.link import Edges, find_edges
from bridge.linker.offsets import PairTimes
from bridge.linker.options import LinkOptions
from bridge.spans import Kind, Method, SpanColumns
from bridge.spans.ids import combine

I64Array = NDArray[np.int64]
U64Array = NDArray[np.uint64]
Mask = NDArray[np.bool_]

ASTRAY: Final = 0.2
"""Share of a process's exits that may be without an entry by thread where its threads are believed."""


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """n rows that are looked at; the masks have shape (n,)."""

    columns: SpanColumns
    ripe: Mask
    """Rows whose edges may be decided now."""
    near: Mask
    """Rows that timing decides anew, whatever it said before."""
    alone: Mask
    """Rows that threads do not group with others: their edges by thread are to be held, too."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found out about them."""

    edges: Held
    """Edges of ripe rows that had none; parent -1 where a row is to stay without."""
    doubted: I64Array
    """Rows whose thread evidence was given up."""
    asked: I64Array
    """Exits that were not decided before: those among which these rows were."""
    counts: dict[str, int]


def look_inside(looked: Looked, held: Held, *, seen: PairTimes, options: LinkOptions) -> Found:
    """Find the edges of ripe rows that none is held of yet."""
    columns, ripe = looked.columns, looked.ripe
    n, sound = len(columns), sound_rows(columns)
    exits, slack_ns = columns.kind == Kind.EXIT, options.clock_slack_ns
    decided = _mask(n, held.row)
    # what timing said of requests that are still going on is asked again, with all that came since
    held = held.take(~(looked.near[held.row] & ((held.method == Method.TIMING) | (held.parent < 0))))
    pairs = pair_across(columns, sound, np.zeros(n, np.bool_), slack_ns=slack_ns, seen=seen, held=held, repair=True)
    pairs.searched = True
    children = sound & ~_mask(n, held.row)
    timed = looked.near | (ripe & ~decided)
    edges, doubted, counts = find_edges(columns, sound, pairs, children, options, timed=timed)
    undecided = ripe & children & ~decided & (columns.kind != Kind.ENTRY)
    wrong = _mask(n, doubted)
    kept, given_up = _believed(looked, edges, wrong, ripe & exits & sound)
    given_up &= undecided & (wrong | exits)
    rows = np.flatnonzero((undecided & kept) | given_up)
    left_over = int(np.count_nonzero(given_up))
    skipped = min(counts.get("timing_skipped", 0), left_over)
    # where threads tell nothing they do not later either
    yields = ~wrong & ~looked.alone & (edges.method != Method.THREAD)
    return Found(
        Held(
            row=rows,
            parent=edges.parent[rows],
            method=edges.method[rows],
            confidence=edges.confidence[rows],
            yields=yields[rows].view(np.uint8),
        ),
        doubted,
        np.flatnonzero(children & exits),
        {
            "threads_doubted": int(np.count_nonzero(undecided & wrong)),
            "timing_skipped": skipped,
            "timing_unsure": min(counts.get("timing_unsure", 0), left_over - skipped),
        },
    )


def _believed(looked: Looked, edges: Edges, wrong: Mask, exits: Mask) -> tuple[Mask, Mask]:
    """Rows whose edge is to be held, and rows that are to stay without one.

    A thread's edge is found again when rows leave, but not where threads join no rows. Where threads do tell, an exit
    of which they say nothing waits for its entry.
    """
    columns, by_thread = looked.columns, edges.method == Method.THREAD
    process = process_keys(columns.sender, columns.pid, columns.service)
    followed = _mostly(process, exits, by_thread)
    hasty = (edges.method == Method.TIMING) & followed & ~wrong & (placed(columns) | (columns.thread_trace_id != 0))
    kept: Mask = (edges.parent >= 0) & (~by_thread | looked.alone) & ~hasty
    return kept, (edges.parent < 0) & (wrong | ~followed)


def _mask(n: int, rows: I64Array) -> Mask:
    mask = np.zeros(n, np.bool_)
    mask[rows] = True
    return mask


def _mostly(process: U64Array, of: Mask, mine: Mask) -> Mask:
    """Of each row whether most rows `of` its process, if there are any, are `mine`."""
    keys, number = np.unique(process, return_inverse=True)
    n = np.bincount(number[of], minlength=keys.size)
    most: Mask = (np.bincount(number[of & mine], minlength=keys.size) >= (1 - ASTRAY) * n) & (n > 0)
    return most[number]


def sound_rows(columns: SpanColumns) -> Mask:
    """eSpans without faults, each once."""
    n = len(columns)
    nothing = np.zeros(n, np.bool_)
    original, _ = originals(columns, nothing, nothing)
    sound: Mask = (columns.kind != Kind.ORDINARY) & (columns.faults == 0) & (original == np.arange(n))
    return sound


def process_keys(sender: U64Array, pid: U64Array, service: U64Array) -> U64Array:
    """As `timing.scene.processes`: sender and pid, or sender and service where there is no pid; 0 for neither."""
    known = pid != 0
    key = combine((sender, np.where(known, pid, ~service)))
    return np.where(known | (service != 0), np.maximum(key, np.uint64(1)), np.uint64(0))
