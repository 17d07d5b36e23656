"""From what `link` says about rows to what leaves: traces together, links re-based, ordinary spans as they came."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bridge.linker.across import Held
from bridge.linker.offsets import HostClocks
from bridge.linker.row_clocks import row_clocks
from bridge.linker.waiting import Received
from bridge.spans import NO_CLOCKS, Decisions, Departure, Outcome, SpanColumns, SpanLinks

Positions = NDArray[np.intp]
Leaving = tuple[Departure, NDArray[np.uint64]]
"""Rows that leave together, and the sender of each."""


@dataclass(frozen=True, slots=True, eq=False)
class Departed:
    """What one tick let go."""

    departure: Departure
    counts: Mapping[str, int]
    """What `link` counted, and groups that left by reason (`groups_quiet`, `groups_age`, `groups_size`,
    `groups_forced`), look-ups cut short (`fragments_capped`, `context_capped`). A count of 0 may be absent."""
    more: bool = False
    """Whether rows were left for the next tick since enough left in this one."""


def together(label: NDArray[np.int64], n_labels: int) -> Positions:
    """Positions that bring equal labels together: labels in order of their first row, rows in order."""
    first = np.zeros(n_labels, np.intp)
    first[label[::-1]] = np.arange(label.size)[::-1]
    return np.argsort(first[label], kind="stable")


def by_trace(columns: SpanColumns) -> Positions:
    """Positions that bring rows with one trace id of their own together."""
    _, label = np.unique(columns.trace_lo ^ (columns.trace_hi << np.uint64(1)), return_inverse=True)
    return together(label, label.size)


def pass_through(columns: SpanColumns) -> Decisions:
    """Decisions on ordinary spans: out as they came."""
    n = len(columns)
    return Decisions.from_columns(
        n,
        outcome=np.full(n, Outcome.PASS),
        span_id=columns.span_id,
        trace_hi=columns.trace_hi,
        trace_lo=columns.trace_lo,
        parent_span_id=columns.parent_id,
    )


def tail(decisions: Decisions, start: int) -> Decisions:
    """The rows from `start` on."""
    return Decisions(**{name: column[start:] for name, column in decisions.items()})


def moved_links(links: SpanLinks, start: int, order: Positions) -> SpanLinks:
    """Span links of the rows from `start` on, their rows counted in `order`."""
    mine = links.take(links.row >= start)
    position = np.empty(order.size, np.int64)
    position[order] = np.arange(order.size)
    return SpanLinks(
        row=position[mine.row - start], trace_hi=mine.trace_hi, trace_lo=mine.trace_lo, span_id=mine.span_id
    )


def moved_edges(held: Held, by: int) -> Held:
    """Edges of rows that stand behind so many others."""
    parent = np.where(held.parent >= 0, held.parent + by, -1)
    return replace(held, row=held.row + by, parent=parent)


def departure(received: Received, decisions: Decisions, links: SpanLinks, order: Positions) -> Leaving:
    """Rows that leave in this order, and their senders; links are of rows as they leave."""
    leaving = Departure(received.batch[order], received.row[order], decisions.take(order), links)
    return leaving, received.columns.sender[order]


def joined(parts: list[Leaving], hosts: HostClocks | None = None) -> Departure:
    """One departure of several parts, in order. hosts: what is known of clocks."""
    if not parts:
        return _nothing()
    if len(parts) == 1:
        leaving, senders = parts[0]
        return leaving if hosts is None else replace(leaving, clocks=row_clocks(hosts, senders))
    links, start = [], 0
    for part, _ in parts:
        links.append(replace(part.links, row=part.links.row + start))
        start += len(part)
    senders = np.concatenate([np.empty(0, np.uint64), *(senders for _, senders in parts)])
    return Departure(
        np.concatenate([np.empty(0, np.int64), *(p.batch for p, _ in parts)]),
        np.concatenate([np.empty(0, np.uint32), *(p.row for p, _ in parts)]),
        Decisions.concatenate([p.decisions for p, _ in parts]),
        SpanLinks.concatenate(links),
        NO_CLOCKS if hosts is None else row_clocks(hosts, senders),
    )


@cache
def _nothing() -> Departure:
    return Departure(np.empty(0, np.int64), np.empty(0, np.uint32), Decisions.zeros(0), SpanLinks.zeros(0))
