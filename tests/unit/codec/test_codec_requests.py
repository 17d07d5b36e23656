"""What becomes of a request as a whole: ordinary spans, refusals, contexts, payload, errors."""

import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from bridge.codec.otlp_protobuf import decode_request
from bridge.codec.otlp_scan import MAX_REFUSALS
from bridge.errors import InvalidData
from bridge.spans import Context, Kind, PayloadFormat, text_hash
from tests.support.espans import ORDINARY_IDS, REQUIRED, espan_of, field, pairs, request_of, span_of

UNKNOWN = b"\xfa\x06\x03new"
"""A field that no version of OTLP has."""


def resource_spans(*spans: Span, service: str = "shop", scope: str = "ebpf") -> ResourceSpans:
    message = ResourceSpans(scope_spans=[ScopeSpans(spans=spans, schema_url="s")], schema_url="r")
    message.resource.attributes.extend(pairs({"service.name": service}))
    message.scope_spans[0].scope.name = scope
    return message


def request(*parts: ResourceSpans) -> bytes:
    return ExportTraceServiceRequest(resource_spans=parts).SerializeToString()


VALID_LINK = {"trace_id": b"t" * 16, "span_id": b"s" * 8}


def ordinary(**fields: object) -> Span:
    return span_of((), **{**ORDINARY_IDS, **fields})


def test_empty_request_has_no_spans() -> None:
    """No bytes are a request without spans."""
    decoded = decode_request(b"", peer="peer")
    assert (len(decoded.batch), decoded.rejected, decoded.rejection, decoded.faulty) == (0, 0, "", {})


@pytest.mark.parametrize("parts", [(ResourceSpans(),), (ResourceSpans(scope_spans=[ScopeSpans()]),)])
def test_containers_without_spans_have_no_spans(parts: tuple[ResourceSpans, ...]) -> None:
    """Empty containers are no error, and make no context."""
    batch = decode_request(request(*parts), peer="peer").batch
    assert (len(batch), batch.payload.contexts) == (0, ())


def test_ordinary_span_keeps_ids_and_times() -> None:
    """Of an ordinary span ids and times are read, nothing else."""
    span = ordinary(parent_span_id=b"\0" * 7 + b"\x05", start_time_unix_nano=7, end_time_unix_nano=9)
    columns = decode_request(request_of(span), peer="peer").batch.columns
    filled = {name: int(column[0]) for name, column in columns.items() if column[0]}
    assert filled == {
        "trace_hi": 0x0102030405060708,
        "trace_lo": 0x090A0B0C0D0E0F10,
        "span_id": 0x0102030405060708,
        "parent_id": 5,
        "start_ns": 7,
        "end_ns": 9,
        "sender": text_hash("peer"),
        "digest": int(columns.digest[0]),
    }


def test_ordinary_times_beyond_a_column_count_as_absent() -> None:
    """Unsigned times of more than 63 bits do not come out negative."""
    columns = decode_request(
        request_of(ordinary(start_time_unix_nano=2**63, end_time_unix_nano=2**64 - 1)), peer="peer"
    ).batch.columns
    assert (columns.start_ns[0], columns.end_ns[0]) == (0, 0)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ({"trace_id": b""}, "trace_id has 0 bytes, want 16"),
        ({"trace_id": b"t" * 15}, "trace_id has 15 bytes, want 16"),
        ({"trace_id": bytes(16)}, "trace_id is all zero"),
        ({"span_id": b""}, "span_id has 0 bytes, want 8"),
        ({"span_id": b"s" * 9}, "span_id has 9 bytes, want 8"),
        ({"span_id": bytes(8)}, "span_id is all zero"),
        ({"parent_span_id": b"abc"}, "parent_span_id has 3 bytes, want 8"),
        ({"links": [{"trace_id": b"x"}]}, "links[0].trace_id has 1 bytes, want 16"),
        ({"links": [{}, VALID_LINK, {"span_id": b"s" * 16}]}, "links[2].span_id has 16 bytes, want 8"),
    ],
)
def test_ordinary_span_with_invalid_ids_is_refused(ids: dict[str, bytes], reason: str) -> None:
    """It is not in the batch; where it stood and why is told. The others are taken."""
    decoded = decode_request(request_of(ordinary(), ordinary(**ids), espan_of()), peer="peer")
    assert decoded.batch.columns.kind.tolist() == [Kind.ORDINARY, Kind.ENTRY]
    assert decoded.rejected == 1
    assert decoded.rejection == f"resource_spans[0].scope_spans[0].spans[1]: {reason}"


@pytest.mark.parametrize("fields", [{"parent_span_id": bytes(8)}, {"links": [{}, VALID_LINK]}], ids=str)
def test_ordinary_span_with_ids_of_their_length_is_taken(fields: dict[str, object]) -> None:
    """A parent and links need no id, and theirs may be zero."""
    assert decode_request(request_of(ordinary(**fields)), peer="peer").rejected == 0


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (field(1, b"t"), "trace_id has 1 bytes, want 16"),
        (field(2, b"s" * 7), "span_id has 7 bytes, want 8"),
        (field(4, b"p" * 9), "parent_span_id has 9 bytes, want 8"),
        (field(13, field(1, b"t" * 8) + field(1, b"t" * 16)), "links[0].trace_id has 8 bytes, want 16"),
        (field(13, field(2, b"s") + field(2, b"")), "links[0].span_id has 1 bytes, want 8"),
    ],
)
def test_ids_that_later_ones_override_count_too(written: bytes, reason: str) -> None:
    """A strict backend refuses a request for any id in it that has a wrong length."""
    valid = ordinary(parent_span_id=bytes(8)).SerializeToString()
    body = field(1, field(2, field(2, written + valid) + field(2, valid)))
    decoded = decode_request(body, peer="peer")
    assert (len(decoded.batch), decoded.rejection) == (1, f"resource_spans[0].scope_spans[0].spans[0]: {reason}")


def test_espan_is_never_refused_for_its_ids() -> None:
    """Its own are replaced on export, and links with such ids cut."""
    odd = {"trace_id": b"t", "span_id": b"s", "parent_span_id": b"p", "links": [{"trace_id": b"t", "span_id": b"s"}]}
    decoded = decode_request(request_of(span_of(REQUIRED, **odd)), peer="peer")
    assert (len(decoded.batch), decoded.rejected, decoded.faulty) == (1, 0, {})
    assert (decoded.batch.columns.trace_lo[0], decoded.batch.columns.parent_id[0]) == (0, 0)


@pytest.mark.parametrize("refused", [MAX_REFUSALS, MAX_REFUSALS + 1, 20])
def test_only_the_first_refusals_are_told_apart(refused: int) -> None:
    """The others are counted."""
    parts = [resource_spans(ordinary(span_id=b""), service=str(i)) for i in range(refused)]
    decoded = decode_request(request(*parts), peer="peer")
    told = decoded.rejection.split("; ")
    assert (decoded.rejected, len(decoded.batch)) == (refused, 0)
    assert told[2].startswith("resource_spans[2].scope_spans[0].spans[0]: ")
    assert told[MAX_REFUSALS:] == ([f"and {refused - MAX_REFUSALS} more"] if refused > MAX_REFUSALS else [])


def test_faulty_espans_are_counted_by_key() -> None:
    """A fault refuses nothing; it is counted, once a span and key."""
    spans = [espan_of(), espan_of(tid="x", req_seq="y"), espan_of(tid="z"), span_of({"req_seq": 1})]
    decoded = decode_request(request_of(*spans), peer="peer")
    assert (len(decoded.batch), decoded.rejected) == (4, 0)
    assert decoded.faulty == {"ebpf_span_type": 1, "direction": 1, "req_seq": 1, "resp_seq": 1, "tid": 2}


def test_spans_keep_their_own_bytes() -> None:
    """Whatever way they are written, with fields that nobody knows."""
    unusual = b"\x2a\x81\x80\x00a" + UNKNOWN + espan_of().SerializeToString() + b"\xa3\x06\xa4\x06" + UNKNOWN
    plain = ordinary(name="b").SerializeToString()
    body = field(1, field(2, field(2, unusual) + field(2, plain)))
    payload = decode_request(body, peer="peer").batch.payload
    assert payload.format == PayloadFormat.OTLP_SPAN
    assert [payload.span(0), payload.span(1)] == [unusual, plain]


def test_attribute_with_an_unknown_field_is_read() -> None:
    """A KeyValue with a field that no version of OTLP has still is its key and its value."""
    pair = field(9, field(1, b"tid") + field(2, field(1, b"5") + UNKNOWN) + UNKNOWN)
    body = field(1, field(2, field(2, espan_of().SerializeToString() + pair)))
    batch = decode_request(body, peer="peer").batch
    assert batch.columns.tid.tolist() == [5]


def test_contexts_are_what_surrounds_the_spans() -> None:
    """Resource and scope without what they contain, unknown fields included."""
    scope_head, resource_head = field(1, field(1, b"ebpf")), field(1, b"")
    scope = scope_head + field(2, espan_of().SerializeToString()) + UNKNOWN
    body = field(1, resource_head + field(2, scope) + UNKNOWN)
    payload = decode_request(body, peer="peer").batch.payload
    assert payload.contexts == (Context(resource_head + UNKNOWN, scope_head + UNKNOWN),)


def test_equal_contexts_are_kept_once() -> None:
    """Rows of equal context share it, wherever they stood; contexts without a span that is taken are left out."""
    a, b = resource_spans(espan_of(), espan_of(tid=1), service="a"), resource_spans(espan_of(), service="b")
    empty = resource_spans(ordinary(span_id=b""), service="c")
    payload = decode_request(request(a, empty, b, a), peer="peer").batch.payload
    assert payload.context.tolist() == [0, 0, 1, 0, 0]
    assert len(payload.contexts) == 2


def test_several_scopes_of_one_resource_are_told_apart() -> None:
    """Each ScopeSpans is its own context, with the same resource."""
    message = resource_spans(espan_of(), scope="x")
    message.scope_spans.add(spans=[espan_of()]).scope.name = "y"
    first, second = decode_request(request(message), peer="peer").batch.payload.contexts
    assert first.resource_spans == second.resource_spans
    assert first.scope_spans != second.scope_spans


def test_long_contexts_are_read_too() -> None:
    """What is too long for a cache is not cut."""
    service = "s" * 20_000
    batch = decode_request(request(resource_spans(espan_of(), service=service)), peer="peer").batch
    assert batch.columns.service.tolist() == [text_hash(service)]


@pytest.mark.parametrize(
    ("resource", "sender", "service"),
    [
        ({}, "peer", ""),
        ({"host.name": "node-1"}, "node-1", ""),
        ({"host.name": "", "service.name": "cart"}, "peer", "cart"),
        ({"host.name": 5, "service.name": 6}, "peer", ""),
        ([("host.name", "a"), ("host.name", "b")], "b", ""),
    ],
)
def test_sender_is_the_host_else_the_peer(resource: dict[str, str], sender: str, service: str) -> None:
    """host.name and service.name count where they are text."""
    columns = decode_request(request_of(espan_of(), resource=resource), peer="peer").batch.columns
    assert columns.sender.tolist() == [text_hash(sender)]
    assert columns.service.tolist() == [text_hash(service)]


def test_columns_keep_the_order_of_the_spans() -> None:
    """Row i is the i-th span that is taken, over all containers."""
    parts = [resource_spans(*(espan_of(tid=10 * r + i) for i in range(3)), service=str(r)) for r in range(3)]
    assert decode_request(request(*parts), peer="peer").batch.columns.tid.tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def nested(depth: int) -> bytes:
    """A request whose resource has a value inside `depth` arrays."""
    value = field(1, b"x")
    for _ in range(depth):
        value = field(5, field(1, value))
    return field(1, field(1, field(1, field(2, value))) + field(2, field(2, espan_of().SerializeToString())))


def test_values_nest_as_deep_as_protobuf_reads() -> None:
    """100 messages inside one another are read, no more."""
    assert len(decode_request(nested(48), peer="peer").batch) == 1
    with pytest.raises(InvalidData):
        decode_request(nested(49), peer="peer")


def test_groups_nest_as_deep_as_protobuf_reads() -> None:
    """Groups of unknown fields count as messages; a span is inside three."""

    def groups(depth: int) -> bytes:
        span = espan_of().SerializeToString() + b"\xa3\x06" * depth + b"\xa4\x06" * depth
        return field(1, field(2, field(2, span)))

    assert len(decode_request(groups(97), peer="peer").batch) == 1
    with pytest.raises(InvalidData):
        decode_request(groups(98), peer="peer")


@pytest.mark.parametrize("message", [espan_of(), ordinary()])
def test_fields_given_twice_the_last_counts(message: Message) -> None:
    """As protobuf has it: ids and times of a span written behind another override it."""
    later = span_of((), span_id=b"\0" * 7 + b"\x09", start_time_unix_nano=77).SerializeToString()
    body = field(1, field(2, field(2, message.SerializeToString() + later)))
    columns = decode_request(body, peer="peer").batch.columns
    assert (columns.span_id.tolist(), columns.start_ns.tolist()) == ([9], [77])


def test_required_keys_are_those_of_the_table() -> None:
    """What these tests take for an eSpan without fault is one."""
    assert decode_request(request_of(span_of(REQUIRED)), peer="peer").faulty == {}
