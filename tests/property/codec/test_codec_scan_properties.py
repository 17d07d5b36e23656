"""Any bytes: the kernel equals its twin, and what is readable is what opentelemetry-proto reads."""

import re
from collections import Counter
from collections.abc import Callable

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.codec import otlp_view_pb2 as view
from bridge.codec.limits import RequestLimits
from bridge.codec.otlp_protobuf import decode_request, decode_requests
from bridge.codec.otlp_scan import Scan, count_spans, kernel_in_use, scan_compiled, scan_plain
from bridge.codec.rows import ROW
from bridge.errors import InvalidData
from bridge.spans import SpanBatch, convention
from tests.support.espans import REQUIRED, Value, any_value, field, pairs, request_of, span_of
from tests.support.wire_bytes import Changes, changed, changes, holding, message

HEX_ID = "0123456789abcdefFEDCBA9876543210"
SCANS = [scan_plain, scan_compiled] if kernel_in_use() else [scan_plain]
needs_kernel = pytest.mark.skipif(not kernel_in_use(), reason="no C compiler was there")

# --- what spans are made of, as bytes ---------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-3, 70000), st.sampled_from([0, 2**63 - 1, -(2**63), 2**53]))
texts = st.one_of(
    st.sampled_from(["", "entry", "exit", "unknown", "incoming", "outgoing", "hex", "dec", HEX_ID, HEX_ID[:16], "ä€"]),
    st.sampled_from(["10.0.0.1", "01.2.3.4", "256.1.1.1", "1.2.3", "::1", "::ffff:1.2.3.4", "-", "-0", "1e3", "00012"]),
    st.sampled_from([str(2**64 - 1), str(2**64), str(-(2**63)), str(-(2**63) - 1), "9" * 20, "1" * 16, "65536"]),
    st.integers(-(2**64), 2**65).map(str),
    st.text(max_size=20),
)
python_values = st.one_of(numbers, texts, st.sampled_from([None, True, 0.5, b"x"]))
values = python_values.map(lambda value: any_value(value).SerializeToString())
keys = st.one_of(st.sampled_from(convention.KEY_OF_BIT), st.sampled_from(["", "tidx", "ti", "req_seQ", "x" * 40]))


any_values = st.one_of(values, values.map(bytes), message(values, own=9))
key_values = st.one_of(
    st.builds(lambda key, value: field(1, key.encode()) + field(2, value), keys, any_values),
    message(holding(1, keys.map(str.encode)), holding(2, any_values), own=4),
)
ids = st.one_of(*(st.binary(min_size=n, max_size=n) for n in (8, 16)), st.just(bytes(8)), st.binary(max_size=3))
times = st.one_of(st.integers(0, 99), st.integers(0, 2**64 - 1)).map(lambda ns: ns.to_bytes(8, "little"))
other_fields = (
    *(holding(number, ids) for number in (1, 1, 2, 2, 4)),
    holding(5, st.text(max_size=3).map(str.encode)),
    st.builds(lambda number, time: bytes((number << 3 | 1,)) + time, st.sampled_from((7, 8)), times),
    holding(11, message(holding(3, key_values), own=5, most=2)),
    holding(13, message(holding(1, ids), holding(2, ids), holding(4, key_values), own=7, most=2)),
    holding(15, message(holding(2, st.just(b"no")), own=4, most=2)),
)
required = b"".join(field(9, pair.SerializeToString()) for pair in pairs(REQUIRED))
spans = st.builds(
    lambda has, attributes, rest: (required if has else b"") + attributes + rest,
    st.booleans(),
    message(holding(9, key_values), own=17, most=9),
    message(*other_fields, own=17),
)
resources = holding(1, message(holding(1, key_values), own=4, most=2))
scopes = holding(1, message(holding(1, st.just(b"ebpf")), holding(3, key_values), own=5, most=2))
scope_spans = message(*[holding(2, spans)] * 3, scopes, own=4, least=1, most=3)
resource_spans = message(*[holding(2, scope_spans)] * 3, resources, own=4, least=1, most=3)
requests = message(holding(1, resource_spans), own=3, least=1, most=2)


def readable(body: bytes) -> bool:
    try:
        ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return False
    return True


def outcome(scan: Scan) -> tuple[object, ...]:
    """Everything that a scan found, comparable."""
    columns = {name: scan.rows[name].tolist() for name in ROW.names or () if name != "texts"}
    rest = (scan.data, scan.lengths.tolist(), scan.contexts, scan.context.tolist(), scan.refused, scan.refusals)
    return columns, *rest


@needs_kernel
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(keys, python_values), min_size=8, max_size=25), st.tuples(*[st.integers(0, 2**64 - 1)] * 2))
def test_kernel_reads_attributes_as_its_twin(attributes: list[tuple[str, Value]], own_times: tuple[int, int]) -> None:
    """Any keys with any values, in any order, given twice or more."""
    start, end = own_times
    body = request_of(span_of(attributes, start_time_unix_nano=start % 2**63, end_time_unix_nano=end))
    assert outcome(scan_compiled(body)) == outcome(scan_plain(body))


@needs_kernel
@settings(max_examples=150, deadline=None)
@given(requests)
def test_kernel_is_its_twin(body: bytes) -> None:
    """On requests that can be read, in whatever way they are written."""
    assert outcome(scan_compiled(body)) == outcome(scan_plain(body))


@pytest.mark.parametrize("scan", SCANS)
@settings(max_examples=150, deadline=None)
@given(requests, changes)
@example(b"", [("insert", 0.0, 0xFF)])
def test_readable_is_what_opentelemetry_reads(scan: Callable[[bytes], Scan], body: bytes, how: Changes) -> None:
    """Of bytes that were changed anywhere; InvalidData says why not, and the kernel says what its twin says."""
    body = changed(body, how)
    if readable(body):
        assert outcome(scan(body)) == outcome(scan_plain(body))
        return
    with pytest.raises(
        InvalidData, match=r"^(request|resource_spans\[\d+\].*): .*byte \d+ ?|nested too deep$"
    ) as caught:
        scan(body)
    found = re.search(r"byte (\d+)", str(caught.value))
    assert found is None or int(found[1]) < len(body)


@settings(max_examples=100, deadline=None)
@given(requests, st.floats(0, 1, exclude_max=True))
def test_request_that_was_cut_off_is_called_so(body: bytes, part: float) -> None:
    """Wherever it was cut, but inside a group, whose end is not told from what it holds."""
    body = body[: int(part * len(body))]
    if not readable(body):
        with pytest.raises(InvalidData, match=r"cut off at byte \d+ \(|\(group \d+ does not end"):
            decode_request(body, peer="peer")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_invalid(body: bytes) -> None:
    """Never another exception."""
    try:
        decode_request(body, peer="peer")
    except InvalidData:
        assert not readable(body)
    else:
        assert readable(body)


@settings(max_examples=100, deadline=None)
@given(requests)
def test_every_span_is_taken_or_refused_with_its_own_bytes(body: bytes) -> None:
    """Spans are found by their bytes in the request, in their order, and none is lost."""
    decoded = decode_request(body, peer="peer")
    payload = decoded.batch.payload
    sent = [
        span
        for resource in view.Request.FromString(body).resource_spans
        for scope in view.ResourceSpans.FromString(resource).scope_spans
        for span in view.ScopeSpans.FromString(scope).spans
    ]
    assert len(payload) + decoded.rejected == len(sent)
    taken = [span for span in sent if _is_taken(span)]
    assert [payload.span(i) for i in range(len(payload))] == taken


def _is_taken(data: bytes) -> bool:
    span = Span.FromString(data)
    if not convention.MARKERS.isdisjoint(pair.key for pair in span.attributes):
        return True
    lengths = all(len(sent) in (0, 16 if number == 1 else 8) for number, sent in _ids(data, (1, 2, 4)))
    links = all(len(sent) in (0, 16 if number == 1 else 8) for link in span_links(data) for number, sent in link)
    return bool(lengths and links and any(span.trace_id) and any(span.span_id))


def span_links(data: bytes) -> list[list[tuple[int, bytes]]]:
    return [_ids(link, (1, 2)) for _, link in _ids(data, (13,))]


def _ids(data: bytes, numbers: tuple[int, ...]) -> list[tuple[int, bytes]]:
    """Delimited fields with one of these numbers: (number, value)."""
    found = UnknownFieldSet(Empty.FromString(data))
    return [(f.field_number, f.data) for f in found if f.field_number in numbers and f.wire_type == 2]


@settings(max_examples=50, deadline=None)
@given(requests, st.text(max_size=9), st.text(max_size=9))
def test_ids_and_digests_do_not_depend_on_the_peer(body: bytes, one: str, other: str) -> None:
    """Nothing but the sender does."""
    first, second = (decode_request(body, peer=peer).batch.columns for peer in (one, other))
    for name in first.dtypes():
        if name != "sender":
            assert getattr(first, name).tolist() == getattr(second, name).tolist()
    assert first.span_id.all()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(requests, changes, st.sampled_from(["192.0.2.1", "192.0.2.2"])), min_size=1, max_size=4))
def test_requests_decoded_together_are_what_they_are_alone(sent: list[tuple[bytes, Changes, str]]) -> None:
    """Or, where one of them is not taken as a whole, nothing; also where one is cut off and the next would go on."""
    together = [
        (data, peer, spans) for body, how, peer in sent if (spans := count_spans(data := changed(body, how))) >= 0
    ]
    if not together:
        return
    try:
        alone = [decode_request(data, peer=peer) for data, peer, _ in together]
    except InvalidData:
        assert decode_requests(together) is None
        return
    found = decode_requests(together)
    if any(decoded.rejected for decoded in alone):
        assert found is None
        return
    assert found is not None
    whole = SpanBatch.concatenate([decoded.batch for decoded in alone])
    assert {name: column.tolist() for name, column in found.batch.columns.items()} == {
        name: column.tolist() for name, column in whole.columns.items()
    }
    assert [found.batch.payload.span(row) for row in range(len(whole))] == [
        whole.payload.span(row) for row in range(len(whole))
    ]
    assert found.batch.payload.contexts == whole.payload.contexts
    assert found.batch.payload.context.tolist() == whole.payload.context.tolist()
    assert found.faulty == dict(sum((Counter(decoded.faulty) for decoded in alone), Counter[str]()))


def test_a_request_that_is_cut_off_does_not_run_on_into_the_next() -> None:
    """Its spans cannot be counted, so that it is never put beside others."""
    body = request_of(span_of(REQUIRED))
    assert all(count_spans(body[:end]) < 0 for end in range(1, len(body)))
    assert count_spans(body) == 1


@pytest.mark.parametrize("limits", [RequestLimits(max_spans=2), RequestLimits(max_span_bytes=200)])
def test_limits_hold_for_each_of_the_requests(limits: RequestLimits) -> None:
    """What keeps them alone keeps them together; what does not is decoded by itself."""
    small = request_of(span_of(REQUIRED)), "192.0.2.1", 1
    large = request_of(*[span_of({**REQUIRED, "note": "x" * 200})] * 3), "192.0.2.1", 3
    found = decode_requests([small] * 9, limits)
    assert found is not None
    assert len(found.batch) == 9
    assert decode_requests([small, large], limits) is None
    assert decode_requests([small, large]) is not None
