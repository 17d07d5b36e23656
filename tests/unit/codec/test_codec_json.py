"""OTLP/JSON, duty by duty: what is read, what is refused and where, what is written."""

import json
import math
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from bridge.codec.otlp_json import decode_json, encode_json
from bridge.codec.otlp_protobuf import decode_request
from bridge.errors import InvalidData
from tests.support.espans import ORDINARY_IDS, espan_of, pairs, request_of, span_of

IDS = {"traceId": "0102030405060708090a0b0c0d0e0f10", "spanId": "0102030405060708"}
ESPAN = {"attributes": [{"key": "req_seq", "value": {"intValue": "1"}}]}


def body_of(*spans: Any, **resource_spans: Any) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}], **resource_spans}]}).encode()


def span_from(span: dict[str, Any]) -> Span:
    """The protobuf of an eSpan with these fields."""
    payload = decode_json(body_of({**ESPAN, **span}), peer="peer").batch.payload
    return Span.FromString(payload.span(0))


def value_from(value: str) -> Any:
    """What an attribute's value, written as JSON text, is in protobuf."""
    body = body_of({"attributes": [{"key": "req_seq", "value": "HERE"}]}).replace(b'"HERE"', value.encode())
    (attribute,) = Span.FromString(decode_json(body, peer="peer").batch.payload.span(0)).attributes
    form = attribute.value.WhichOneof("value")
    return None if form is None else getattr(attribute.value, form)


def refusal_of(body: bytes) -> str:
    with pytest.raises(InvalidData) as caught:
        decode_json(body, peer="peer")
    return str(caught.value)


@pytest.mark.parametrize(
    "body", [b"{}", b' {"resourceSpans": []}\n', b'{"resourceSpans": null}', b'{"other": [1]}', b"", b" \r\n\t"]
)
def test_request_without_spans_is_read(body: bytes) -> None:
    """An empty object is an empty request."""
    assert len(decode_json(body, peer="peer").batch) == 0


def test_ids_are_hex_in_any_case() -> None:
    """traceId, spanId, parentSpanId of a span and the ids of its links."""
    link = {"traceId": "AB" * 16, "spanId": "cD" * 8}
    span = span_from({"traceId": "aF" * 16, "spanId": "Fa" * 8, "parentSpanId": "0B" * 8, "links": [link]})
    assert (span.trace_id, span.span_id, span.parent_span_id) == (b"\xaf" * 16, b"\xfa" * 8, b"\x0b" * 8)
    assert (span.links[0].trace_id, span.links[0].span_id) == (b"\xab" * 16, b"\xcd" * 8)


@pytest.mark.parametrize("key", ["traceId", "spanId", "parentSpanId"])
def test_empty_id_is_none(key: str) -> None:
    """The Collector writes an empty parentSpanId at roots."""
    assert span_from({key: ""}) == span_from({})


@pytest.mark.parametrize("bad", ["0", "0g", "AAECAwQFBgcICQoLDA0ODw==", "01 02", "ä", 5, ["01"]])
@pytest.mark.parametrize("key", ["traceId", "spanId", "parentSpanId"])
def test_id_that_is_no_hex_is_refused(key: str, bad: Any) -> None:
    """Base64, as a plain protobuf parser would have it, is refused too."""
    said = refusal_of(body_of({}, {key: bad}))
    assert said.startswith(f"resourceSpans[0].scopeSpans[0].spans[1].{key}: want pairs of hex digits, got ")


@pytest.mark.parametrize(
    "ids",
    [
        {"spanId": "01"},
        {"traceId": "", "spanId": "00" * 8},
        {"parentSpanId": "010203"},
        {"links": [{"traceId": "01"}]},
        {"links": [{"spanId": "00" * 16}]},
    ],
)
def test_ordinary_span_with_invalid_ids_is_refused_alone(ids: dict[str, str]) -> None:
    """As with protobuf; the place is told in JSON's names."""
    decoded = decode_json(body_of(IDS, {**IDS, **ids}), peer="peer")
    assert (len(decoded.batch), decoded.rejected) == (1, 1)
    assert decoded.rejection.startswith("resourceSpans[0].scopeSpans[0].spans[1]: ")


@pytest.mark.parametrize("sent", [3, "SPAN_KIND_CLIENT", 3.0], ids=repr)
def test_enums_are_numbers_or_names(sent: Any) -> None:
    """kind and status.code; OTLP/JSON prescribes numbers."""
    assert span_from({"kind": sent}).kind == Span.SPAN_KIND_CLIENT
    assert span_from({"status": {"code": "STATUS_CODE_ERROR"}}).status.code == 2


def test_enum_beyond_those_known_is_kept() -> None:
    """A newer sender's number passes."""
    assert span_from({"kind": 77}).kind == 77


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"9223372036854775807"', 2**63 - 1),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ('"-1"', -1),
        ('"007"', 7),
        ("1e3", 1000),
        ("9223372036854775807.0", 2**63 - 1),
        ("922337203685477580.7e1", 2**63 - 1),
    ],
)
def test_64_bit_integers_keep_every_digit(written: str, read: int) -> None:
    """As text or as a number, also in the forms of a number that is an integer."""
    assert value_from(f'{{"intValue": {written}}}') == read


@pytest.mark.parametrize(
    "written",
    [
        *('"x"', '""', '" 1"', '"1.5"', '"1_0"', '"٣"', "1.5", "1e-1", "true", "[]", "{}", "NaN"),
        *("9223372036854775808", '"-9223372036854775809"', "1e400", "1e999999999", "9" * 400),
    ],
)
def test_what_is_no_64_bit_integer_is_refused(written: str) -> None:
    """Nothing is rounded or cut."""
    body = body_of({"attributes": [{"key": "a", "value": {"intValue": "HERE"}}]}).replace(b'"HERE"', written.encode())
    said = refusal_of(body)
    assert said.startswith("resourceSpans[0].scopeSpans[0].spans[0].attributes[0].value.intValue: want an integer")
    assert len(said) < 250


@pytest.mark.parametrize(("key", "most"), [("startTimeUnixNano", 2**64 - 1), ("droppedLinksCount", 2**32 - 1)])
def test_unsigned_integers_have_their_own_bounds(key: str, most: int) -> None:
    """0 and the largest are read, what is beyond is refused."""
    for number in (0, most):
        assert decode_json(body_of({**ESPAN, key: str(number)}), peer="peer").rejected == 0
    for number in (-1, most + 1):
        assert f".spans[0].{key}: want an integer from 0 to {most}, got {number}" in refusal_of(body_of({key: number}))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *(('"Infinity"', math.inf), ('"-Infinity"', -math.inf), ("Infinity", math.inf), ("-Infinity", -math.inf)),
        *(("0.1", 0.1), ("1", 1.0), ('"1.5"', 1.5), ("1e308", 1e308), ("5e-324", 5e-324), ("-0.0", 0.0)),
    ],
)
def test_doubles(written: str, read: float) -> None:
    """Infinity as text, as OTLP has it, or as some libraries write it."""
    assert value_from(f'{{"doubleValue": {written}}}') == read


@pytest.mark.parametrize("written", ['"NaN"', "NaN"])
def test_nan_is_a_double(written: str) -> None:
    """As text, or as some libraries write it."""
    assert math.isnan(value_from(f'{{"doubleValue": {written}}}'))


@pytest.mark.parametrize("written", ['"x"', '"inf"', '""', "true", "[]", "1e309", "1e999999999", "9" * 400])
def test_what_is_no_double_is_refused(written: str) -> None:
    """Also what is too large for one."""
    body = body_of({"attributes": [{"value": {"doubleValue": "HERE"}}]}).replace(b'"HERE"', written.encode())
    assert ".attributes[0].value.doubleValue: want a number, got " in refusal_of(body)


@pytest.mark.parametrize("text", ["+/8=", "-_8=", "+/8", "-_8"])
def test_bytes_are_base64(text: str) -> None:
    """Standard or URL-safe, with padding or without."""
    assert value_from(json.dumps({"bytesValue": text})) == b"\xfb\xff"


@pytest.mark.parametrize("bad", ["+/8==", "a", "a b=", "=", "ä", 5])
def test_what_is_no_base64_is_refused(bad: Any) -> None:
    """Nothing is skipped."""
    said = refusal_of(body_of({"attributes": [{"value": {"bytesValue": bad}}]}))
    assert ".attributes[0].value.bytesValue: want base64, got " in said


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *(('{"stringValue": ""}', ""), ('{"boolValue": false}', False), ('{"intValue": 0}', 0)),
        *(("{}", None), ("null", None), ('{"stringValue": null}', None)),
        ('{"stringValue": "\\ud83d\\ude00"}', "\U0001f600"),
    ],
)
def test_values_are_there_even_if_empty(written: str, read: Any) -> None:
    """An empty text is a value; null is none."""
    assert value_from(written) == read


def test_arrays_and_lists_nest() -> None:
    """arrayValue and kvlistValue hold values of any form."""
    value = {"arrayValue": {"values": [{"kvlistValue": {"values": [{"key": "k", "value": {"intValue": 5}}]}}, {}]}}
    array = value_from(json.dumps(value))
    assert array.values[0].kvlist_value.values[0].value.int_value == 5
    assert array.values[1].WhichOneof("value") is None


def test_names_of_the_proto_are_read_too() -> None:
    """snake_case, as proto JSON allows."""
    body = {
        "resource_spans": [{"scope_spans": [{"spans": [{"trace_id": "01" * 16, "span_id": "02" * 8, "flags": 1}]}]}]
    }
    columns = decode_json(json.dumps(body).encode(), peer="peer").batch.columns
    assert columns.span_id.tolist() == [0x0202020202020202]


def test_unknown_names_are_ignored() -> None:
    """Whatever they hold, at any level."""
    other = {"later": {"traceId": 5, "deep": [None, {"x": 1e3}]}}
    body = json.loads(body_of({**IDS, **other, "attributes": [{"key": "a", **other, "value": other}]}, **other)) | other
    assert decode_json(json.dumps(body).encode(), peer="peer").rejected == 0


@pytest.mark.parametrize(
    ("span", "where", "what"),
    [
        ({"name": 5}, "name", "want text, got 5"),
        ({"name": True}, "name", "want text, got true"),
        ({"name": "\ud800"}, "name", "half of a surrogate pair, which is no text"),
        ({"attributes": {}}, "attributes", "want an array, got an object"),
        ({"attributes": "x" * 999}, "attributes", 'want an array, got "' + "x" * 59 + "..."),
        ({"attributes": [None]}, "attributes[0]", "want an object, got null"),
        ({"attributes": [{}, []]}, "attributes[1]", "want an object, got an array"),
        (
            {"attributes": [{"value": {"boolValue": "true"}}]},
            "attributes[0].value.boolValue",
            "want true or false, got ",
        ),
        ({"events": [{"timeUnixNano": "x"}]}, "events[0].timeUnixNano", 'want an integer, got "x"'),
        ({"links": [{}, {"spanId": "x"}]}, "links[1].spanId", 'want pairs of hex digits, got "x"'),
        (
            {"status": {"code": "BAD"}},
            "status.code",
            '"BAD" is none of STATUS_CODE_UNSET, STATUS_CODE_OK, STATUS_CODE_E',
        ),
        ({"status": 1}, "status", "want an object, got 1"),
    ],
)
def test_error_says_what_is_wrong_and_where(span: dict[str, Any], where: str, what: str) -> None:
    """The path of the value in the body, and what was wanted."""
    assert refusal_of(body_of({}, {}, {}, span)).startswith(f"resourceSpans[0].scopeSpans[0].spans[3].{where}: {what}")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\v", "request: no JSON: "),
        (b"{", "request: no JSON: "),
        (b"{} {}", "request: no JSON: "),
        (b"[]", "request: want an object, got an array"),
        (b"null", "request: want an object, got null"),
        (b'"x"', 'request: want an object, got "x"'),
        (b"1e5", "request: want an object, got 1E+5"),
        (b'{"\xff": 1}', "request: no UTF-8 at byte 2"),
        ("{}".encode("utf-16"), "request: no UTF-8 at byte 0"),
        (b"[" * 100_000, "request: nested too deep"),
        (b'{"x": ' * 100_000, "request: nested too deep"),
        (b'{"x": ' + b"9" * 5000 + b"}", "request: a number that is too long"),
        (b'{"x": 1e99999999999999999999}', "request: a number that is too long"),
        (b'{"resourceSpans": [{"resource": []}]}', "resourceSpans[0].resource: want an object, got an array"),
    ],
)
def test_body_that_is_no_request_is_refused(body: bytes, said: str) -> None:
    """With InvalidData, whatever it is."""
    assert refusal_of(body).startswith(said)


def nested(depth: int) -> bytes:
    value: dict[str, Any] = {"stringValue": "x"}
    for _ in range(depth):
        value = {"arrayValue": {"values": [value]}}
    return json.dumps({"resourceSpans": [{"resource": {"attributes": [{"key": "a", "value": value}]}}]}).encode()


def test_values_nest_as_deep_as_protobuf_reads() -> None:
    """100 messages inside one another are read, no more."""
    assert len(decode_json(nested(48), peer="peer").batch) == 0
    assert refusal_of(nested(49)).endswith("nested deeper than 100 messages")


def full_request() -> ExportTraceServiceRequest:
    """A request that has every field of a span."""
    span = espan_of(
        text="ä\n\u2028", flag=True, double=0.5, nan=math.nan, infinity=-math.inf, raw=b"\xfb\xff", none=None
    )
    span.MergeFrom(
        Span(
            **ORDINARY_IDS,
            trace_state="a=b",
            parent_span_id=b"p" * 8,
            flags=257,
            name="GET /",
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=2**64 - 1,
            end_time_unix_nano=1,
            dropped_attributes_count=2**32 - 1,
            events=[Span.Event(time_unix_nano=5, name="e", attributes=pairs({"a": -(2**63)}))],
            links=[Span.Link(trace_id=b"t" * 16, span_id=b"s" * 8, flags=1)],
        )
    )
    span.status.message, span.status.code = "no", 2
    scope = ScopeSpans(spans=[span, span_of(**ORDINARY_IDS)], schema_url="s")
    scope.scope.name, scope.scope.version = "ebpf", "1"
    around = ResourceSpans(scope_spans=[scope], schema_url="r")
    around.resource.attributes.extend(pairs({"service.name": "shop"}))
    return ExportTraceServiceRequest(resource_spans=[around])


def test_written_as_the_collectors_file_exporter_writes() -> None:
    """Hex ids, camelCase, enums as numbers, 64-bit integers as text, 32-bit ones as numbers; one line of UTF-8."""
    text = encode_json(full_request().SerializeToString())
    assert b"\n" not in text
    around = json.loads(text)["resourceSpans"][0]
    span = around["scopeSpans"][0]["spans"][0]
    values = {a["key"]: a["value"] for a in span.pop("attributes")}
    assert (values["text"], values["flag"]) == ({"stringValue": "ä\n\u2028"}, {"boolValue": True})
    assert (values["req_seq"], values["double"]) == ({"intValue": "11"}, {"doubleValue": 0.5})
    assert (values["nan"], values["infinity"]) == ({"doubleValue": "NaN"}, {"doubleValue": "-Infinity"})
    assert (values["raw"], values["none"]) == ({"bytesValue": "+/8="}, {})
    assert span == {
        **IDS,
        "traceState": "a=b",
        "parentSpanId": "70" * 8,
        "flags": 257,
        "name": "GET /",
        "kind": 2,
        "startTimeUnixNano": "18446744073709551615",
        "endTimeUnixNano": "1",
        "droppedAttributesCount": 2**32 - 1,
        "events": [
            {"timeUnixNano": "5", "name": "e", "attributes": [{"key": "a", "value": {"intValue": str(-(2**63))}}]}
        ],
        "links": [{"traceId": "74" * 16, "spanId": "73" * 8, "flags": 1}],
        "status": {"message": "no", "code": 2},
    }
    assert around["resource"] == {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    assert (around["schemaUrl"], around["scopeSpans"][0]["scope"]) == ("r", {"name": "ebpf", "version": "1"})


def test_json_and_protobuf_of_one_request_are_one_batch() -> None:
    """The same columns, digests included, the same bytes and contexts."""
    request = full_request().SerializeToString()
    sent, read = decode_request(request, peer="peer").batch, decode_json(encode_json(request), peer="peer").batch
    assert {name: column.tolist() for name, column in read.columns.items()} == {
        name: column.tolist() for name, column in sent.columns.items()
    }
    assert (read.payload.data, read.payload.contexts) == (sent.payload.data, sent.payload.contexts)


def test_empty_request_is_written_as_an_empty_object() -> None:
    """No spans, no keys."""
    assert encode_json(b"") == b"{}"


def test_unreadable_request_is_not_written() -> None:
    """InvalidData says where it cannot be read."""
    with pytest.raises(InvalidData, match=r"resource_spans\[1\]: "):
        encode_json(request_of(espan_of()) + b"\x0a\x01\xff")
