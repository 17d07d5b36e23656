"""Scanning a request: an ExportTraceServiceRequest's bytes to one row a span, in C where that could be built.

`scan_request` is the kernel of bridge/codec/_otlp_scan.pyx, or, where no C compiler was there when the bridge was
installed, `scan_plain`, its twin over protobuf's narrow views; slower, but with the same result. A request is readable
if and only if opentelemetry-proto reads it as a whole, nested messages and the UTF-8 of every text included: what
passes here can be read by whoever gets it next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.codec import otlp_view_pb2 as view
from bridge.codec.digest import cut_out, digests, offsets_of
from bridge.codec.espan import U64, Value, own_time, read_espan
from bridge.codec.limits import NO_LIMITS, RequestLimits
from bridge.codec.profiles import header_columns, header_texts, resolve, rules_in_use
from bridge.codec.rows import HEADERS, ROW, read_texts
from bridge.codec.wire import fields
from bridge.errors import InvalidData
from bridge.spans import Context, Kind, convention

try:
    from bridge.codec import _otlp_scan
except ImportError:  # not built
    _otlp_scan = None  # type: ignore[assignment]

MAX_BYTES: Final = 2**31 - 1
"""What protobuf reads at most."""
MAX_REFUSALS: Final = 3
"""So many refused spans are told apart; the others are only counted."""
_MAX_CACHED_BYTES: Final = 16384
_MIN_SPAN_BYTES: Final = 13
"""No span that is taken is shorter, with its tag and length: `req_seq` without a value."""

# Tags of Span: field number << 3 | 2. In a link ids have those that they have in a span.
_TRACE_ID, _SPAN_ID, _PARENT_ID, _LINK = 0x0A, 0x12, 0x22, 0x6A
_IDS: Final = {_TRACE_ID: ("trace_id", 16), _SPAN_ID: ("span_id", 8), _PARENT_ID: ("parent_span_id", 8)}
_LINK_IDS: Final = {tag: _IDS[tag] for tag in (_TRACE_ID, _SPAN_ID)}

_Around = TypeVar("_Around", view.ResourceSpans, view.ScopeSpans)

Data = bytes | tuple[bytes, ...]
"""A request, or several that are read as the one that they are one behind another."""

PLACE: Final = np.dtype(
    [(f"{name}{part}", np.int64) for name in ("span", "scope", "resource") for part in ("", "_bytes")]
)
"""Where in the request a span, its ScopeSpans and its ResourceSpans are: first byte and how many."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One ordinary span that is not taken: its position in the request, and why."""

    resource: int
    scope: int
    span: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What was found in one request: n spans in their order, without the refused ones."""

    rows: NDArray[np.void]
    """Shape (n,), dtype ROW."""
    data: bytes
    """The spans' own bytes, one after another."""
    lengths: NDArray[np.int64]
    """Shape (n,): bytes of each."""
    digest: NDArray[np.uint64]
    """Shape (n,): of each one's bytes."""
    contexts: tuple[Context, ...]
    context: NDArray[np.uint32]
    """Shape (n,): position of each span's context in `contexts`."""
    refused: int
    refusals: tuple[Refusal, ...]
    """The first few of them."""


def kernel_in_use() -> bool:
    """Whether requests are scanned by the compiled kernel."""
    return scan_request is scan_compiled


def scan_compiled(data: Data, limits: RequestLimits = NO_LIMITS, *, spans: int | None = None) -> Scan:
    """The kernel's result. Raises InvalidData, which says what is wrong and where, and TooLarge for too many spans.

    spans: how many there are, where that is known already, as it is to be for several requests.
    """
    datas = (data,) if isinstance(data, bytes) else data
    size = sum(map(len, datas))
    if size > MAX_BYTES:
        raise InvalidData(f"request: {size} bytes, more than protobuf reads")
    if spans is None:
        spans = _otlp_scan.count_spans(b"".join(datas))
    limits.check_spans(spans)
    rows = np.empty(min(max(spans, 0), size // _MIN_SPAN_BYTES), ROW)
    places = np.empty(rows.size, PLACE)
    taken, refused, refusals = _otlp_scan.scan(datas, rows, places, MAX_REFUSALS) if spans >= 0 else (-1, 0, ())
    if taken < 0:
        raise InvalidData(what_is_wrong(b"".join(datas)))
    rows, places = rows[:taken], places[:taken]
    whole = b""
    if refused or rows["texts"].any():  # few requests have what Python has to look at
        whole = b"".join(datas)
        read_texts(rows, whole)
        if rules_in_use().headers:
            _read_headers(rows, places, whole)
    contexts, context = _contexts(places, datas)
    lengths = places["span_bytes"].copy()
    cut, digest = cut_out(datas, places["span"], lengths)
    return Scan(
        rows=rows,
        data=cut,
        lengths=lengths,
        digest=digest,
        contexts=contexts,
        context=context,
        refused=refused,
        refusals=tuple(Refusal(r, s, i, _why_refused(whole[at:end])) for r, s, i, at, end in refusals),
    )


def _read_headers(rows: NDArray[np.void], places: NDArray[np.void], data: bytes) -> None:
    """Put into the rows what the headers say that spans report; the kernel has found which do."""
    for row in np.flatnonzero(rows["texts"] & HEADERS).tolist():
        at, length = (int(places[name][row]) for name in ("span", "span_bytes"))
        span = view.Span.FromString(data[at : at + length])
        headers = header_texts(rules_in_use(), {pair.key: pair.value for pair in span.attributes})
        for name, value in header_columns(rows[row], headers).items():
            rows[name][row] = value


def _contexts(places: NDArray[np.void], datas: Sequence[bytes]) -> tuple[tuple[Context, ...], NDArray[np.uint32]]:
    """Equal contexts once. Spans of one ScopeSpans stand together, so that only where one begins needs a look."""
    new = np.ones(places.size, np.bool_)
    new[1:] = places["scope"][1:] != places["scope"][:-1]
    first = places[new]
    ends = np.cumsum([len(data) for data in datas])
    of_data = np.searchsorted(ends, first["scope"], "right").tolist()
    before = [0, *ends.tolist()]
    numbers: dict[Context, int] = {}
    resource, resource_at = b"", -1
    number = []
    for in_data, place in zip(of_data, first.tolist(), strict=True):
        _, _, scope_at, scope_bytes, at, length = place
        data, base = datas[in_data], before[in_data]
        if at != resource_at:
            resource, resource_at = _otlp_scan.without_field_2(data, at - base, length), at
        context = make_context(resource, _otlp_scan.without_field_2(data, scope_at - base, scope_bytes))
        number.append(numbers.setdefault(context, len(numbers)))
    of_span = np.array(number, np.uint32)[np.cumsum(new) - 1] if number else np.zeros(0, np.uint32)
    return tuple(numbers), of_span


def make_context(resource_spans: bytes, scope_spans: bytes) -> Context:
    """A context; of one content the same object, as long as it is short and not forgotten."""
    if len(resource_spans) + len(scope_spans) > _MAX_CACHED_BYTES:
        return Context(resource_spans, scope_spans)
    return _context(resource_spans, scope_spans)


@lru_cache(maxsize=1024)
def _context(resource_spans: bytes, scope_spans: bytes) -> Context:
    return Context(resource_spans, scope_spans)


def scan_plain(data: Data, limits: RequestLimits = NO_LIMITS, *, spans: int | None = None) -> Scan:
    """The kernel's twin. Raises InvalidData, which says what is wrong and where, and TooLarge for too many spans."""
    data = data if isinstance(data, bytes) else b"".join(data)
    limits.check_spans(_count_plain(data))
    try:
        ExportTraceServiceRequest.FromString(data)
    except DecodeError as exc:
        raise InvalidData(what_is_wrong(data)) from exc
    rows: list[tuple[int, ...]] = []
    taken: list[bytes] = []
    numbers: dict[Context, int] = {}
    context: list[int] = []
    refused, refusals = 0, []
    for r, resource_spans in enumerate(view.Request.FromString(data).resource_spans):
        resource = view.ResourceSpans.FromString(resource_spans)
        around = _without(resource, "scope_spans")
        said = _said_by_resource(resource_spans)
        for s, scope_spans in enumerate(resource.scope_spans):
            scope = view.ScopeSpans.FromString(scope_spans)
            before = len(taken)
            for i, span in enumerate(scope.spans):
                if (row := read_row(span, said)) is not None:
                    rows.append(row)
                    taken.append(span)
                    continue
                refused += 1
                if refused <= MAX_REFUSALS:
                    refusals.append(Refusal(r, s, i, _why_refused(span)))
            if len(taken) > before:
                number = numbers.setdefault(make_context(around, _without(scope, "spans")), len(numbers))
                context += [number] * (len(taken) - before)
    lengths = np.array([len(span) for span in taken], np.int64)
    return Scan(
        rows=np.array(rows, ROW),
        data=b"".join(taken),
        lengths=lengths,
        digest=digests(b"".join(taken), offsets_of(lengths)),
        contexts=tuple(numbers),
        context=np.array(context, np.uint32),
        refused=refused,
        refusals=tuple(refusals),
    )


def _count_plain(data: bytes) -> int:
    """See `count_spans`."""
    try:
        scopes = (
            view.ScopeSpans.FromString(scope)
            for resource in view.Request.FromString(data).resource_spans
            for scope in view.ResourceSpans.FromString(resource).scope_spans
        )
        return sum(len(scope.spans) for scope in scopes)
    except DecodeError:
        return -1


def _without(message: _Around, field: Any) -> bytes:
    rest = type(message)()
    rest.CopyFrom(message)
    rest.ClearField(field)
    return rest.SerializeToString()


def _said_by_resource(resource_spans: bytes) -> dict[str, Value]:
    """The attributes of a resource that profiles name."""
    if not rules_in_use().attributes:
        return {}
    resource = view.ResourceHead.FromString(resource_spans).resource
    return _said({pair.key: pair.value for pair in resource.attributes})


def _said(attributes: Mapping[str, view.Value]) -> dict[str, Value]:
    """Those of these attributes that profiles name, without empty texts."""
    found = _values(attributes, rules_in_use().attributes)
    return {name: value for name, value in found.items() if value != ""}


def read_row(data: bytes, resource: Mapping[str, Value] = MappingProxyType({})) -> tuple[int, ...] | None:
    """The fields of ROW for one span; None if it is an ordinary span with invalid ids.

    resource: attributes of its resource that profiles name, as far as they have a value.
    """
    span = view.Span.FromString(data)
    trace_id, span_id, parent_id = _id(span.trace_id, 16), _id(span.span_id, 8), _id(span.parent_span_id, 8)
    row = {"trace_hi": trace_id >> 64, "trace_lo": trace_id & U64, "sent_span_id": span_id, "parent_id": parent_id}
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    attributes = {pair.key: pair.value for pair in span.attributes}
    values = {key: value for key, value in _values(attributes, convention.KEY_OF_BIT).items() if value != ""}
    values, is_espan = resolve(rules_in_use(), values, _said(attributes), resource)
    if is_espan or not convention.MARKERS.isdisjoint(attributes):
        row |= read_espan(values, start, end)
        row |= header_columns(row, header_texts(rules_in_use(), attributes))
    elif not _why_refused(data):
        row |= {"kind": Kind.ORDINARY, "start_ns": own_time(start), "end_ns": own_time(end)}
    else:
        return None
    return tuple(int(row.get(name, 0)) for name in ROW.names or ())


def _id(sent: bytes, length: int) -> int:
    return int.from_bytes(sent, "big") if len(sent) == length else 0


def _values(attributes: Mapping[str, view.Value], keys: Sequence[str]) -> dict[str, Value]:
    """Text and integers as they are, any other value as bytes; keys without a value are left out."""
    found: dict[str, Value] = {}
    for key in keys:
        if key in attributes and (form := attributes[key].WhichOneof("value")) is not None:
            found[key] = getattr(attributes[key], form) if form in ("string_value", "int_value") else b""
    return found


def resource_texts(resource_spans: bytes) -> tuple[str, str]:
    """host.name and service.name of a context's resource, or what profiles take for them; empty where it has none."""
    names = rules_in_use().resource
    if len(resource_spans) > _MAX_CACHED_BYTES:
        return _resource_texts.__wrapped__(resource_spans, names)
    return _resource_texts(resource_spans, names)


@lru_cache(maxsize=1024)
def _resource_texts(resource_spans: bytes, names: tuple[tuple[str, ...], ...]) -> tuple[str, str]:
    resource = view.ResourceHead.FromString(resource_spans).resource
    attributes = {pair.key: pair.value for pair in resource.attributes}
    host, service = (_first_text(attributes, wanted) for wanted in names)
    return host, service


def _first_text(attributes: Mapping[str, view.Value], names: Sequence[str]) -> str:
    texts = (value for value in _values(attributes, names).values() if isinstance(value, str))
    return next(filter(None, texts), "")


def _why_refused(data: bytes) -> str:
    """What is wrong with the ids of an ordinary span; empty if nothing is.

    Every id that is written counts, also where a later one overrides it: a Collector refuses the whole request for it.
    """
    last = dict.fromkeys(_IDS, b"")
    links = 0
    for tag, _, value in fields(data):
        if tag in _IDS:
            last[tag] = value
            if why := _ill_sized(tag, value):
                return why
        elif tag == _LINK:
            for inner, _, sent in fields(value):
                if inner in _LINK_IDS and (why := _ill_sized(inner, sent)):
                    return f"links[{links}].{why}"
            links += 1
    for tag in (_TRACE_ID, _SPAN_ID):
        name, length = _IDS[tag]
        if not last[tag]:
            return f"{name} has 0 bytes, want {length}"
        if not any(last[tag]):
            return f"{name} is all zero"
    return ""


def _ill_sized(tag: int, sent: bytes) -> str:
    name, length = _IDS[tag]
    return f"{name} has {len(sent)} bytes, want {length}" if len(sent) not in (0, length) else ""


def what_is_wrong(data: bytes) -> str:
    """Where a request cannot be read and why, as precisely as its messages can be told apart."""
    # imported here: only a bad request needs it
    from bridge.codec.otlp_diagnosis import locate

    return locate(data)


scan_request = scan_plain if _otlp_scan is None else scan_compiled
count_spans = _count_plain if _otlp_scan is None else _otlp_scan.count_spans
"""How many spans a request has, taken or not; -1 where its frame cannot be read. Spans are not looked into."""
