"""What fuzzing begins with: real bodies, settings and answers, small ones."""

import gzip
import json
import zlib
from base64 import b64encode
from pathlib import Path

import lz4.block
import numpy as np
from backports import zstd
from google.protobuf import any_pb2
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from bridge.codec.otlp_json import decode_json, encode_json
from bridge.codec.points.point_pb2 import PBPoints
from bridge.receivers.compression import ENCODINGS
from bridge.spans.profiles import HEADERS
from bridge.store.packing import pack_arrays
from tests.support.agent import traffic
from tests.support.espans import ORDINARY_IDS, espan_of, request_of, span_of
from tests.support.point_bodies import Point, as_json, as_lines, as_pbjson, body_of, espan_point
from tests.support.senders import recorded_lines, simulated

ROOT = Path(__file__).resolve().parents[2]
NESTED = AnyValue(
    array_value=ArrayValue(
        values=[
            AnyValue(string_value="http://x/y?z"),
            AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="a", value=AnyValue(int_value=-7))])),
            AnyValue(bytes_value=b"\xff?"),
        ]
    )
)
POINTS = [
    Point(
        "dketrace",
        (("host", "h"), ("env", "é,= ")),
        (("ebpf_span_type", "entry"), ("req_seq", -5), ("x", 1.5)),
        time=10**18,
    ),
    Point(
        "m",
        (),
        (("direction", "incoming"), ("resp_seq", 2**64 - 1), ("s", 'a"b\\'), ("flag", True), ("d", b"\0")),
    ),
]
TEXT_POINTS = [POINTS[0], Point("m", (), POINTS[1].fields[:-1])]


def otlp_protobuf() -> list[bytes]:
    """Recorded, simulated and odd requests."""
    request, _ = simulated(0, 2, 10**18)
    everything = espan_of(src_ip="10.0.0.7", src_port=80, app_trace_id="1" * 32, a=NESTED, thread_name="t")
    everything.name = "GET /a?b"
    everything.events.add(name="e").attributes.add(key="http.url").value.string_value = "http://x/y?z"
    everything.links.add(trace_id=b"t" * 16, span_id=b"s" * 8).attributes.add(key="a").value.bool_value = True
    everything.status.message = "no"
    return [
        request_of(everything, span_of({"a": 2.5, "host.name": "h"}, **ORDINARY_IDS), resource={"host.name": "h"}),
        request_of(span_of({"http.url": NESTED}, span_id=b"x", trace_id=b"y")),
        *(message.SerializeToString()[:8000] for message in request[:1]),
        b"",
    ]


def otlp_json() -> list[bytes]:
    """The same in JSON, and as others write it."""
    made = [encode_json(body) for body in otlp_protobuf()[:2]]
    recorded = json.loads(recorded_lines("agent")[0])
    del recorded["resourceSpans"][1:]
    for scope in recorded["resourceSpans"][0]["scopeSpans"]:
        del scope["spans"][2:]
    span = b'{"traceId":"","kind":"SPAN_KIND_SERVER","startTimeUnixNano":"1"}'
    odd = b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + span + b"]}]}]}"
    decode_json(odd, peer="")
    return [*made, json.dumps(recorded).encode(), odd]


def points_protobuf() -> list[bytes]:
    """As agents send them, and with everything a point can have."""
    (bodies, *_) = traffic(2, start_ns=10**18).bodies.values()
    sent = PBPoints.FromString(bodies[0])
    odd = espan_point(d=b"\xff", f=0.5, b=True, u=2**64 - 1)
    odd.fields.add(key="any", a=any_pb2.Any(type_url="t", value=b"v"))
    odd.fields.add(key="src_ip", s="10.0.0.7", is_tag=True)
    odd.fields.add(key="src_ip", s="twice")
    return [PBPoints(arr=sent.arr[:2]).SerializeToString(), body_of(odd), b"\x03" + body_of(odd)]


def points_json() -> list[bytes]:
    return [as_json(TEXT_POINTS), b"\x02" + as_json(TEXT_POINTS), b"[]"]


def points_pbjson() -> list[bytes]:
    return [as_pbjson(POINTS), b'[{"name":"m","fields":[{"key":"k","u":"18446744073709551615"},{"key":"a","a":{}}]}]']


def line_protocol() -> list[bytes]:
    return [as_lines(TEXT_POINTS), b"\x03" + as_lines(TEXT_POINTS), b'm,a\\ b=c\\,d f="x\\"y\nz",g=1i,h=t 1\n# no\n']


def attributes() -> list[bytes]:
    """Messages behind a byte that says which."""
    spans = decode_json(otlp_json()[0], peer="").batch.payload
    around = spans.contexts[0]
    point = PBPoints.FromString(points_protobuf()[1]).arr[0].SerializeToString()
    return [b"\0" + spans.span(0), b"\1" + around.resource_spans, b"\2" + around.scope_spans, b"\3" + point]


def content_encoding() -> list[bytes]:
    """Bodies behind a byte that says how they are encoded; bombs, too."""
    number = {name: bytes([at]) for at, name in enumerate(ENCODINGS)}
    text, bomb = b"some text " * 20, bytes(3 << 20)
    return [
        number["gzip"] + gzip.compress(text),
        number["gzip"] + gzip.compress(text[:50]) * 3,
        number["gzip"] + gzip.compress(bomb),
        number["deflate"] + zlib.compress(text),
        number["zstd"] + zstd.compress(text),
        number["zstd"] + zstd.compress(bomb),
    ]


def headers() -> list[bytes]:
    """One header a line, in the order of bridge.spans.profiles.HEADERS."""
    skywalking = b64encode(b"1f2d4bf47bf711eab794acde48001122.1.2").decode()
    sent = [
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-request-id": "r"},
        {
            "x-datadog-trace-id": "12345678901234567890",
            "x-datadog-parent-id": "77",
            "x-datadog-sampling-priority": "1",
            "x-datadog-tags": "a=b,_dd.p.tid=640cfd8d00000000",
        },
        {"b3": "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"},
        {"x-b3-traceid": "463ac35c9f6413ad", "x-b3-spanid": "a2fb4a1d1a96d312", "x-b3-sampled": "1", "x-b3-flags": "1"},
        {"uber-trace-id": "3e7%3a1%3a0%3a1"},
        {"sw8": f"1-{skywalking}-{skywalking}-3-a-b-c-d"},
    ]
    return ["\n".join(texts.get(name, "") for name in HEADERS).encode() for texts in sent]


def config() -> list[bytes]:
    """The samples as they are, and with everything that is commented out."""
    samples = [path.read_bytes() for path in sorted((ROOT / "conf").glob("*.toml"))]
    small = b"""[attributes]
drop = ["z*"]
hash_key = "0123456789abcdef"
truncate = {"b" = 5}
[exporters.x]
type = "otlp_http"
endpoint = "http://h:1"
headers = {a = "b"}
[[inputs.ebpftrace]]
window = "1m5s"
"""
    return [*samples, (ROOT / "conf" / "ebpftrace.conf").read_bytes(), small]


def environment() -> list[bytes]:
    return [
        b"ENV_DATAWAY=https://h?token=tkn_1,http://u:p@g:80/x?token=tkn_2\nENV_INPUT_EBPFTRACE_WINDOW=20s\n"
        b"ENV_GLOBAL_HOST_TAGS=a=b,c=__datakit_ip\nENV_HTTP_LISTEN=0.0.0.0:9529",
        b"OTEL_EXPORTER_OTLP_ENDPOINT=http://h:4318/x\nOTEL_EXPORTER_OTLP_HEADERS=a=b%20c,d=e\nOTEL_EXPORTER_OTLP_TIMEOUT=10\n"
        b"ENV_INPUT_EBPFTRACE_SAMPLING_RATE=0.5\nENV_INPUT_EBPFTRACE_USE_APP_TRACE_ID=",
    ]


def profile() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "conf" / "profiles").glob("*.toml"))]


def answers() -> list[bytes]:
    """Header values, and messages of both kinds."""
    info, status = RetryInfo(), Status(code=8, message="slow down")
    info.retry_delay.FromMilliseconds(1500)
    status.details.add().Pack(info)
    partial = ExportTraceServiceResponse()
    partial.partial_success.rejected_spans = 3
    partial.partial_success.error_message = "no"
    dates = [b"Wed, 21 Oct 2026 07:28:00 GMT", b"120", b"9" * 400]
    return [*dates, status.SerializeToString(), partial.SerializeToString()]


def stored() -> list[bytes]:
    """Packed columns, and a block of LZ4 behind its size."""
    columns = [np.arange(5, dtype="u1"), np.array([7, 9], "u4"), np.array([-1, 2**40], "i8"), np.array([0.5])]
    raw = b"abc" * 60 + bytes(range(90))
    return [pack_arrays(columns), len(raw).to_bytes(2, "little") + lz4.block.compress(raw, store_size=False)]
