"""Stage *build*: from parent rows to roots, trace ids and verdicts. Keyed by trace."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.linker.forest import roots, united
from bridge.linker.headers import Headers
from bridge.linker.options import LinkOptions
from bridge.linker.sampling import flags, kept_by_rate, verdict_by_flags
from bridge.linker.trace_ids import trace_ids
from bridge.spans import Decisions, Encoding, Outcome, SpanColumns, SpanLinks

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Earlier:
    """Rows that left, first that left first: where they stand among the rows, and what was decided on them."""

    rows: I64Array
    decisions: Decisions


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """Roots that left, each with the row that turns out to be its parent."""

    rows: I64Array
    parents: I64Array


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """Traces of n rows: root row, eBPF trace id, exported trace id and how that is written, kept or not."""

    root: I64Array
    ebpf_hi: U64Array
    ebpf_lo: U64Array
    trace_hi: U64Array
    trace_lo: U64Array
    encode: NDArray[np.uint8]
    keep: Mask
    adopted: I64Array
    """Shape (n,): at a root that took over the trace of a fragment, its row; -1 elsewhere."""


def build(
    columns: SpanColumns,
    parent: I64Array,
    headers: Headers,
    earlier: Earlier,
    fragments: Fragments,
    options: LinkOptions,
) -> Traces:
    """Traces of the rows under these parents, which form no loop; a row that left has no parent here, but its trace."""
    root = roots(parent)
    adopted = _adopted(root, earlier, fragments)
    ebpf_hi, ebpf_lo = _ebpf_ids(columns, root, earlier, adopted)
    trace_hi, trace_lo, encode = _exported(parent, ebpf_hi, ebpf_lo, headers, earlier)
    keep = _kept(columns, root, headers, earlier, adopted, (trace_hi, trace_lo, encode), options)
    return Traces(root, ebpf_hi, ebpf_lo, trace_hi, trace_lo, encode, keep, adopted)


def _position(n: int, earlier: Earlier) -> I64Array:
    """Where in `earlier` each row is, -1 for rows that did not leave."""
    position = np.full(n, -1, np.int64)
    position[earlier.rows] = np.arange(earlier.rows.size)
    return position


def _adopted(root: I64Array, earlier: Earlier, fragments: Fragments) -> I64Array:
    """For each new root the fragment below it that left first, -1 where there is none."""
    adopted = np.full(root.size, -1, np.int64)
    if not fragments.rows.size:
        return adopted
    late_first = np.argsort(-_position(root.size, earlier)[fragments.rows])
    adopted[root[fragments.parents[late_first]]] = fragments.rows[late_first]
    adopted[earlier.rows] = -1
    return adopted


def _ebpf_ids(columns: SpanColumns, root: I64Array, earlier: Earlier, adopted: I64Array) -> tuple[U64Array, U64Array]:
    n = root.size
    hi, lo = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    hi[earlier.rows], lo[earlier.rows] = earlier.decisions.ebpf_trace_hi, earlier.decisions.ebpf_trace_lo
    new = root == np.arange(n)
    new[earlier.rows] = False
    made = np.flatnonzero(new & (adopted < 0))
    net = (columns.faults[made] == 0) & ((columns.req_seq[made] | columns.resp_seq[made]) != 0)
    first = np.where(net, columns.req_seq[made], columns.span_id[made])
    second = np.where(net, columns.resp_seq[made], columns.start_ns[made].view(np.uint64))
    hi[made], lo[made] = trace_ids(first, second)
    took = np.flatnonzero(adopted >= 0)
    hi[took], lo[took] = hi[adopted[took]], lo[adopted[took]]
    return hi[root], lo[root]


def _exported(
    parent: I64Array, ebpf_hi: U64Array, ebpf_lo: U64Array, headers: Headers, earlier: Earlier
) -> tuple[U64Array, U64Array, NDArray[np.uint8]]:
    """Exported trace ids: of the nearest row upstream (itself included) that has one from headers or that left."""
    hi, lo, encode = ebpf_hi.copy(), ebpf_lo.copy(), np.zeros(parent.size, np.uint8)
    if not headers.present.any() and not earlier.rows.size:
        return hi, lo, encode
    named = headers.present
    hi[named], lo[named], encode[named] = headers.trace_hi[named], headers.trace_lo[named], headers.encode[named]
    d = earlier.decisions
    hi[earlier.rows], lo[earlier.rows], encode[earlier.rows] = d.trace_hi, d.trace_lo, d.encode
    source = roots(np.where(named, -1, parent))
    return hi[source], lo[source], encode[source]


def _kept(
    columns: SpanColumns,
    root: I64Array,
    headers: Headers,
    earlier: Earlier,
    adopted: I64Array,
    exported: tuple[U64Array, U64Array, NDArray[np.uint8]],
    options: LinkOptions,
) -> Mask:
    """Verdicts: what was decided on a trace that left; else flags, of all traces with one header id, else hash.

    A trace below a row that left, or that took over a fragment's, goes with that. Of others that share a header's
    trace id, also with rows that left, the first that left decides.
    """
    n = root.size
    trace_hi, trace_lo, encode = exported
    part = _united(root, headers, earlier, adopted, exported)
    new = np.ones(n, np.bool_)
    new[earlier.rows] = False
    flag = flags(columns, options)
    verdict = verdict_by_flags(part[new], flag[new], n)
    undecided = np.flatnonzero(verdict[part] == 0)
    first = _first_roots(columns, root, part, encode, undecided)
    by_rate = kept_by_rate(trace_hi[first], trace_lo[first], options.sampling_rate)
    verdict[part[first]] = np.where(by_rate, 1, -1)
    judges = np.flatnonzero(np.isin(earlier.decisions.outcome, (Outcome.EXPORT, Outcome.SAMPLED_OUT)))[::-1]
    known = np.where(earlier.decisions.outcome == Outcome.EXPORT, 1, -1).astype(np.int8)
    verdict[part[earlier.rows[judges]]] = known[judges]
    keep = verdict[part] > 0
    keep[earlier.rows] = known > 0
    keep[np.flatnonzero(adopted >= 0)] = keep[adopted[adopted >= 0]]
    taken = keep[root]
    # only a trace that left, or took over one that did, is judged by its root alone
    alone = ~new[root] | (adopted[root] >= 0)
    return np.where(alone, taken, keep)


def _united(
    root: I64Array,
    headers: Headers,
    earlier: Earlier,
    adopted: I64Array,
    exported: tuple[U64Array, U64Array, NDArray[np.uint8]],
) -> I64Array:
    """A label per row, equal for traces that share a verdict."""
    trace_hi, trace_lo, encode = exported
    took = np.flatnonzero(adopted >= 0)
    late = np.flatnonzero(headers.left >= 0)
    a, b = np.concatenate([took, root[late]]), np.concatenate([adopted[took], headers.left[late]])
    from_header = encode != Encoding.ABSENT
    from_header[earlier.rows[earlier.decisions.outcome == Outcome.PASS]] = False
    rows = np.flatnonzero(from_header)
    if rows.size:
        rows = rows[np.lexsort((trace_lo[rows], trace_hi[rows]))]
        same = (trace_lo[rows[1:]] == trace_lo[rows[:-1]]) & (trace_hi[rows[1:]] == trace_hi[rows[:-1]])
        a, b = np.concatenate([a, root[rows[1:][same]]]), np.concatenate([b, root[rows[:-1][same]]])
    if not a.size:
        return root
    return united(root.size, a, b)[root]


def _first_roots(
    columns: SpanColumns, root: I64Array, part: I64Array, encode: NDArray[np.uint8], rows: I64Array
) -> I64Array:
    """One root for each part among these rows: with a header's id if there is one, then the earliest."""
    tops: I64Array = rows[root[rows] == rows]
    if tops.size < 2 or part is root:  # no two traces share a verdict
        return tops
    order: I64Array = tops[
        np.lexsort(
            (
                columns.digest[tops],
                columns.span_id[tops],
                columns.start_ns[tops],
                encode[tops] == Encoding.ABSENT,
                part[tops],
            )
        )
    ]
    first = np.ones(order.size, np.bool_)
    first[1:] = part[order][1:] != part[order][:-1]
    firsts: I64Array = order[first]
    return firsts


def links_to_fragments(traces: Traces, decisions: Decisions, fragments: Fragments) -> SpanLinks:
    """A span link at each late parent to every fragment of it that left as another eBPF trace.

    decisions: of all rows.
    """
    rows, parents = fragments.rows, fragments.parents
    other = (traces.ebpf_hi[parents] != decisions.ebpf_trace_hi[rows]) | (
        traces.ebpf_lo[parents] != decisions.ebpf_trace_lo[rows]
    )
    rows, parents = rows[other], parents[other]
    order = np.lexsort((decisions.span_id[rows], parents))
    rows, parents = rows[order], parents[order]
    return SpanLinks(
        row=parents,
        trace_hi=decisions.trace_hi[rows],
        trace_lo=decisions.trace_lo[rows],
        span_id=decisions.span_id[rows],
    )


def with_one_trace_id(
    decisions: Decisions, traces: Traces, original: I64Array, earlier: Earlier, fragments: Fragments
) -> Decisions:
    """The decisions; a new trace in which a single header trace id is found below its root has it from the root on.

    decisions: of all rows, where header ids flow downstream only; original: the row each is a copy of, itself for none.
    Fragments below a root count with the trace id that they left with. Parents stay what they are.
    """
    root = traces.root[original]
    new = decisions.outcome != Outcome.PASS
    new[earlier.rows] = False
    named = np.flatnonzero(new & (decisions.encode != Encoding.ABSENT))
    top = np.concatenate([root[named], root[fragments.parents]])
    rows = np.concatenate([named, fragments.rows])
    top, rows = top[new[top]], rows[new[top]]
    if not rows.size:
        return decisions
    order = np.lexsort((decisions.encode[rows], decisions.trace_lo[rows], decisions.trace_hi[rows], top))
    top, rows = top[order], rows[order]
    first = np.ones(top.size, np.bool_)
    first[1:] = top[1:] != top[:-1]
    source = rows[first]
    last = rows[np.append(first[1:], True)]
    single = (decisions.trace_hi[source] == decisions.trace_hi[last]) & (
        decisions.trace_lo[source] == decisions.trace_lo[last]
    )
    single &= decisions.encode[source] != Encoding.ABSENT
    found = np.full(root.size, -1, np.int64)
    found[top[first][single]] = source[single]
    taken = found[root]
    rows = np.flatnonzero(new & (taken >= 0) & (decisions.encode == Encoding.ABSENT))
    columns = {name: getattr(decisions, name) for name in Decisions.dtypes()}
    for name in ("trace_hi", "trace_lo", "encode"):
        columns[name] = columns[name].copy()
        columns[name][rows] = getattr(decisions, name)[taken[rows]]
    return Decisions(**columns)


def links_to_predecessors(
    decisions: Decisions, parent: I64Array, present: Mask, exported: Decisions | None = None
) -> SpanLinks:
    """A span link from each row with header ids to its eBPF parent, where that is in another trace by header ids.

    decisions: of all rows, where header ids flow downstream only; present: which rows have header ids; exported: what
    is decided in the end, if that is something else.
    """
    exported = decisions if exported is None else exported
    rows = np.flatnonzero(present & (parent >= 0))
    above = parent[rows]
    other = (decisions.trace_hi[rows] != decisions.trace_hi[above]) | (
        decisions.trace_lo[rows] != decisions.trace_lo[above]
    )
    rows, above = rows[other], above[other]
    return SpanLinks(
        row=rows,
        trace_hi=exported.trace_hi[above],
        trace_lo=exported.trace_lo[above],
        span_id=exported.span_id[above],
    )
