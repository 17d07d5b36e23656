"""Any JSON is read or invalid; what protobuf holds, JSON carries there and back."""

import json
import math
from base64 import b64decode
from typing import Any

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from bridge.codec.otlp_json import decode_json, encode_json
from bridge.codec.otlp_protobuf import decode_request
from bridge.errors import InvalidData
from tests.support.espans import REQUIRED, pairs

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
text = st.text(max_size=8)
scalars = st.one_of(
    text.map(lambda value: AnyValue(string_value=value)),
    st.booleans().map(lambda value: AnyValue(bool_value=value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: AnyValue(int_value=value)),
    st.floats(allow_nan=False).map(lambda value: AnyValue(double_value=value)),
    st.binary(max_size=5).map(lambda value: AnyValue(bytes_value=value)),
    st.just(AnyValue()),
)


def _containers(inner: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[AnyValue]:
    arrays = st.lists(inner, max_size=3).map(lambda items: AnyValue(array_value={"values": items}))
    entries = st.lists(st.builds(KeyValue, key=text, value=inner), max_size=3)
    return arrays | entries.map(lambda items: AnyValue(kvlist_value={"values": items}))


attributes = st.lists(st.builds(KeyValue, key=text, value=st.recursive(scalars, _containers, max_leaves=4)), max_size=3)
spans = st.builds(
    Span,
    trace_id=st.binary(min_size=16, max_size=16),
    span_id=st.binary(min_size=8, max_size=8),
    parent_span_id=st.just(b"") | st.binary(min_size=8, max_size=8) | st.just(b"odd"),
    trace_state=text,
    name=text,
    kind=st.integers(-1, 9),
    flags=u32,
    start_time_unix_nano=u64,
    end_time_unix_nano=u64,
    attributes=st.tuples(st.sampled_from([REQUIRED, REQUIRED, {}]), attributes).map(lambda a: [*pairs(a[0]), *a[1]]),
    dropped_attributes_count=u32,
    events=st.lists(st.builds(Span.Event, time_unix_nano=u64, name=text, attributes=attributes), max_size=2),
    links=st.lists(st.builds(Span.Link, trace_id=st.binary(max_size=16), span_id=st.binary(max_size=8)), max_size=2),
    status=st.just(None) | st.fixed_dictionaries({"code": st.integers(0, 2), "message": text}),
)
requests = st.builds(
    lambda resources: ExportTraceServiceRequest(resource_spans=resources),
    st.lists(
        st.builds(
            ResourceSpans,
            resource=st.fixed_dictionaries({"attributes": attributes}),
            schema_url=text,
            scope_spans=st.lists(
                st.builds(
                    ScopeSpans,
                    scope=st.just(None) | st.fixed_dictionaries({"name": text, "attributes": attributes}),
                    spans=st.lists(spans, max_size=2),
                ),
                max_size=2,
            ),
        ),
        max_size=2,
    ),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
NAMES = ["resourceSpans", "scopeSpans", "spans", "attributes", "value", "traceId", "intValue", "arrayValue", "values"]
likely = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**65) | st.floats() | st.sampled_from(["", "00", "1", "NaN", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(requests)
def test_json_carries_what_protobuf_holds(request: ExportTraceServiceRequest) -> None:
    """Read from JSON, a request is the batch it is in protobuf: columns, bytes, contexts; and so are rejections."""
    body = request.SerializeToString(deterministic=True)
    from_protobuf, from_json = decode_request(body, peer="peer"), decode_json(encode_json(body), peer="peer")
    sent, read = from_protobuf.batch, from_json.batch
    assert from_json.rejected == from_protobuf.rejected
    told = from_protobuf.rejection.replace("resource_spans[", "resourceSpans[").replace("scope_spans[", "scopeSpans[")
    assert from_json.rejection == told
    assert read.payload.data == sent.payload.data
    assert read.payload.contexts == sent.payload.contexts
    for name, column in sent.columns.items():
        assert getattr(read.columns, name).tolist() == column.tolist()


@settings(max_examples=150, deadline=None)
@given(requests)
def test_json_is_protobufs_own_but_for_ids(request: ExportTraceServiceRequest) -> None:
    """What is written is what protobuf's json_format would write, with hex for base64 in ids."""
    own = json_format.MessageToDict(request, use_integers_for_enums=True)
    assert _comparable(json.loads(encode_json(request.SerializeToString()))) == _comparable(_with_hex_ids(own))


def _with_hex_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_hex_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    ids = ("traceId", "spanId", "parentSpanId")
    return {k: b64decode(v).hex() if k in ids else _with_hex_ids(v) for k, v in value.items()}


def _comparable(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@settings(max_examples=200, deadline=None)
@given(likely | anything)
def test_any_json_is_read_or_invalid(value: Any) -> None:
    """Never another exception, whatever stands where."""
    body = json.dumps(value).encode()
    try:
        batch = decode_json(body, peer="peer").batch
    except InvalidData as exc:
        assert ": " in str(exc)
    else:
        assert isinstance(value, dict)
        assert len(batch) == 0 or "spans" in body.decode()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:0123456789eE.-ntrufals ', max_size=20).map(str.encode))
def test_any_bytes_are_read_or_invalid(body: bytes) -> None:
    """Never another exception."""
    try:
        decode_json(body, peer="peer")
    except InvalidData:
        return
    assert not body.strip() or isinstance(json.loads(body), dict)


@settings(max_examples=100, deadline=None)
@given(st.floats())
def test_doubles_go_there_and_back(number: float) -> None:
    """Bit by bit, but for the kinds of NaN."""
    request = ExportTraceServiceRequest(resource_spans=[{"resource": {"attributes": pairs({"a": number})}}])
    around = json.loads(encode_json(request.SerializeToString()))["resourceSpans"][0]
    around["scopeSpans"] = [{"spans": [{"attributes": [{"key": "req_seq", "value": {"intValue": 1}}]}]}]
    batch = decode_json(json.dumps({"resourceSpans": [around]}).encode(), peer="peer").batch
    read = ResourceSpans.FromString(batch.payload.contexts[0].resource_spans).resource.attributes[0].value.double_value
    assert math.isnan(read) if math.isnan(number) else read.hex() == number.hex()
