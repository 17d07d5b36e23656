"""From rows to links: pair, assign, build, in this order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.assigning import assign_by_id, assign_by_thread
from bridge.linker.building import Earlier, Fragments, Traces, build, links_to_fragments
from bridge.linker.copies import originals
from bridge.linker.forest import break_loops
from bridge.linker.headers import Headers, no_headers, read_headers
from bridge.linker.options import LinkOptions
from bridge.linker.pairing import pair
from bridge.spans import Decisions, Kind, Method, Outcome, SpanColumns, SpanLinks

I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]

_SEQ: Final = 1.0
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
    """Events by kind, 0 where absent: `loops_broken` (edges cut), `id_conflicts` (rows with another span's id),
    `late_children` (rows whose parent left before them), `late_parents` (rows whose children left before them)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Parent row of each row, -1 for none, how it was found, and how strong that is (0: no edge)."""

    parent: I64Array
    method: NDArray[np.uint8]
    confidence: NDArray[np.float32]

    def cut(self, rows: I64Array) -> None:
        self.parent[rows], self.method[rows], self.confidence[rows] = -1, Method.NONE, 0.0


def link(columns: SpanColumns, options: LinkOptions, decided: Decided | None = None) -> Links:
    """Find parents, roots, trace ids and verdicts of n rows; pure, and independent of the rows' order.

    decided: rows that left before; they may be parents, their own decisions stay. Ordinary spans pass through. A row
    with faults is a trace of its own. Costs n log n for any input.
    """
    n = len(columns)
    earlier = _earlier(columns, decided)
    known, folded = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    known[earlier.rows] = True
    folded[earlier.rows] = earlier.decisions.outcome == Outcome.FOLDED
    original, conflicts = originals(columns, known, folded)
    espans = (columns.kind != Kind.ORDINARY) & (original == np.arange(n)) & ~folded
    sound = espans & (columns.faults == 0)
    edges = _edges(columns, sound, known, earlier, options)
    fragments = _fragments(edges, known)
    loops = break_loops(
        edges.parent, _strength(edges), (columns.start_ns, columns.ktime, columns.span_id, columns.digest)
    )
    edges.cut(loops)
    headers = (
        read_headers(columns, sound, earlier.rows, earlier.decisions) if options.use_app_trace_id else no_headers(n)
    )
    traces = build(columns, edges.parent, headers, earlier, fragments, options)
    decisions = _decisions(columns, edges, headers, traces, earlier, original)
    counts = _counts(edges, fragments, known, espans) | {"loops_broken": loops.size, "id_conflicts": conflicts}
    return Links(
        parent=edges.parent[original],
        root=traces.root[original],
        decisions=decisions,
        span_links=links_to_fragments(traces, decisions, fragments),
        counts=counts,
    )


def _earlier(columns: SpanColumns, decided: Decided | None) -> Earlier:
    """Rows that left in order of leaving; those that left at once in an order that is theirs, not that of rows."""
    if decided is None:
        return Earlier(np.empty(0, np.int64), Decisions.zeros(0))
    rows, d = decided.rows.astype(np.int64), decided.decisions
    first = np.lexsort((columns.digest[rows], d.span_id, d.ebpf_trace_lo, d.ebpf_trace_hi, decided.order))
    return Earlier(rows[first], d.take(first))


def _edges(columns: SpanColumns, sound: Mask, known: Mask, earlier: Earlier, options: LinkOptions) -> _Edges:
    """The strongest edge of each row that has not left, and of each root that has."""
    n = len(columns)
    children = sound.copy()
    children[earlier.rows[earlier.decisions.ebpf_parent_id != 0]] = False
    edges = _Edges(np.full(n, -1, np.int64), np.zeros(n, np.uint8), np.zeros(n, np.float32))

    def take(found: I64Array, method: Method, confidence: float) -> None:
        rows = np.flatnonzero(found >= 0)
        edges.parent[rows], edges.method[rows], edges.confidence[rows] = found[rows], method, confidence
        children[rows] = False

    take(pair(columns, children, sound, slack_ns=options.clock_slack_ns), Method.SEQ, _SEQ)
    take(assign_by_id(columns, children, sound, slack_ns=options.clock_slack_ns), Method.THREAD, _THREAD_ID)
    take(assign_by_thread(columns, children, sound), Method.THREAD, _THREAD)
    return edges


def _strength(edges: _Edges) -> NDArray[np.uint8]:
    return (edges.confidence * 100).astype(np.uint8)


def _fragments(edges: _Edges, known: Mask) -> Fragments:
    """Roots that left and whose parent has come now; rows that left keep no edge."""
    left = np.flatnonzero(known & (edges.parent >= 0))
    found = left[~known[edges.parent[left]]]
    fragments = Fragments(found, edges.parent[found])
    edges.cut(left)
    return fragments


def _decisions(
    columns: SpanColumns, edges: _Edges, headers: Headers, traces: Traces, earlier: Earlier, original: I64Array
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


def _name_by_headers(columns_of: dict[str, NDArray[Any]], edges: _Edges, headers: Headers, traces: Traces) -> None:
    """A predecessor that is in the header's trace already is the parent; else the header knows better."""
    rows = np.flatnonzero(headers.present & (headers.parent != 0))
    parent = edges.parent[rows]
    kept = (
        (parent >= 0)
        & (traces.trace_hi[parent] == headers.trace_hi[rows])
        & (traces.trace_lo[parent] == headers.trace_lo[rows])
    )
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


def _counts(edges: _Edges, fragments: Fragments, known: Mask, espans: Mask) -> dict[str, int]:
    new = espans & ~known
    joined = new & (edges.parent >= 0)
    return {
        "late_children": int(np.count_nonzero(known[edges.parent[joined]])),
        "late_parents": int(np.unique(fragments.parents).size),
    }
