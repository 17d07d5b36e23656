"""What encode_requests makes of linked spans, with the kernel and with its plain twin."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from bridge.codec import otlp_encode
from bridge.codec.otlp_encode import PlainSplicer, Splicer, encode_requests, encode_traces
from bridge.errors import InvalidData
from bridge.spans import Context, Decisions, LinkedSpans, Method, Outcome, PayloadBlock, PayloadFormat, SpanLinks
from tests.support.linked_points import agent_point

NO_LIMIT = 1 << 62
IMPLEMENTATIONS = [PlainSplicer] + [Splicer] * (Splicer is not PlainSplicer)


@pytest.fixture(autouse=True, params=IMPLEMENTATIONS, ids=["plain", "kernel"][: len(IMPLEMENTATIONS)])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(otlp_encode, "Splicer", request.param)
    return request.param


def context(service: str, scope: str) -> Context:
    resource_spans, scope_spans = ResourceSpans(schema_url="r"), ScopeSpans(schema_url="s")
    resource_spans.resource.attributes.add(key="service.name").value.string_value = service
    scope_spans.scope.name = scope
    return Context(resource_spans.SerializeToString(), scope_spans.SerializeToString())


def block_of(spans: Sequence[bytes], contexts: Sequence[Context] = (), of_span: Sequence[int] = ()) -> PayloadBlock:
    offsets = np.cumsum([0, *map(len, spans)], dtype=np.int64)
    numbers = np.array(of_span or [0] * len(spans), np.uint32)
    return PayloadBlock(
        PayloadFormat.OTLP_SPAN, b"".join(spans), offsets, tuple(contexts) or (context("shop", "ebpf"),), numbers
    )


def linked_of(*blocks: PayloadBlock, links: SpanLinks | None = None, **decided: Any) -> LinkedSpans:
    """All rows of the blocks, in order: eSpans of a trace each, unless decided otherwise."""
    n = sum(map(len, blocks))
    numbers = np.arange(1, n + 1)
    decided = {"outcome": np.full(n, Outcome.EXPORT), "span_id": numbers, "trace_lo": numbers, **decided}
    decisions = Decisions.from_columns(n, **decided)
    block = np.repeat(np.arange(len(blocks), dtype=np.uint32), list(map(len, blocks)))
    row = np.concatenate([np.arange(len(b), dtype=np.uint32) for b in blocks])
    return LinkedSpans(1, blocks, block, row, decisions, SpanLinks.zeros(0) if links is None else links)


def encoded(linked: LinkedSpans, max_spans: int = NO_LIMIT, max_bytes: int = NO_LIMIT) -> list[list[Span]]:
    """The spans of each body; their number is what was said."""
    bodies = []
    for body, count in encode_requests(linked, max_spans=max_spans, max_bytes=max_bytes):
        request = ExportTraceServiceRequest.FromString(body)
        bodies.append([s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans])
        assert len(bodies[-1]) == count
    return bodies


def only_span(linked: LinkedSpans) -> Span:
    ((span,),) = encoded(linked)
    return span


def texts(span: Span) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes}


def named(*names: str) -> list[bytes]:
    return [Span(name=name).SerializeToString() for name in names]


def test_espan_leaves_with_the_ids_decided() -> None:
    """trace_id, span_id and parent_span_id are the decision's, whatever the sender set, big-endian."""
    sent = Span(trace_id=b"t" * 16, span_id=b"s" * 8, parent_span_id=b"p" * 8, name="GET /")
    decided = {"trace_hi": [0x0102030405060708], "trace_lo": [9], "span_id": [10], "parent_span_id": [11]}
    span = only_span(linked_of(block_of([sent.SerializeToString()]), **decided))
    assert span.trace_id.hex() == "01020304050607080000000000000009"
    assert (span.span_id.hex(), span.parent_span_id.hex()) == ("000000000000000a", "000000000000000b")
    assert span.name == "GET /"


def test_root_has_no_parent_span_id() -> None:
    """Where no parent was decided the sender's is removed too."""
    sent = Span(parent_span_id=b"p" * 8).SerializeToString()
    assert not only_span(linked_of(block_of([sent]))).parent_span_id


def test_ebpf_ids_are_attributes_in_hex() -> None:
    """ebpf_trace_id has 32 digits and ebpf_parent_id 16."""
    decided = {"ebpf_trace_hi": [0xAB], "ebpf_trace_lo": [2**64 - 1], "ebpf_parent_id": [0xCD]}
    attributes = texts(only_span(linked_of(block_of(named("a")), **decided)))
    assert attributes == {"ebpf_trace_id": "00000000000000ab" + "f" * 16, "ebpf_parent_id": "00000000000000cd"}


def test_ebpf_parent_of_a_root_is_zero() -> None:
    """ebpf_parent_id is one digit, "0", at an eBPF root."""
    assert texts(only_span(linked_of(block_of(named("a")))))["ebpf_parent_id"] == "0"


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (Method.NONE, None),
        (Method.SEQ, "seq"),
        (Method.THREAD, "thread"),
        (Method.HEADER, "header"),
        (Method.REQUEST_ID, "request_id"),
        (Method.TIMING, "timing"),
    ],
)
def test_link_method_says_how_the_parent_was_found(method: Method, text: str | None) -> None:
    """espan.link.method is the method's lower-case name, and absent without one."""
    assert texts(only_span(linked_of(block_of(named("a")), method=[method]))).get("espan.link.method") == text


@pytest.mark.parametrize(("sure", "told"), [(0.95, 0.95), (1.0, 1.0), (0.8765432, 0.877), (0.0, 0.0)])
def test_confidence_says_how_sure_a_link_is(sure: float, told: float) -> None:
    """espan.link.confidence is a double beside the method, with three decimals; float32's noise is not shown."""
    span = only_span(linked_of(block_of(named("a")), method=[Method.THREAD], confidence=[sure]))
    (found,) = [pair.value for pair in span.attributes if pair.key == "espan.link.confidence"]
    assert (found.WhichOneof("value"), found.double_value) == ("double_value", told)


def test_a_root_has_no_confidence() -> None:
    """Nor a method; whatever the column holds."""
    span = only_span(linked_of(block_of(named("a")), method=[Method.NONE], confidence=[0.5]))
    assert "espan.link.confidence" not in texts(span)


@pytest.mark.parametrize("key", sorted(otlp_encode.REPLACED_KEYS))
def test_replaced_attributes_do_not_stay(key: bytes) -> None:
    """Halves of header ids, and what an earlier bridge wrote, are removed; a key that only looks alike stays."""
    sent = Span()
    for written in (key.decode(), key.decode() + "x", "x" + key.decode()[1:]):
        sent.attributes.add(key=written).value.string_value = "sent"
    span = only_span(linked_of(block_of([sent.SerializeToString()])))
    kept = [pair.key for pair in span.attributes if pair.value.string_value == "sent"]
    assert kept == [key.decode() + "x", "x" + key.decode()[1:]]


def test_links_are_appended_to_the_span_they_name() -> None:
    """Links of a row come after those the sender set, in their order, and other rows get none."""
    sent = Span()
    sent.links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    rows = block_of([sent.SerializeToString()] * 3)
    links = SpanLinks.from_columns(2, row=[1, 1], trace_hi=[1, 3], trace_lo=[2, 4], span_id=[7, 8])
    (spans,) = encoded(linked_of(rows, links=links))
    assert [len(span.links) for span in spans] == [1, 3, 1]
    first, second = spans[1].links[1:]
    assert (first.trace_id.hex(), first.span_id.hex()) == ("0" * 15 + "1" + "0" * 15 + "2", "0" * 15 + "7")
    assert (second.trace_id.hex(), second.span_id.hex()) == ("0" * 15 + "3" + "0" * 15 + "4", "0" * 15 + "8")


@pytest.mark.parametrize(
    ("link", "stays"),
    [
        (Span.Link(), True),
        (Span.Link(trace_id=bytes(16), span_id=bytes(8)), True),
        (Span.Link(trace_id=b"t" * 16), True),
        (Span.Link(trace_id=b"t"), False),
        (Span.Link(trace_id=b"t" * 8, span_id=b"s" * 8), False),
        (Span.Link(trace_id=b"t" * 16, span_id=b"s" * 16), False),
        (Span.Link(span_id=b"s" * 300), False),
    ],
    ids=str,
)
def test_links_with_ids_of_a_wrong_length_are_cut(link: Span.Link, stays: bool) -> None:
    """A Collector would refuse the whole request for them; what stands around them stays."""
    valid = Span.Link(trace_id=b"t" * 16, span_id=b"s" * 8)
    sent = Span(name="GET /", links=[valid, link, valid], dropped_links_count=3)
    span = only_span(linked_of(block_of([sent.SerializeToString()])))
    assert list(span.links) == ([valid, link, valid] if stays else [valid, valid])
    assert (span.name, span.dropped_links_count) == ("GET /", 3)


def test_ids_in_a_link_that_later_ones_override_count_too() -> None:
    """A strict backend looks at each of them."""
    valid = Span.Link(trace_id=b"t" * 16, span_id=b"s" * 8).SerializeToString()
    link = b"\x0a\x01t" + valid
    assert not only_span(linked_of(block_of([bytes((0x6A, len(link))) + link]))).links


def test_links_need_not_be_sorted() -> None:
    """Links find their span in whatever order they are listed."""
    links = SpanLinks.from_columns(3, row=[2, 0, 2], trace_lo=[1, 2, 3], span_id=[1, 2, 3])
    (spans,) = encoded(linked_of(block_of(named("a", "b", "c")), links=links))
    assert [[link.span_id[-1] for link in span.links] for span in spans] == [[2], [], [1, 3]]


def test_ordinary_span_leaves_as_it_came() -> None:
    """The bytes of an ordinary span are not even read, and links do not change it."""
    links = SpanLinks.from_columns(1, row=[0], trace_lo=[1], span_id=[1])
    linked = linked_of(block_of([b"no protobuf \xff"]), outcome=[Outcome.PASS], links=links)
    ((body, count),) = encode_requests(linked, max_spans=1, max_bytes=NO_LIMIT)
    assert count == 1
    assert body.endswith(b"\x12\x0dno protobuf \xff")


def test_equal_contexts_are_written_once() -> None:
    """Contexts of equal bytes merge over blocks; scopes of one resource share its ResourceSpans."""
    shop, other, cart = context("shop", "a"), context("shop", "b"), context("cart", "a")
    blocks = [
        block_of(named("0", "1", "2"), (shop, other), (0, 1, 0)),
        block_of(named("3", "4", "5"), (cart, other, shop), (2, 0, 1)),
    ]
    ((body, _),) = encode_requests(linked_of(*blocks), max_spans=NO_LIMIT, max_bytes=NO_LIMIT)
    found = [
        (r.resource.attributes[0].value.string_value, r.schema_url, s.scope.name, [span.name for span in s.spans])
        for r in ExportTraceServiceRequest.FromString(body).resource_spans
        for s in r.scope_spans
    ]
    assert found == [
        ("shop", "r", "a", ["0", "2", "3"]),
        ("shop", "r", "b", ["1", "5"]),
        ("cart", "r", "a", ["4"]),
    ]
    assert len(ExportTraceServiceRequest.FromString(body).resource_spans) == 2


def test_no_spans_are_no_bodies() -> None:
    """Nothing makes no body, also without any block."""
    empty = LinkedSpans(1, (), np.empty(0, np.uint32), np.empty(0, np.uint32), Decisions.zeros(0), SpanLinks.zeros(0))
    assert encoded(empty) == []
    assert encoded(linked_of(block_of([]))) == []


def test_trace_stays_in_one_body() -> None:
    """A body ends before a trace that would not fit whole; one that is too large by itself is cut."""
    rows = block_of(named(*"abcdefghij"))
    bodies = encoded(linked_of(rows, trace_lo=[1, 1, 2, 2, 2, 3, 3, 3, 3, 3]), max_spans=4)
    assert ["".join(span.name for span in body) for body in bodies] == ["ab", "cde", "fghi", "j"]


def test_rows_of_one_ebpf_trace_stay_together() -> None:
    """A trace that exports several header trace ids is one trace still."""
    rows = block_of(named(*"abcdef"))
    bodies = encoded(linked_of(rows, trace_lo=[1, 2, 3, 4, 3, 4], ebpf_trace_lo=[1, 1, 2, 2, 2, 2]), max_spans=5)
    assert ["".join(span.name for span in body) for body in bodies] == ["ab", "cdef"]


def test_spans_by_trace_id_are_requests_of_their_own() -> None:
    """Those of one exported id together, wherever they stand, under their resources; in the order of their first."""
    contexts = [context("shop", "a"), context("cart", "a")]
    linked = linked_of(block_of(named(*"abcdef"), contexts, [0, 1, 1, 0, 0, 0]), trace_lo=[9, 2, 9, 7, 2, 9])
    found = []
    for spans in encode_traces(linked):
        for most in (NO_LIMIT, 1):
            groups = ExportTraceServiceRequest.FromString(spans.request(most)).resource_spans
            services = [group.resource.attributes[0].value.string_value for group in groups]
            sent = [[span for scope in group.scope_spans for span in scope.spans] for group in groups]
            assert {span.trace_id.hex() for spans_ in sent for span in spans_} == {spans.trace_id}
            found.append((int(spans.trace_id, 16), services, ["".join(span.name for span in part) for part in sent]))
    assert found == [
        (9, ["shop", "cart"], ["af", "c"]),
        (9, ["shop"], ["a"]),
        (2, ["shop", "cart"], ["e", "b"]),
        (2, ["cart"], ["b"]),
        (7, ["shop"], ["d"]),
        (7, ["shop"], ["d"]),
    ]


def test_spans_by_trace_id_say_how_large_they_are() -> None:
    """Each with its tag and length, as it stands in the request; without spans there are no traces."""
    (spans,) = encode_traces(linked_of(block_of(named("a", "bcd")), trace_lo=[1, 1]))
    (group,) = ExportTraceServiceRequest.FromString(spans.request(2)).resource_spans
    assert spans.sizes.tolist() == [2 + span.ByteSize() for span in group.scope_spans[0].spans]
    assert list(encode_traces(linked_of(block_of([])))) == []


def test_larger_span_goes_alone() -> None:
    """A span over the byte limit makes a body of its own, between those that fit."""
    rows = block_of(named("a", "b", "x" * 5000, "c", "d"))
    bodies = encoded(linked_of(rows), max_bytes=1000)
    assert [[len(span.name) for span in body] for body in bodies] == [[1, 1], [5000], [1, 1]]


def test_body_may_be_as_large_as_its_limit() -> None:
    """Spans that take exactly the limit share a body; one byte less parts them."""
    linked = linked_of(block_of(named("a" * 80, "b" * 80)))
    ((body, _),) = encode_requests(linked, max_spans=2, max_bytes=NO_LIMIT)
    assert len(encoded(linked, max_bytes=len(body))) == 1
    assert len(encoded(linked, max_bytes=len(body) - 1)) == 2


@pytest.mark.parametrize("limits", [(0, 1), (1, 0), (-1, 1)])
def test_limits_below_one_are_refused(limits: tuple[int, int]) -> None:
    """A body of no spans or no bytes cannot be meant."""
    with pytest.raises(ValueError, match="at least 1"):
        encoded(linked_of(block_of(named("a"))), *limits)


def test_points_leave_as_spans() -> None:
    """Points among the spans are turned into spans and given ids, each in its place in the order of rows."""
    points = replace(block_of([agent_point().SerializeToString()]), format=PayloadFormat.POINT, contexts=(Context(),))
    (spans,) = encoded(linked_of(block_of(named("a")), points))
    assert [(span.name, span.span_id[-1]) for span in spans] == [("a", 1), ("GET /cart/items", 2)]


@pytest.mark.parametrize("outcome", [0, Outcome.SAMPLED_OUT, Outcome.FOLDED])
def test_rows_that_are_not_to_be_exported_are_refused(outcome: int) -> None:
    """What was sampled out or folded never leaks into a body."""
    with pytest.raises(ValueError, match="outcome"):
        encoded(linked_of(block_of(named("a")), outcome=[outcome]))


@pytest.mark.parametrize(
    "bad",
    [
        b"\x0a",
        b"\x0a\x05abc",
        b"\x30\xff",
        b"\x30" + b"\xff" * 10 + b"\x01",
        b"\x39\x00",
        b"\x35\x00",
        b"\x02\x00",
        b"\x00\x00",
        b"\x03\x04",
        b"\x36",
        b"\x37\x00",
        b"\xa4\x06",
        b"\xa3\x06",
        b"\xa3\x06\xac\x06",
        b"\xa3\x06\x0a\x05abc\xa4\x06",
        b"\xa3\x06" * 101 + b"\xa4\x06" * 101,
        b"\x0a\x81\x80\x80\x80\x80\x00a",
        b"\x8a\x80\x80\x80\x10\x01a",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x4a\x01\x0a",
        b"\x4a\x03\x0a\x05a",
        b"\x4a\x02\x09\x00",
        b"\x6a\x03\x0a\x05a",
    ],
)
def test_bytes_that_are_no_message_are_refused(bad: bytes) -> None:
    """An eSpan that cannot be walked raises InvalidData, which names it."""
    with pytest.raises(InvalidData, match="span 1"):
        encoded(linked_of(block_of([*named("a"), bad])))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x08\x01",
        b"\xa3\x06\x00\x00\xa4\x06",
        b"\x8a\x00\x01a",
        b"\x0a\x81\x80\x80\x80\x00a",
        b"\x30" + b"\xff" * 9 + b"\x7f",
        b"\xa3\x06" * 97 + b"\xa4\x06" * 97,  # with the messages around it, 100 deep
        b"\x0b\x0c",
        b"\xa3\x06\x08\x01\x19" + b"x" * 8 + b"\x1d" + b"y" * 4 + b"\x22\x01z\xa4\x06",
    ],
)
def test_unusual_but_valid_bytes_are_taken(raw: bytes) -> None:
    """What protobuf reads is walked: overlong numbers, groups, known numbers of another wire type."""
    sent = Span.FromString(raw)
    sent.trace_id, sent.span_id = bytes(15) + b"\x01", bytes(7) + b"\x01"
    span = only_span(linked_of(block_of([raw])))
    del span.attributes[:]
    assert span == sent


@pytest.mark.parametrize("offsets", [[0, 99], [-1, 1], [2, 1]])
def test_span_outside_its_payload_is_refused(offsets: list[int]) -> None:
    """Offsets are checked before anything is read."""
    block = replace(block_of(named("abc")), offsets=np.array(offsets, np.int64))
    with pytest.raises(InvalidData, match="outside its payload"):
        encoded(linked_of(block))


@pytest.mark.parametrize(("block", "row"), [(1, 0), (0, 2)])
def test_rows_that_are_not_there_are_refused(block: int, row: int) -> None:
    """A row or block beyond the payload is a ValueError."""
    linked = linked_of(block_of(named("a")))
    linked = replace(linked, block=np.array([block], np.uint32), row=np.array([row], np.uint32))
    with pytest.raises(ValueError, match="not there"):
        encoded(linked)


@pytest.mark.parametrize("row", [-1, 1])
def test_link_at_no_row_is_refused(row: int) -> None:
    """A link is never dropped in silence."""
    links = SpanLinks.from_columns(1, row=[row], trace_lo=[1], span_id=[1])
    with pytest.raises(ValueError, match="link at a row"):
        encoded(linked_of(block_of(named("a")), links=links))


@pytest.mark.parametrize(
    ("rows", "heads", "before", "error"),
    [
        ([0, 2], [], [], IndexError),
        ([-1], [], [], IndexError),
        ([0], [b"h"], [1], ValueError),
        ([0], [b"h"], [-1], ValueError),
        ([], [b"h"], [0], ValueError),
        ([0, 1], [b"h", b"h"], [1, 0], ValueError),
        ([0], [b"h"], [], ValueError),
    ],
)
def test_splicer_checks_what_it_is_asked_to_write(
    implementation: type[PlainSplicer], rows: list[int], heads: list[bytes], before: list[int], error: type[Exception]
) -> None:
    """Rows that are not there and heads out of place are refused before a byte is written."""
    splicer = splicer_of(implementation, 2)
    with pytest.raises(error):
        splicer.write(np.array(rows, np.int64), heads, np.array(before, np.int64))


def test_splicer_writes_heads_before_their_rows(implementation: type[PlainSplicer]) -> None:
    """Rows come in the order asked for, also twice, each after the heads that stand before it."""
    splicer = splicer_of(implementation, 2)
    written = splicer.write(np.array([1, 0, 1]), [b"<", b"[", b">"], np.array([0, 0, 2]))
    assert written == b"<[" + b"\x12\x01b" + b"\x12\x01a" + b">" + b"\x12\x01b"


def test_splicer_checks_the_length_of_columns(implementation: type[PlainSplicer]) -> None:
    """Columns of another length than the decisions' are refused."""
    column = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="unequal length"):
        implementation([b""], np.zeros(2, np.uint32), column, column, Decisions.zeros(2), SpanLinks.zeros(0))


def splicer_of(implementation: type[PlainSplicer], n: int) -> PlainSplicer:
    """n ordinary spans of a byte each."""
    at = np.arange(n + 1, dtype=np.int64)
    decisions = Decisions.from_columns(n, outcome=np.full(n, Outcome.PASS))
    return implementation([b"abcdef"], np.zeros(n, np.uint32), at[:-1], at[1:], decisions, SpanLinks.zeros(0))
