"""Any spans: what stays stays byte for byte, both splicers agree, bodies hold every row once and keep their limits."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from bridge.codec import otlp_encode
from bridge.codec.otlp_encode import REPLACED_KEYS, PlainSplicer, Splicer, clock_attributes, encode_requests
from bridge.errors import InvalidData
from bridge.spans import (
    NO_CLOCKS,
    Context,
    Decisions,
    LinkedSpans,
    Method,
    Outcome,
    PayloadBlock,
    PayloadFormat,
    RowClocks,
    SpanLinks,
)
from tests.support.clocks import Clock, clock_offsets

Field = tuple[bool, bytes]
"""Whether an eSpan loses this field, and the field's bytes."""
Splicers = type[PlainSplicer]

NO_LIMIT = 1 << 62


def number(value: int, wider: int = 0) -> bytes:
    """A varint, `wider` bytes longer than it need be."""
    digits = [value >> 7 * i & 0x7F for i in range(max(1, -(-value.bit_length() // 7)) + wider)]
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


def field(tag: int, value: bytes, wider: int = 0) -> bytes:
    """A length-delimited field."""
    return number(tag, wider) + number(len(value), wider) + value


WIDER = st.integers(0, 2)
KEYS = st.one_of(st.sampled_from(sorted(REPLACED_KEYS)), st.text(max_size=20).map(str.encode))
VALUES = st.one_of(
    st.builds(AnyValue, string_value=st.text(max_size=30)),
    st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
    st.builds(AnyValue, bytes_value=st.binary(max_size=300)),
    st.just(AnyValue()),
).map(AnyValue.SerializeToString)
SCALARS = st.sampled_from([b"\xa8\x06\xff\x01", b"\xa9\x06" + b"8 bytes!", b"\xad\x06" + b"four", b"\x08\x05"])
GROUPS = st.lists(SCALARS, max_size=3).map(lambda inner: b"\xa3\x06" + b"".join(inner) + b"\xaa\x06\x01x\xa4\x06")
UNKNOWN = st.one_of(SCALARS, GROUPS, st.binary(max_size=200).map(lambda value: field(999 << 3 | 2, value)))


def attribute(parts: list[bytes], wider: int) -> Field:
    content = b"".join(parts)
    return KeyValue.FromString(content).key.encode() in REPLACED_KEYS, field(0x4A, content, wider)


# As senders may write them: key and value in any order, twice, not at all, or among unknown fields.
PARTS = st.one_of(KEYS.map(lambda key: field(0x0A, key)), VALUES.map(lambda value: field(0x12, value)), UNKNOWN)
ATTRIBUTES = st.builds(attribute, st.lists(PARTS, max_size=4), WIDER)
IDS = st.builds(lambda tag, value, wider: (True, field(tag, value, wider)), st.sampled_from(b'\n\x12"'), KEYS, WIDER)
EVENTS = st.builds(Span.Event, name=st.text(max_size=9), time_unix_nano=st.integers(0, 2**64 - 1))
LINK_IDS = st.builds(
    lambda tag, length: (tag, bytes(length)), st.sampled_from((0x0A, 0x12)), st.sampled_from((0, 8, 8, 16, 16, 5))
)


def link(ids: list[tuple[int, bytes]], rest: bytes, wider: int) -> Field:
    """As senders may write it: ids in any order, twice, or of any length."""
    content = b"".join(field(tag, sent, wider) for tag, sent in ids) + rest
    return any(len(sent) not in (0, 16 if tag == 0x0A else 8) for tag, sent in ids), field(0x6A, content, wider)


KNOWN = st.one_of(
    st.builds(Span, name=st.text(max_size=200), kind=st.integers(0, 5), trace_state=st.text(max_size=5)),
    st.builds(Span, status=st.builds(Status, message=st.text(max_size=9)), dropped_attributes_count=st.integers(0, 9)),
    st.builds(Span, events=st.lists(EVENTS, max_size=2)),
).map(Span.SerializeToString)
LINKS = st.builds(link, st.lists(LINK_IDS, max_size=3), UNKNOWN, WIDER)
FIELDS = st.one_of(IDS, ATTRIBUTES, ATTRIBUTES, LINKS, st.tuples(st.just(False), st.one_of(KNOWN, UNKNOWN)))
SPANS = st.lists(FIELDS, max_size=12)

IDS_DECIDED = (
    "span_id",
    "trace_hi",
    "trace_lo",
    "parent_span_id",
    "ebpf_trace_hi",
    "ebpf_trace_lo",
    "ebpf_parent_id",
)
DECIDED = st.fixed_dictionaries(
    {
        "outcome": st.sampled_from([Outcome.EXPORT, Outcome.EXPORT, Outcome.PASS]),
        "method": st.sampled_from(Method),
        "confidence": st.one_of(st.floats(0, 1, width=32), st.floats(width=32)),
        **{column: st.one_of(st.just(0), st.integers(0, 2**64 - 1)) for column in IDS_DECIDED},
    }
)
LINK = st.fixed_dictionaries({column: st.integers(0, 2**64 - 1) for column in ("trace_hi", "trace_lo", "span_id")})


def raw_of(fields: list[Field]) -> bytes:
    return b"".join(raw for _, raw in fields)


def linked_of(
    spans: list[bytes],
    decided: list[dict[str, Any]],
    links: list[tuple[int, dict[str, int]]],
    contexts: list[tuple[int, Context]],
) -> LinkedSpans:
    """Spans under their decisions, each in the block, and under the context, at the same place of `contexts`."""
    blocks, block, row = [], np.zeros(len(spans), np.uint32), np.zeros(len(spans), np.uint32)
    for at, number_ in enumerate(sorted({b for b, _ in contexts})):
        rows = [i for i, (b, _) in enumerate(contexts) if b == number_]
        block[rows], row[rows] = at, np.arange(len(rows))[::-1]  # payload and departure differ in order
        rows.reverse()
        offsets = np.cumsum([0, *(len(spans[i]) for i in rows)], dtype=np.int64)
        data = b"".join(spans[i] for i in rows)
        own = tuple(contexts[i][1] for i in rows)
        blocks.append(PayloadBlock(PayloadFormat.OTLP_SPAN, data, offsets, own, np.arange(len(rows), dtype=np.uint32)))
    return LinkedSpans(1, tuple(blocks), block, row, decisions_of(decided), links_of(links))


def decisions_of(decided: list[dict[str, Any]]) -> Decisions:
    names = {name for d in decided for name in d}
    columns = {name: np.array([d[name] for d in decided], Decisions.dtypes()[name]) for name in names}
    return Decisions.from_columns(len(decided), **columns)


def links_of(links: list[tuple[int, dict[str, int]]]) -> SpanLinks:
    columns = {
        name: np.array([link[name] for _, link in links], np.uint64) for name in ("trace_hi", "trace_lo", "span_id")
    }
    return SpanLinks.from_columns(len(links), row=np.array([row for row, _ in links], np.int64), **columns)


def spliced(
    splicers: Splicers,
    spans: list[bytes],
    decisions: Decisions,
    links: SpanLinks,
    clocks: RowClocks = NO_CLOCKS,
) -> tuple[list[int], bytes]:
    """Sizes and bytes of the spans as a splicer writes them."""
    ends = np.cumsum(list(map(len, spans)), dtype=np.int64)
    starts = ends - np.array(list(map(len, spans)), np.int64)
    n = len(spans)
    links = links.take(np.argsort(links.row, kind="stable"))
    told = clock_attributes(clocks.offsets)
    splicer = splicers([b"".join(spans)], np.zeros(n, np.uint32), starts, ends, decisions, links, told, clocks.of_row)
    return splicer.sizes.tolist(), splicer.write(np.arange(n), [], np.empty(0, np.int64))


def expected(
    fields: list[Field], decided: dict[str, Any], links: list[dict[str, int]], clock: Clock | None = None
) -> bytes:
    """The rule, spelled with protobuf: ids, what stays in its order, attributes added, links added."""

    def big(*halves: str) -> bytes:
        return b"".join(int(decided[half]).to_bytes(8, "big") for half in halves)

    ids = Span(trace_id=big("trace_hi", "trace_lo"), span_id=big("span_id"))
    if decided["parent_span_id"]:
        ids.parent_span_id = big("parent_span_id")
    added = Span()
    added.attributes.add(key="ebpf_trace_id").value.string_value = big("ebpf_trace_hi", "ebpf_trace_lo").hex()
    parent = big("ebpf_parent_id").hex() if decided["ebpf_parent_id"] else "0"
    added.attributes.add(key="ebpf_parent_id").value.string_value = parent
    if decided["method"]:
        added.attributes.add(key="espan.link.method").value.string_value = decided["method"].name.lower()
        sure = decided["confidence"]
        sure = 0.0 if math.isnan(sure) else round(min(max(sure, 0.0), 1.0), 3)
        added.attributes.add(key="espan.link.confidence").value.double_value = sure
    if clock is not None:
        added.attributes.add(key="espan.clock.reference").value.string_value = f"{clock[0]:016x}"
        added.attributes.add(key="espan.clock.offset_ns").value.int_value = clock[1]
        added.attributes.add(key="espan.clock.uncertainty_ns").value.int_value = clock[2]
    for link in links:
        trace_id = (link["trace_hi"] << 64 | link["trace_lo"]).to_bytes(16, "big")
        added.links.add(trace_id=trace_id, span_id=link["span_id"].to_bytes(8, "big"))
    kept = [raw for lost, raw in fields if not lost]
    return ids.SerializeToString() + b"".join(kept) + added.SerializeToString()


ROWS = st.lists(st.tuples(SPANS, DECIDED, st.lists(LINK, max_size=2)), min_size=0, max_size=5)
Rows = list[tuple[list[Field], dict[str, Any], list[dict[str, int]]]]


def columns_of(rows: Rows) -> tuple[Decisions, SpanLinks]:
    links = [(i, link) for i, (_, _, own) in enumerate(rows) for link in own]
    return decisions_of([decided for _, decided, _ in rows]), links_of(links)


@pytest.mark.parametrize("splicers", sorted({PlainSplicer, Splicer}, key=lambda c: c.__name__))
@given(rows=ROWS)
def test_what_is_not_decided_stays_byte_for_byte(splicers: Splicers, rows: Rows) -> None:
    """An eSpan is its ids, every other field as it came and in order, then what is added; other spans are untouched."""
    sizes, written = spliced(splicers, [raw_of(fields) for fields, _, _ in rows], *columns_of(rows))
    wanted = [field(0x12, expected(*row) if row[1]["outcome"] == Outcome.EXPORT else raw_of(row[0])) for row in rows]
    assert written == b"".join(wanted)
    assert sizes == list(map(len, wanted))


CLOCKS = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1)), max_size=3
)


@pytest.mark.parametrize("splicers", sorted({PlainSplicer, Splicer}, key=lambda c: c.__name__))
@given(rows=ROWS, clocks=CLOCKS, data=st.data())
def test_espans_say_how_their_hosts_clock_goes(
    splicers: Splicers, rows: Rows, clocks: list[Clock], data: st.DataObject
) -> None:
    """Behind what was decided, where it is known; ordinary spans never."""
    of_row = [data.draw(st.integers(0, len(clocks))) for _ in rows]
    known = RowClocks(clock_offsets(clocks), np.array(of_row, np.uint32))
    sizes, written = spliced(splicers, [raw_of(fields) for fields, _, _ in rows], *columns_of(rows), known)
    wanted = [
        field(
            0x12,
            expected(*row, clocks[n - 1] if n else None) if row[1]["outcome"] == Outcome.EXPORT else raw_of(row[0]),
        )
        for row, n in zip(rows, of_row, strict=True)
    ]
    assert (sizes, written) == (list(map(len, wanted)), b"".join(wanted))


@given(rows=ROWS)
def test_exported_spans_read_as_they_came(rows: Rows) -> None:
    """Read with protobuf, an exported eSpan differs from what was sent in ids, link attributes and links alone, and of
    links those are left that have no id of a wrong length."""
    rows = [(fields, {**decided, "outcome": Outcome.EXPORT}, own) for fields, decided, own in rows]
    _, written = spliced(Splicer, [raw_of(fields) for fields, _, _ in rows], *columns_of(rows))
    left = ScopeSpans.FromString(written).spans
    for (fields, decided, own), after in zip(rows, left, strict=True):
        before = Span.FromString(raw_of(fields))
        kept = [pair for pair in before.attributes if pair.key.encode() not in REPLACED_KEYS]
        added = 2 + 2 * (decided["method"] != Method.NONE)
        assert list(after.attributes)[:-added] == kept
        links = list(Span.FromString(b"".join(raw for lost, raw in fields if not lost)).links)
        assert list(after.links)[: len(links)] == links
        assert len(after.links) == len(links) + len(own)
        for name in ("trace_id", "span_id", "parent_span_id", "attributes", "links"):
            before.ClearField(name)
            after.ClearField(name)
        assert after == before
        assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A span with some bytes overwritten, removed or put in."""
    raw = bytearray(raw_of(draw(SPANS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


@given(raw=st.one_of(damaged(), st.binary(max_size=60)), decided=DECIDED)
def test_splicers_agree_on_any_bytes(raw: bytes, decided: dict[str, Any]) -> None:
    """Both write the same or both raise InvalidData; what protobuf reads as a span, they take."""
    answers = []
    for splicers in (PlainSplicer, Splicer):
        try:
            answers.append(spliced(splicers, [raw], decisions_of([decided]), SpanLinks.zeros(0)))
        except InvalidData:
            answers.append(([], b""))
    assert answers[0] == answers[1]
    try:
        Span.FromString(raw)
    except DecodeError:
        return
    assert answers[0] != ([], b"")


def context(resource: int, scope: int) -> Context:
    resource_spans, scope_spans = ResourceSpans(), ScopeSpans()
    if resource:
        resource_spans.resource.attributes.add(key="service.name").value.string_value = "s" * 50 * resource
    scope_spans.scope.name = "x" * scope
    return Context(resource_spans.SerializeToString(), scope_spans.SerializeToString())


CONTEXTS = st.builds(context, st.integers(0, 2), st.integers(0, 2))
PLACED = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 2), CONTEXTS),
        st.integers(0, 300),
        st.sampled_from([Outcome.EXPORT, Outcome.PASS]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=30,
)
Placed = list[tuple[tuple[int, Context], int, Outcome, int, int]]


def placed_spans(placed: Placed) -> LinkedSpans:
    """A span each: named after its row, of some length, in an exported and an eBPF trace (0: none)."""
    spans = [Span(name=f"{i:03}" + "n" * length).SerializeToString() for i, (_, length, *_) in enumerate(placed)]
    decided = [{"outcome": outcome, "trace_lo": trace, "ebpf_trace_lo": ebpf} for _, _, outcome, trace, ebpf in placed]
    return linked_of(spans, decided, [], [place for place, *_ in placed])


def inside(message: bytes, number_: int) -> tuple[list[bytes], bytes]:
    """The fields of this number, and the message without them."""
    fields, rest = [], b""
    for unknown in UnknownFieldSet(Empty.FromString(message)):
        if unknown.field_number == number_:
            fields.append(unknown.data)
        else:
            rest += field(unknown.field_number << 3 | unknown.wire_type, unknown.data)
    return fields, rest


def rows_of(body: bytes) -> Iterator[tuple[int, Context, bytes]]:
    """(row, context, bytes) of each span of a body; rows are read from the spans' names."""
    resources, rest = inside(body, 1)
    assert rest == b""
    for resource in resources:
        scopes, resource_spans = inside(resource, 2)
        for scope in scopes:
            spans, scope_spans = inside(scope, 2)
            for span in spans:
                yield int(Span.FromString(span).name[:3]), Context(resource_spans, scope_spans), span


@given(placed=PLACED, max_spans=st.integers(1, 12), max_bytes=st.integers(1, 3000))
def test_bodies_hold_every_row_once_within_their_limits(placed: Placed, max_spans: int, max_bytes: int) -> None:
    """Each row is in one body, under its own resource and scope; ordinary spans with their own bytes."""
    linked, seen = placed_spans(placed), []
    for body, count in encode_requests(linked, max_spans=max_spans, max_bytes=max_bytes):
        rows = list(rows_of(body))
        assert count == len(rows) <= max_spans
        assert len(body) <= max_bytes or count == 1
        contexts = [context for _, context, _ in rows]
        changes = 1 + sum(a != b for a, b in pairwise(contexts))
        assert changes == len(set(contexts))
        assert len(inside(body, 1)[0]) == len({context.resource_spans for context in contexts})
        for row, context_, span in rows:
            seen.append(row)
            assert context_ == placed[row][0][1]
            if placed[row][2] == Outcome.PASS:
                assert span == linked.blocks[linked.block[row]].span(int(linked.row[row]))
    assert sorted(seen) == list(range(len(placed)))


@given(placed=PLACED, max_spans=st.integers(1, 12), max_bytes=st.integers(1, 3000))
def test_bodies_end_where_a_plain_loop_ends_them(placed: Placed, max_spans: int, max_bytes: int) -> None:
    """A body takes rows while they fit, then gives back the begun trace unless the body began inside it."""
    linked = placed_spans(placed)
    sizes = spans_sizes(linked)
    wanted, start = [], 0
    while start < len(placed):
        stop = start + rows_that_fit(placed, sizes, start, max_spans, max_bytes)
        begun = stop
        while start < begun < len(placed) and joined(placed, begun):
            begun -= 1
        stop = begun if begun > start else stop
        wanted.append(stop - start)
        start = stop
    assert [count for _, count in encode_requests(linked, max_spans=max_spans, max_bytes=max_bytes)] == wanted


def rows_that_fit(placed: Placed, sizes: list[int], start: int, max_spans: int, max_bytes: int) -> int:
    """How many rows from this one on fit into a body, at least 1; each context and resource counts once."""
    frame = 1 + len(number(max_bytes))
    scopes, resources, used = set[Context](), set[bytes](), 0
    for row in range(start, min(len(placed), start + max_spans)):
        (_, around), *_ = placed[row]
        scopes.add(around)
        resources.add(around.resource_spans)
        used += sizes[row]
        heads = [*(scope.scope_spans for scope in scopes), *resources]
        if used + sum(frame + len(head) for head in heads) > max_bytes:
            return max(row - start, 1)
    return min(len(placed) - start, max_spans)


def joined(placed: Placed, row: int) -> bool:
    """Whether this row is of the trace of the row before."""
    (*_, trace, ebpf), (*_, trace_before, ebpf_before) = placed[row], placed[row - 1]
    return trace == trace_before != 0 or ebpf == ebpf_before != 0


def spans_sizes(linked: LinkedSpans) -> list[int]:
    """Bytes each row takes in a body, with tag and length; read from one body of all."""
    sizes = {}
    for body, _ in encode_requests(linked, max_spans=NO_LIMIT, max_bytes=NO_LIMIT):
        sizes = {row: len(field(0x12, span)) for row, _, span in rows_of(body)}
    return [sizes[row] for row in range(len(linked))]


@given(rows=ROWS.filter(bool), placed=PLACED)
def test_bodies_are_equal_with_either_splicer(rows: Rows, placed: Placed) -> None:
    """Which implementation runs cannot be seen in what leaves."""
    places = [place for place, *_ in placed][: len(rows)]
    places += [(0, context(0, 0))] * (len(rows) - len(places))
    decided = [decided for _, decided, _ in rows]
    links = [(i, link) for i, (_, _, own) in enumerate(rows) for link in own]
    linked = linked_of([raw_of(fields) for fields, _, _ in rows], decided, links, places)
    bodies = []
    for splicers in (PlainSplicer, Splicer):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(otlp_encode, "Splicer", splicers)
            bodies.append(list(encode_requests(linked, max_spans=2, max_bytes=2000)))
    assert bodies[0] == bodies[1]
