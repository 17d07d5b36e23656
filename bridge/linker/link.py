"""From rows to links: pair, assign, build, in this order."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.across import Held, Pairs, headers_differ, pair_across
from bridge.linker.assigning import assign_by_id, assign_by_thread
from bridge.linker.building import (
    Earlier,
    Fragments,
    Traces,
    build,
    links_to_fragments,
    links_to_predecessors,
    with_one_trace_id,
)
from bridge.linker.copies import originals
from bridge.linker.forest import break_loops
from bridge.linker.headers import Headers, no_headers, read_headers
from bridge.linker.offsets import Clocks, PairTimes
from bridge.linker.options import LinkOptions
from bridge.linker.request_ids import assign_by_request_id
from bridge.linker.threads import doubtful
from bridge.linker.timing import assign_by_timing
from bridge.spans import Decisions, Kind, Method, Outcome, SpanColumns, SpanLinks

I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]

_REQUEST_ID: Final = 0.95
_THREAD_ID: Final = 0.9
_THREAD: Final = 0.8
_HEADER: Final = 1.0
_OF_COPIES: Final = ("span_id", "trace_hi", "trace_lo", "ebpf_trace_hi", "ebpf_trace_lo", "encode")
"""What a copy is told of its original: it is not exported, and rows that left are not remembered with their parents."""


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """What was decided on rows that left."""

    rows: NDArray[np.integer]
    """Shape (k,): their positions among the rows that are linked, ascending."""
    decisions: Decisions
    """k decisions."""
    order: I64Array
    """Shape (k,): when each left; only which is less counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """What was found out about n rows."""

    parent: I64Array
    """Shape (n,): row of the parent by eBPF evidence, -1 at a root and for rows that left."""
    root: I64Array
    """Shape (n,): row of the topmost ancestor; a copy has its original's, an ordinary span its own."""
    decisions: Decisions
    """n decisions; those on rows that left are the ones given."""
    span_links: SpanLinks
    counts: Mapping[str, int]
    """Events by kind, 0 where absent; docs/linking.md, Counts, says what each is."""
    clocks: Clocks
    """Clocks of the hosts whose spans were paired by numbers."""
    times: PairTimes
    """What they were learnt from in this window: `seen` of a later one."""


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Parent row of each row, -1 for none, how it was found, and how strong that is (0: no edge)."""

    parent: I64Array
    method: NDArray[np.uint8]
    confidence: NDArray[np.float32]

    def cut(self, rows: I64Array) -> None:
        """Let these rows have no parent."""
        self.parent[rows], self.method[rows], self.confidence[rows] = -1, Method.NONE, 0.0


def link(
    columns: SpanColumns,
    options: LinkOptions,
    decided: Decided | None = None,
    *,
    seen: PairTimes | None = None,
    held: Held | None = None,
) -> Links:
    """Find parents, roots, trace ids and verdicts of n rows; pure, and independent of the rows' order.

    decided: rows that left before; they may be parents, their own decisions stay. Ordinary spans pass through. A row
    with faults is a trace of its own. Costs n log n for any input.

    seen: pairs of earlier windows, from which clocks of hosts are learnt, too. held: edges that are to stay, unless
    numbers in full or loops are against them; what is neither said by them nor by keys, threads and timelines is not
    looked for, except by timing where the options say so.
    """
    n = len(columns)
    earlier = _earlier(columns, decided)
    known, folded = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    known[earlier.rows] = True
    folded[earlier.rows] = earlier.decisions.outcome == Outcome.FOLDED
    original, conflicts = originals(columns, known, folded)
    espans = (columns.kind != Kind.ORDINARY) & (original == np.arange(n)) & ~folded
    sound = espans & (columns.faults == 0)
    held, yielding = _parted(held)
    pairs = pair_across(columns, sound, ~known, slack_ns=options.clock_slack_ns, seen=seen, held=held)
    children = sound.copy()
    children[earlier.rows[earlier.decisions.ebpf_parent_id != 0]] = False
    if held is not None:
        children[held.row[(held.parent < 0) & (pairs.parent[held.row] < 0)]] = False
    edges, _, assigned = find_edges(columns, sound, pairs, children, options)
    _fall_back(edges, yielding, sound & children)
    fragments = _fragments(edges, known)
    loops = break_loops(
        edges.parent, _strength(edges), (columns.start_ns, columns.ktime, columns.span_id, columns.digest)
    )
    edges.cut(loops)
    headers = (
        read_headers(columns, sound, earlier.rows, earlier.decisions) if options.use_app_trace_id else no_headers(n)
    )
    traces = build(columns, edges.parent, headers, earlier, fragments, options)
    decisions = exported = _decisions(columns, edges, headers, traces, earlier, original)
    if options.app_trace_scope == "trace":
        exported = with_one_trace_id(decisions, traces, original, earlier, fragments)
    counts = _counts(columns, edges, fragments, known, espans) | pairs.counts | assigned
    counts |= {"loops_broken": loops.size, "id_conflicts": conflicts}
    return Links(
        parent=edges.parent[original],
        root=traces.root[original],
        decisions=exported,
        span_links=SpanLinks.concatenate(
            [
                links_to_fragments(traces, decisions, fragments),
                links_to_predecessors(decisions, edges.parent, headers.present, exported),
            ]
        ),
        counts=counts,
        clocks=pairs.clocks,
        times=pairs.times,
    )


def _parted(held: Held | None) -> tuple[Held | None, Held]:
    """Edges that come before what keys and threads say, and those that come after."""
    if held is None:
        return None, Held.zeros(0)
    return held.take(held.yields == 0), held.take(held.yields != 0)


def _fall_back(edges: Edges, held: Held, sound: Mask) -> None:
    """Give rows that found no edge the one that is held."""
    new = (held.parent >= 0) & (edges.parent[held.row] < 0) & sound[held.row] & sound[held.parent]
    rows = held.row[new]
    edges.parent[rows], edges.method[rows] = held.parent[new], held.method[new]
    edges.confidence[rows] = held.confidence[new]


def link_by_keys(
    columns: SpanColumns, options: LinkOptions, decided: Decided | None = None, held: Held | None = None
) -> Links:
    """`link`, going only by what rows share as keys (`keys.group_keys`) or as a thread's timeline, and by `held`.

    So it finds the same in groups of rows that share no key as in all rows together.
    """
    return link(columns, options, decided, held=Held.zeros(0) if held is None else held)


def _earlier(columns: SpanColumns, decided: Decided | None) -> Earlier:
    """Rows that left in order of leaving; those that left at once in an order that is theirs, not that of rows."""
    if decided is None:
        return Earlier(np.empty(0, np.int64), Decisions.zeros(0))
    rows, d = decided.rows.astype(np.int64), decided.decisions
    first = np.lexsort((columns.digest[rows], d.span_id, d.ebpf_trace_lo, d.ebpf_trace_hi, decided.order))
    return Earlier(rows[first], d.take(first))


def find_edges(
    columns: SpanColumns,
    sound: Mask,
    pairs: Pairs,
    children: Mask,
    options: LinkOptions,
    *,
    timed: Mask | None = None,
) -> tuple[Edges, I64Array, dict[str, int]]:
    """The strongest edge of each row, rows whose thread evidence was found wrong, and counts.

    children: rows that may have a parent. timed: exits that timing may find one for (None: all).
    """
    repaired = pairs.end_ns != columns.end_ns
    columns = replace(columns, end_ns=pairs.end_ns)
    edges = Edges(pairs.parent, pairs.method, pairs.confidence)
    edges.cut(np.flatnonzero((edges.parent >= 0) & ~children))
    children = children & (edges.parent < 0)

    def take(found: I64Array, method: Method, confidence: float) -> None:
        rows = np.flatnonzero(found >= 0)
        edges.parent[rows], edges.method[rows], edges.confidence[rows] = found[rows], method, confidence
        children[rows] = False

    if pairs.searched:
        by_request = assign_by_request_id(columns, pairs.clocks, children, sound, slack_ns=options.clock_slack_ns)
        take(by_request, Method.REQUEST_ID, _REQUEST_ID)
    by_id = assign_by_id(columns, children, sound, slack_ns=options.clock_slack_ns)
    take(by_id, Method.THREAD, _THREAD_ID)
    by_thread, crowded = assign_by_thread(columns, children, sound)
    take(by_thread, Method.THREAD, _THREAD)
    if not options.timing:
        return edges, np.empty(0, np.int64), {}
    threads = edges.method == Method.THREAD
    ids = np.flatnonzero(by_id >= 0)
    doubted = doubtful(columns, edges.parent, threads, children, sound, ids, crowded, slack_ns=options.clock_slack_ns)
    edges.cut(doubted)
    children[doubted] = True
    wanted = children & (columns.kind == Kind.EXIT)
    counts = _take_timed(columns, edges, wanted if timed is None else wanted & timed, sound, repaired, options)
    return edges, doubted, counts | {"threads_doubted": doubted.size}


def _take_timed(
    columns: SpanColumns, edges: Edges, wanted: Mask, sound: Mask, vague: Mask, options: LinkOptions
) -> dict[str, int]:
    """Give these exits the entries that their timing tells, where it is sure."""
    entries = sound & (columns.kind == Kind.ENTRY)
    timed = assign_by_timing(columns, edges.parent, entries, wanted, budget=options.timing_budget, vague=vague)
    found = timed.parent >= 0
    rows = np.flatnonzero(found & (timed.confidence >= options.min_confidence))
    edges.parent[rows], edges.method[rows] = timed.parent[rows], Method.TIMING
    edges.confidence[rows] = timed.confidence[rows]
    return {"timing_unsure": int(np.count_nonzero(found)) - rows.size, "timing_skipped": timed.skipped}


def _strength(edges: Edges) -> NDArray[np.uint8]:
    return np.rint(edges.confidence * 100).astype(np.uint8)


def _fragments(edges: Edges, known: Mask) -> Fragments:
    """Roots that left and whose parent has come now; rows that left keep no edge."""
    left = np.flatnonzero(known & (edges.parent >= 0))
    found = left[~known[edges.parent[left]]]
    fragments = Fragments(found, edges.parent[found])
    edges.cut(left)
    return fragments


def _decisions(
    columns: SpanColumns, edges: Edges, headers: Headers, traces: Traces, earlier: Earlier, original: I64Array
) -> Decisions:
    n = len(columns)
    span_id = columns.span_id.copy()
    span_id[earlier.rows] = earlier.decisions.span_id
    linked = edges.parent >= 0
    ebpf_parent = np.where(linked, span_id[edges.parent], np.uint64(0))
    columns_of: dict[str, NDArray[Any]] = {
        "outcome": np.where(traces.keep, np.uint8(Outcome.EXPORT), np.uint8(Outcome.SAMPLED_OUT)),
        "span_id": span_id,
        "trace_hi": traces.trace_hi.copy(),
        "trace_lo": traces.trace_lo.copy(),
        "parent_span_id": ebpf_parent.copy(),
        "ebpf_trace_hi": traces.ebpf_hi.copy(),
        "ebpf_trace_lo": traces.ebpf_lo.copy(),
        "ebpf_parent_id": ebpf_parent,
        "method": edges.method.copy(),
        "confidence": edges.confidence.copy(),
        "encode": traces.encode.copy(),
    }
    _name_by_headers(columns_of, edges, headers, traces)
    _pass(columns_of, columns)
    new = np.ones(n, np.bool_)
    new[earlier.rows] = False
    copies = np.flatnonzero((original != np.arange(n)) & new)
    for name, value in columns_of.items():
        value[earlier.rows] = getattr(earlier.decisions, name)
        value[copies] = value[original[copies]] if name in _OF_COPIES else 0
    columns_of["outcome"][copies] = Outcome.FOLDED
    return Decisions(**columns_of)


def _name_by_headers(columns_of: dict[str, NDArray[Any]], edges: Edges, headers: Headers, traces: Traces) -> None:
    """A predecessor that is in the header's trace already is the parent; else the header knows better, and so it does
    where it names an ordinary span that is there, unless that is what the predecessor's names, too: the other side."""
    rows = np.flatnonzero(headers.present & (headers.parent != 0))
    parent = edges.parent[rows]
    kept = (
        (parent >= 0)
        & (traces.trace_hi[parent] == headers.trace_hi[rows])
        & (traces.trace_lo[parent] == headers.trace_lo[rows])
    )
    kept &= ~headers.ordinary[rows] | (headers.named[rows] == headers.named[parent])
    rows = rows[~kept]
    columns_of["parent_span_id"][rows] = headers.parent[rows]
    columns_of["method"][rows] = Method.HEADER
    columns_of["confidence"][rows] = _HEADER


def _pass(columns_of: dict[str, NDArray[Any]], columns: SpanColumns) -> None:
    """Ordinary spans go out as they came."""
    rows = np.flatnonzero(columns.kind == Kind.ORDINARY)
    for name in ("ebpf_trace_hi", "ebpf_trace_lo", "encode"):
        columns_of[name][rows] = 0
    for name, own in (("trace_hi", "trace_hi"), ("trace_lo", "trace_lo"), ("parent_span_id", "parent_id")):
        columns_of[name][rows] = getattr(columns, own)[rows]
    columns_of["outcome"][rows] = Outcome.PASS


def _counts(columns: SpanColumns, edges: Edges, fragments: Fragments, known: Mask, espans: Mask) -> dict[str, int]:
    new = espans & ~known
    joined = new & (edges.parent >= 0)
    paired = np.flatnonzero(joined & (edges.method == Method.SEQ))
    return {
        "seq_against_header": int(np.count_nonzero(headers_differ(columns, paired, edges.parent[paired]))),
        "late_children": int(np.count_nonzero(known[edges.parent[joined]])),
        "late_parents": int(np.unique(fragments.parents).size),
    }
