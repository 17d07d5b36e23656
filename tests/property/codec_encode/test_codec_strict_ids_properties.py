"""Whatever was accepted, what leaves has no id for which a strict backend refuses the whole request."""

from collections.abc import Iterator

import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codec import otlp_encode, otlp_protobuf
from bridge.codec.otlp_encode import PlainSplicer, Splicer, encode_requests
from bridge.codec.otlp_protobuf import decode_request
from bridge.codec.otlp_scan import scan_plain, scan_request
from bridge.spans import Decisions, Kind, LinkedSpans, Outcome, SpanLinks
from tests.support.espans import ORDINARY_IDS, REQUIRED, field, pairs, span_of

IMPLEMENTATIONS = {"plain": (scan_plain, PlainSplicer), "kernel": (scan_request, Splicer)}

ordinary = span_of(**ORDINARY_IDS).SerializeToString()
required = b"".join(field(9, pair.SerializeToString()) for pair in pairs(REQUIRED))
own_lengths = {1: 16, 2: 8, 4: 8}
ids = st.sampled_from(sorted(own_lengths)).flatmap(
    lambda number: st.sampled_from([own_lengths[number]] * 6 + [0, 1, 8, 16, 300]).map(
        lambda length: field(number, b"i" * length)
    )
)
links = st.lists(ids.filter(lambda sent: sent[0] != 0x22), max_size=3).map(lambda some: field(13, b"".join(some)))
events = st.just(field(11, field(2, b"an event")))
spans = st.builds(
    lambda head, fields: head + b"".join(fields),
    st.sampled_from([ordinary, required, required + ordinary, b""]),
    st.lists(st.one_of(ids, links, links, events), max_size=4),
)
requests = st.lists(spans, max_size=6).map(lambda some: field(1, field(2, b"".join(field(2, span) for span in some))))


def delimited(message: bytes, *numbers: int) -> Iterator[tuple[int, bytes]]:
    """(number, value) of each of these fields, also of those that later ones override."""
    for found in UnknownFieldSet(Empty.FromString(message)):
        if found.field_number in numbers and found.wire_type == 2:
            yield found.field_number, found.data


def spans_of(body: bytes) -> list[bytes]:
    scopes = [scope for _, resource in delimited(body, 1) for _, scope in delimited(resource, 2)]
    return [span for scope in scopes for _, span in delimited(scope, 2)]


def is_strict(span: bytes) -> bool:
    """As a Collector decodes it: each id that is written has its length, or none."""
    written = [
        *delimited(span, *own_lengths),
        *(sent for _, link in delimited(span, 13) for sent in delimited(link, 1, 2)),
    ]
    return all(len(sent) in (0, own_lengths[number]) for number, sent in written)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=150, deadline=None)
@given(body=requests)
def test_what_leaves_has_no_id_of_a_wrong_length(implementation: str, body: bytes) -> None:
    """eSpans and ordinary spans alike; every span is exported, or was rejected for such an id or none at all."""
    scan, splicer = IMPLEMENTATIONS[implementation]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(otlp_protobuf, "scan_request", scan)
        patch.setattr(otlp_encode, "Splicer", splicer)
        decoded = decode_request(body, peer="peer")
        kind, n = decoded.batch.columns.kind, len(decoded.batch)
        outcome = np.where(kind == Kind.ORDINARY, Outcome.PASS, Outcome.EXPORT)
        decisions = Decisions.from_columns(n, outcome=outcome, span_id=np.arange(1, n + 1), trace_lo=np.full(n, 1))
        rows = np.arange(n, dtype=np.uint32)
        linked = LinkedSpans(1, (decoded.batch.payload,), np.zeros_like(rows), rows, decisions, SpanLinks.zeros(0))
        bodies = [left for left, _ in encode_requests(linked, max_spans=3, max_bytes=1 << 20)]
    left = [span for each in bodies for span in spans_of(each)]
    assert len(left) + decoded.rejected == len(spans_of(body))
    assert all(map(is_strict, left))
