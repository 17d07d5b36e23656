"""Linked spans to serialized ExportTraceServiceRequest bodies, as opentelemetry-proto writes them.

Ordinary spans leave with the bytes they came with. An eSpan leaves with its own bytes too, but for what linking
decided: trace_id, span_id and parent_span_id (written first), the attributes in `REPLACED_KEYS` (written after all
others), and span links (written last). A link that came with a trace_id of another length than 0 or 16 bytes, or a
span_id of another than 0 or 8, is cut out: a Collector refuses a whole request for one such id, and with it the spans
of everybody else. What is cut out and put in is bytes of top-level fields; nothing else is decoded, so unknown fields,
the order of attributes and the way their sender wrote them survive. Of ordinary spans with such ids nothing comes here:
they are rejected when they are received.

`Splicer` does the cutting: compiled where that could be built, and `PlainSplicer`, its twin in plain Python, elsewhere;
slower, but with the same output. Decided against: appending ids so that they override earlier ones (attributes do not
override, and the old ones would be sent too), and parsing spans with protobuf (which writes fields its own way).
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bridge.codec.decided import confidence_of
from bridge.codec.points.to_otlp import as_otlp
from bridge.codec.wire import field, fields, head, varint
from bridge.errors import InvalidData
from bridge.spans import ClockOffsets, Context, Decisions, LinkedSpans, Method, Outcome, SpanLinks

I64Array = NDArray[np.int64]
U32Array = NDArray[np.uint32]

REPLACED_KEYS: Final = frozenset(
    (
        b"app_trace_id_l",
        b"app_trace_id_h",
        b"app_parent_id_l",
        b"ebpf_trace_id",
        b"ebpf_parent_id",
        b"espan.link.method",
        b"espan.link.confidence",
        b"espan.clock.reference",
        b"espan.clock.offset_ns",
        b"espan.clock.uncertainty_ns",
    )
)
"""Attributes that an exported eSpan does not keep; the kernel knows them too."""

# Tags of ExportTraceServiceRequest, ResourceSpans, ScopeSpans, Span, KeyValue, AnyValue: field number << 3 | 2.
_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS = 0x0A, 0x12, 0x12
_TRACE_ID, _SPAN_ID, _PARENT_ID, _ATTRIBUTE, _LINK = 0x0A, 0x12, 0x22, 0x4A, 0x6A
_KEY, _VALUE, _STRING_VALUE, _INT_VALUE, _DOUBLE_VALUE = 0x0A, 0x12, 0x0A, b"\x18", b"\x21"
_NO_CLOCK: Final = np.zeros(0, np.uint32)
_METHODS: Final = tuple(m for m in Method if m)
_U64: Final = 2**64 - 1
_ID_LENGTHS: Final = {_TRACE_ID: (0, 16), _SPAN_ID: (0, 8)}
"""What is allowed in a link."""


def encode_requests(linked: LinkedSpans, *, max_spans: int, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Serialized ExportTraceServiceRequests and how many spans each holds; every row once.

    A body holds at most `max_spans` spans and `max_bytes` bytes; a span that is larger by itself goes alone. Rows of
    one trace (equal exported or eBPF trace id, rows side by side) share a body as far as the limits allow. Equal
    contexts, of one block or several, are written once a body. Equal input gives equal bytes.

    Links at ordinary spans are left out: those leave unchanged. A few bytes of `max_bytes` per resource and scope may
    stay unused, because how long a length is is only known afterwards.

    Points are turned into spans first (docs/datakit-mapping.md).

    Raises InvalidData where the bytes of an eSpan are no protobuf message, and ValueError for limits below 1, rows of
    another outcome than EXPORT and PASS, or places that are not there.
    """
    if max_spans < 1 or max_bytes < 1:
        raise ValueError(f"a body holds at least 1 span and 1 byte, not {max_spans} and {max_bytes}")
    if not len(linked):
        return
    linked = as_otlp(linked)
    splicer = _splicer(linked)
    contexts = _contexts(linked)
    for start, stop in _bodies(splicer.sizes, contexts, trace_starts(linked.decisions), max_spans, max_bytes):
        rows = start + np.argsort(contexts.of_span[start:stop], kind="stable")
        yield _body(splicer, contexts, rows), stop - start


@dataclass(frozen=True, slots=True, eq=False)
class TraceSpans:
    """The spans of a tick that leave under one trace id, in their order; encoded once somebody asks for them."""

    trace_id: str
    """32 hex digits."""
    sizes: I64Array
    """Shape (n,): bytes of each in a request."""
    _rows: I64Array
    _splicer: "PlainSplicer"
    _contexts: "_Contexts"

    def request(self, most: int) -> bytes:
        """The first so many as a serialized ExportTraceServiceRequest, as `encode_requests` would write them."""
        rows = self._rows[:most]
        return _body(self._splicer, self._contexts, rows[np.argsort(self._contexts.of_span[rows], kind="stable")])


def encode_traces(linked: LinkedSpans) -> Iterator[TraceSpans]:
    """The same spans by trace id, in the order in which the ids come first. Raises what `encode_requests` does."""
    if not len(linked):
        return
    linked = as_otlp(linked)
    splicer, contexts = _splicer(linked), _contexts(linked)
    hi, lo = linked.decisions.trace_hi, linked.decisions.trace_lo
    order = np.lexsort((lo, hi))
    other = (hi[order[1:]] != hi[order[:-1]]) | (lo[order[1:]] != lo[order[:-1]])
    for rows in sorted(np.split(order, np.flatnonzero(other) + 1), key=lambda rows: int(rows[0])):
        trace_id = (_id(hi[rows[0]]) + _id(lo[rows[0]])).hex()
        yield TraceSpans(trace_id, splicer.sizes[rows], rows, splicer, contexts)


def _splicer(linked: LinkedSpans) -> "PlainSplicer":
    if not np.isin(linked.decisions.outcome, (Outcome.EXPORT, Outcome.PASS)).all():
        raise ValueError("linked spans hold a row whose outcome is neither EXPORT nor PASS")
    rows = flat_rows(linked)
    starts = np.concatenate([block.offsets[:-1] for block in linked.blocks])[rows]
    ends = np.concatenate([block.offsets[1:] for block in linked.blocks])[rows]
    by_row = np.argsort(linked.links.row, kind="stable")
    data = [block.data for block in linked.blocks]
    links, clocks = linked.links.take(by_row), clock_attributes(linked.clocks.offsets)
    return Splicer(data, linked.block, starts, ends, linked.decisions, links, clocks, linked.clocks.of_row)


def clock_attributes(offsets: ClockOffsets) -> list[bytes]:
    """What a span says of the clock of its host, for each clock."""
    rows = zip(*(column.tolist() for _, column in offsets.items()), strict=True)
    return [
        _attribute(b"espan.clock.reference", field(_STRING_VALUE, f"{reference:016x}".encode()))
        + _attribute(b"espan.clock.offset_ns", _INT_VALUE + varint(offset & _U64))
        + _attribute(b"espan.clock.uncertainty_ns", _INT_VALUE + varint(uncertainty & _U64))
        for reference, offset, uncertainty in rows
    ]


def flat_rows(linked: LinkedSpans) -> I64Array:
    """Where each span is when the rows of all blocks are counted through. Raises ValueError where one is not there."""
    lengths = np.array([len(block) for block in linked.blocks], np.int64)
    if (linked.block >= lengths.size).any() or (linked.row >= lengths[linked.block]).any():
        raise ValueError("linked spans name a block or a row that is not there")
    return (np.cumsum(lengths) - lengths)[linked.block] + linked.row


@dataclass(frozen=True, slots=True, eq=False)
class _Contexts:
    """The distinct contexts of a tick, those of one resource side by side."""

    distinct: Sequence[Context]
    resource: I64Array
    """By position in `distinct`: a number per distinct `resource_spans`."""
    of_span: NDArray[np.unsignedinteger]
    """Shape (n,): position in `distinct`."""


def _contexts(linked: LinkedSpans) -> _Contexts:
    in_block = np.concatenate([block.context for block in linked.blocks])[flat_rows(linked)]
    lengths = np.array([len(block.contexts) for block in linked.blocks], np.int64)
    if (in_block >= lengths[linked.block]).any():
        raise ValueError("linked spans name a context that is not there")
    all_through = (np.cumsum(lengths) - lengths)[linked.block] + in_block
    named_here = np.flatnonzero(np.bincount(all_through))
    contexts = list(chain.from_iterable(block.contexts for block in linked.blocks))
    named = [contexts[number] for number in named_here.tolist()]
    # A tick may name nearly as many contexts as spans, most of them equal: tuples are compared faster than contexts.
    numbers: dict[tuple[bytes, bytes], int] = {}
    of_named = [numbers.setdefault((c.resource_spans, c.scope_spans), len(numbers)) for c in named]
    resources: dict[bytes, int] = {}
    resource = np.array([resources.setdefault(key[0], len(resources)) for key in numbers], np.int64)
    by_resource = np.argsort(resource, kind="stable")
    distinct = [Context(*key) for key in numbers]
    position = np.empty_like(by_resource)
    position[by_resource] = np.arange(by_resource.size)
    # as narrow as can be: numpy counts instead of comparing where it sorts 16 bits or less
    new_number = np.zeros(len(contexts), np.min_scalar_type(len(distinct)))
    new_number[named_here] = position[of_named]
    return _Contexts([distinct[i] for i in by_resource.tolist()], resource[by_resource], new_number[all_through])


def trace_starts(decisions: Decisions) -> I64Array:
    """For each row the first row of its trace: of the rows side by side that share an exported or eBPF trace id."""
    joined = np.zeros(len(decisions), np.bool_)
    for hi, lo in (
        (decisions.trace_hi, decisions.trace_lo),
        (decisions.ebpf_trace_hi, decisions.ebpf_trace_lo),
    ):
        joined[1:] |= (hi[1:] == hi[:-1]) & (lo[1:] == lo[:-1]) & ((hi[1:] | lo[1:]) != 0)
    return np.maximum.accumulate(np.where(joined, 0, np.arange(len(decisions), dtype=np.int64)))


def _bodies(
    sizes: I64Array, contexts: _Contexts, of_trace: I64Array, max_spans: int, max_bytes: int
) -> Iterator[tuple[int, int]]:
    """Rows [start, stop) of each body: as many as fit, ending between traces where it does not begin inside one."""
    n, max_bytes = sizes.size, min(max_bytes, 1 << 62)  # what int64 can hold with room for a sum
    frame = 1 + len(varint(max_bytes))
    scope_bytes = np.array([frame + len(c.scope_spans) for c in contexts.distinct], np.int64)
    resource_bytes = np.array([frame + len(c.resource_spans) for c in contexts.distinct], np.int64)
    costs = (
        (_before(contexts.of_span), scope_bytes),
        (_before(contexts.resource.astype(contexts.of_span.dtype)[contexts.of_span]), resource_bytes),
    )
    span_bytes = np.concatenate(([0], np.cumsum(sizes)))
    start = 0
    while start < n:
        most = int(np.searchsorted(span_bytes, int(span_bytes[start]) + max_bytes, side="right")) - 1
        stop = min(n, start + max_spans, max(most, start + 1))
        used = sizes[start:stop].copy()
        for before, cost in costs:
            first = np.flatnonzero(before[start:stop] < start)
            used[first] += cost[contexts.of_span[start:stop][first]]
        fitting = int(np.searchsorted(np.cumsum(used), max_bytes, side="right"))
        stop = start + max(fitting, 1)
        if stop < n and of_trace[stop] > start:
            stop = int(of_trace[stop])
        yield start, stop
        start = stop


def _before(number: NDArray[np.unsignedinteger]) -> I64Array:
    """For each row the last one before it with the same number, -1 where there is none."""
    order = np.argsort(number, kind="stable")
    before = np.full(number.size, -1, np.int64)
    same = number[order[1:]] == number[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    return before


def _body(splicer: "PlainSplicer", contexts: _Contexts, rows: I64Array) -> bytes:
    """One request: the spans of these rows, which stand grouped by resource and scope."""
    of_span = contexts.of_span[rows]
    first = np.concatenate(([0], np.flatnonzero(of_span[1:] != of_span[:-1]) + 1))
    lengths = np.add.reduceat(splicer.sizes[rows], first).tolist()
    heads: list[bytes] = []
    groups = zip(of_span[first].tolist(), lengths, strict=True)
    for _, scopes in groupby(groups, key=lambda group: int(contexts.resource[group[0]])):
        heads += _resource_heads([(contexts.distinct[number], length) for number, length in scopes])
    return splicer.write(rows, heads, first)


def _resource_heads(scopes: Sequence[tuple[Context, int]]) -> list[bytes]:
    """What stands before the spans of each scope of one resource, the resource itself before the first.

    scopes: context, and bytes of its spans.
    """
    heads = [head(_SCOPE_SPANS, len(c.scope_spans) + length) + c.scope_spans for c, length in scopes]
    resource = scopes[0][0].resource_spans
    length = len(resource) + sum(map(len, heads)) + sum(length for _, length in scopes)
    return [head(_RESOURCE_SPANS, length) + resource + heads[0], *heads[1:]]


class PlainSplicer:
    """Spans as they leave: each with its tag and length as a field `spans` of ScopeSpans.

    data: payload of each block. block, start, end: shape (n,); span i is data[block[i]][start[i]:end[i]]. decisions:
    n rows; those of outcome EXPORT are eSpans, all others leave as they came. links: sorted by row. clocks: attributes
    that an eSpan is given for its clock; clock: shape (n,), its number in `clocks` from 1, 0 for none; or empty.

    Raises InvalidData where a span lies outside its payload or an eSpan is no protobuf message, and ValueError where
    columns differ in length, a link names no row or a row no clock.
    """

    sizes: I64Array
    """Shape (n,): bytes of each span with tag and length."""

    def __init__(
        self,
        data: Sequence[bytes],
        block: U32Array,
        start: I64Array,
        end: I64Array,
        decisions: Decisions,
        links: SpanLinks,
        clocks: Sequence[bytes] = (),
        clock: U32Array = _NO_CLOCK,
    ) -> None:
        n = len(decisions)
        if {block.size, start.size, end.size, clock.size or n} != {n} or ((links.row < 0) | (links.row >= n)).any():
            raise ValueError("PlainSplicer: columns of unequal length, or a link at a row that is not there")
        if clock.size and int(clock.max()) > len(clocks):
            raise ValueError("PlainSplicer: a row whose clock is not there")
        linked = np.searchsorted(links.row, np.arange(n + 1)).tolist()
        said = [b"", *clocks]
        confidence = confidence_of(decisions)
        self._spans: list[bytes] = []
        for i, (number, begin, stop) in enumerate(zip(block.tolist(), start.tolist(), end.tolist(), strict=True)):
            if number >= len(data) or not 0 <= begin <= stop <= len(data[number]):
                raise InvalidData(f"span {i} lies outside its payload")
            span = data[number][begin:stop]
            if decisions.outcome[i] == Outcome.EXPORT:
                added = _decided(decisions, i, float(confidence[i])) + (said[clock[i]] if clock.size else b"")
                span = _spliced(i, span, decisions, added, links, range(linked[i], linked[i + 1]))
            self._spans.append(head(_SPANS, len(span)) + span)
        self.sizes = np.array([len(span) for span in self._spans], np.int64)

    def write(self, rows: I64Array, heads: Sequence[bytes], before: I64Array) -> bytes:
        """The spans of these rows, one after another, and heads[k] before rows[before[k]]; `before` is sorted.

        Raises IndexError for a row that is not there, ValueError for a head that stands before none.
        """
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(self._spans):
            raise IndexError(f"row {rows.min()} or {rows.max()} of {len(self._spans)}")
        bounds = [0, *before.tolist(), rows.size]
        if len(heads) != before.size or bounds != sorted(bounds) or (heads and bounds[-2] == rows.size):
            raise ValueError("heads must stand before rows that are written, in order")
        spans = [self._spans[row] for row in rows.tolist()]
        parts = [spans[begin:end] for begin, end in pairwise(bounds)]
        return b"".join([*parts[0], *chain.from_iterable([h, *p] for h, p in zip(heads, parts[1:], strict=True))])


def _decided(decisions: Decisions, i: int, confidence: float) -> bytes:
    """What linking says of span i, as attributes."""
    ebpf_trace_id = _id(decisions.ebpf_trace_hi[i]) + _id(decisions.ebpf_trace_lo[i])
    parent = decisions.ebpf_parent_id[i]
    out = [
        _text_attribute(b"ebpf_trace_id", ebpf_trace_id.hex().encode()),
        _text_attribute(b"ebpf_parent_id", _id(parent).hex().encode() if parent else b"0"),
    ]
    if decisions.method[i] in _METHODS:
        out.append(_text_attribute(b"espan.link.method", Method(decisions.method[i]).name.lower().encode()))
        out.append(_attribute(b"espan.link.confidence", _DOUBLE_VALUE + struct.pack("<d", confidence)))
    return b"".join(out)


def _spliced(i: int, span: bytes, decisions: Decisions, added: bytes, links: SpanLinks, carried: range) -> bytes:
    """Span i with what was decided, these attributes and the links it carries in the place of what it came with."""
    trace_id = _id(decisions.trace_hi[i]) + _id(decisions.trace_lo[i])
    out = [field(_TRACE_ID, trace_id), field(_SPAN_ID, _id(decisions.span_id[i]))]
    if decisions.parent_span_id[i]:
        out.append(field(_PARENT_ID, _id(decisions.parent_span_id[i])))
    try:
        out += [raw for tag, raw, value in fields(span) if not _is_cut_out(tag, value)]
    except InvalidData as exc:
        raise InvalidData(f"span {i}: {exc}") from exc
    out.append(added)
    for j in carried:
        trace_id = _id(links.trace_hi[j]) + _id(links.trace_lo[j])
        out.append(field(_LINK, field(_TRACE_ID, trace_id) + field(_SPAN_ID, _id(links.span_id[j]))))
    return b"".join(out)


def _is_cut_out(tag: int, value: bytes) -> bool:
    if tag == _LINK:
        ids = [(tag, len(sent)) for tag, _, sent in fields(value) if tag in _ID_LENGTHS]
        return any(length not in _ID_LENGTHS[tag] for tag, length in ids)
    if tag != _ATTRIBUTE:
        return tag in (_TRACE_ID, _SPAN_ID, _PARENT_ID)
    keys = [key for tag, _, key in fields(value) if tag == _KEY]
    return bool(keys) and keys[-1] in REPLACED_KEYS  # of a field given twice, protobuf takes the last


def _attribute(key: bytes, value: bytes) -> bytes:
    return field(_ATTRIBUTE, field(_KEY, key) + field(_VALUE, value))


def _text_attribute(key: bytes, text: bytes) -> bytes:
    return _attribute(key, field(_STRING_VALUE, text))


def _id(number: int | np.uint64) -> bytes:
    return int(number).to_bytes(8, "big")


if TYPE_CHECKING:
    Splicer = PlainSplicer
else:
    try:
        from bridge.codec._otlp_splice import Splicer
    except ImportError:  # no C compiler was there when the bridge was installed
        Splicer = PlainSplicer
