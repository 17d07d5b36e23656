"""Limits of one request, for both scans: kept at their value, and told where one is beyond."""

import re
import tracemalloc

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from bridge.codec import espan, otlp_scan
from bridge.codec.limits import RequestLimits
from bridge.codec.otlp_json import decode_json, encode_json
from bridge.codec.otlp_protobuf import decode_request
from bridge.errors import InvalidData, TooLarge
from tests.support.espans import ORDINARY_IDS, espan_of, pairs, request_of, span_of

PEER = "192.0.2.1"


def several_scopes(resource_bytes: int, scopes: int, *, scope_bytes: int = 0) -> bytes:
    """A request with a large resource and many scopes with a span each, no two of them alike."""
    around = ResourceSpans()
    around.resource.attributes.extend(pairs({"service.name": "x" * resource_bytes}))
    for number in range(scopes):
        scope = around.scope_spans.add(spans=[espan_of()])
        scope.scope.name = f"{number:{scope_bytes}}"
    return ExportTraceServiceRequest(resource_spans=[around]).SerializeToString()


@pytest.mark.parametrize("decode", [decode_request, decode_json])
def test_spans_of_all_scopes_and_resources_count(decode: object) -> None:
    """Whether they would be taken or not."""
    resources = [
        ResourceSpans(scope_spans=[ScopeSpans(spans=[espan_of(), span_of()]), ScopeSpans(spans=[espan_of()])]),
        ResourceSpans(scope_spans=[ScopeSpans(spans=[span_of(**ORDINARY_IDS)])]),
    ]
    body = ExportTraceServiceRequest(resource_spans=resources).SerializeToString()
    body = body if decode is decode_request else encode_json(body)
    read = decode_request if decode is decode_request else decode_json
    assert len(read(body, peer=PEER, limits=RequestLimits(max_spans=4)).batch) == 3
    with pytest.raises(TooLarge, match=re.escape("4 spans in one request, more than max_request_spans = 3")):
        read(body, peer=PEER, limits=RequestLimits(max_spans=3))


def test_what_cannot_be_read_is_invalid_whatever_its_size() -> None:
    """A request is counted before it is read; where that is not possible the reason is the one it always was."""
    with pytest.raises(InvalidData):
        decode_request(request_of(espan_of(), espan_of())[:-1], peer=PEER, limits=RequestLimits(max_spans=1))
    for body in (b"[]", b'{"resourceSpans":{}}', b'{"resourceSpans":[[]]}', b'{"resourceSpans":[{"scopeSpans":7}]}'):
        with pytest.raises(InvalidData):
            decode_json(body, peer=PEER, limits=RequestLimits(max_spans=1))


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_span_counts_with_its_resource_and_scope(beyond: int) -> None:
    """They are stored and sent with it."""
    body = request_of(espan_of(), resource={"host.name": "h" * 100})
    block = decode_request(body, peer=PEER).batch.payload
    (context,) = block.contexts
    size = block.data_bytes + len(context.resource_spans) + len(context.scope_spans)
    found = decode_request(body, peer=PEER, limits=RequestLimits(max_span_bytes=size - beyond))
    assert (len(found.batch), found.rejected, found.oversized) == (1 - beyond, beyond, beyond)
    assert found.rejection == ("" if not beyond else f"1 larger than max_span_bytes = {size - 1}")


def test_spans_that_are_kept_are_as_they_were() -> None:
    """Rows, bytes and contexts stay together when others are taken out of their midst."""
    spans = [espan_of(req_seq=i, note="x" * (5000 if i % 3 == 1 else 10)) for i in range(9)]
    resources = []
    for name, some in (("a", spans[:4]), ("b" * 5000, spans[4:6]), ("c", spans[6:])):
        around = ResourceSpans(scope_spans=[ScopeSpans(spans=some)])
        around.resource.attributes.extend(pairs({"service.name": name}))
        resources.append(around)
    body = ExportTraceServiceRequest(resource_spans=resources).SerializeToString()
    whole = decode_request(body, peer=PEER).batch
    found = decode_request(body, peer=PEER, limits=RequestLimits(max_span_bytes=4000))
    kept = [0, 2, 3, 6, 8]
    assert found.oversized == 4
    assert [found.batch.payload.span(i) for i in range(5)] == [whole.payload.span(i) for i in kept]
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(getattr(found.batch.columns, name), column[kept], err_msg=name)
    block = found.batch.payload
    assert len(block.contexts) == 2
    assert [block.contexts[i] for i in block.context] == [
        whole.payload.contexts[i] for i in whole.payload.context[kept]
    ]


def test_both_reasons_are_told() -> None:
    """Spans with ids that are none, and spans that are too large."""
    body = request_of(span_of(), espan_of(note="x" * 5000), espan_of())
    found = decode_request(body, peer=PEER, limits=RequestLimits(max_span_bytes=4000))
    assert (len(found.batch), found.rejected, found.oversized) == (1, 2, 1)
    assert found.rejection == (
        "resource_spans[0].scope_spans[0].spans[0]: trace_id has 0 bytes, want 16; 1 larger than max_span_bytes = 4000"
    )


def test_a_resource_does_not_grow_with_its_scopes() -> None:
    """It is stored once for each of them: a few are fine, thousands of a large one are not."""
    assert len(decode_request(several_scopes(2_000, 100), peer=PEER).batch) == 100
    assert len(decode_request(several_scopes(50_000, 5), peer=PEER).batch) == 5
    assert len(decode_request(several_scopes(100_000, 40), peer=PEER).batch) == 40  # a command line is as long
    with pytest.raises(TooLarge, match="send fewer scopes"):
        decode_request(several_scopes(50_000, 100), peer=PEER)
    with pytest.raises(TooLarge, match="send fewer scopes"):
        decode_json(encode_json(several_scopes(50_000, 100)), peer=PEER)


def test_many_different_names_fill_no_cache() -> None:
    """Of a service, a host or a process only a number is kept, and long texts are not remembered."""
    for text_bytes, requests in ((1 << 20, 20), (20_000, 200)):
        tracemalloc.start()
        try:
            for number in range(requests):
                name = f"{number}".ljust(text_bytes, "x")
                body = request_of(espan_of(**{"process.pid": name}), resource={"service.name": name, "host.name": name})
                decode_request(body, peer=PEER)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 4 * text_bytes + (1 << 20)


def test_what_is_remembered_of_names_is_bounded() -> None:
    """So many short ones, of a bounded length: 32 MiB at most for resources and as much for the texts in them."""
    for cache, most_bytes in ((otlp_scan._context, 16384), (otlp_scan._resource_texts, 16384)):
        size = cache.cache_info().maxsize
        assert size is not None
        assert size * most_bytes <= 16 << 20
    size = espan.text_hash.cache_info().maxsize
    assert size is not None
    assert size * espan.MAX_CACHED_TEXT <= 32 << 20
