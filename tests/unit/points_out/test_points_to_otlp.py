"""What points are as OTLP spans: OpenTelemetry's semantic conventions."""

import re
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import semconv
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from bridge.codec.otlp_encode import encode_requests
from bridge.codec.points.mapping import DERIVED, MOVED
from bridge.codec.points.point_pb2 import PBPoint
from bridge.errors import InvalidData
from bridge.spans import Method
from tests.support.linked_points import agent_point, linked_points

NO_LIMIT = 1 << 62
Sent = str | int | None


def exported(*points: PBPoint | bytes, **decided: Any) -> list[ResourceSpans]:
    ((body, _),) = encode_requests(linked_points(*points, **decided), max_spans=NO_LIMIT, max_bytes=NO_LIMIT)
    return list(ExportTraceServiceRequest.FromString(body).resource_spans)


def span_of(**changed: Sent) -> Span:
    (resource,) = exported(agent_point(**changed))
    return resource.scope_spans[0].spans[0]


def attributes_of(**changed: Sent) -> dict[str, str | int]:
    """Texts and integers, by name; none is there twice."""
    pairs = [(p.key, getattr(p.value, str(p.value.WhichOneof("value")))) for p in span_of(**changed).attributes]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_http_request() -> None:
    """An HTTP request has the attributes of the conventions for HTTP, and its own keys where these have none."""
    attributes = attributes_of()
    assert {
        "http.request.method": "GET",
        "http.route": "/cart/items",
        "url.path": "/cart/items",
        "http.response.status_code": 200,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "process.pid": 4711,
        "process.executable.name": "shop-server",
        "thread.id": 4712,
        "thread.name": "worker-7",
    }.items() <= attributes.items()
    assert {"http_method", "http_route", "http_status_code", "service", "process_name", "resource"}.isdisjoint(
        attributes
    )


@pytest.mark.parametrize(
    ("operation", "wanted"),
    [
        ("HTTP2", {"network.protocol.name": "http", "network.protocol.version": "2"}),
        ("gRPC", {"rpc.system": "grpc", "rpc.system.name": "grpc"}),
        ("MySQL", {"db.system": "mysql", "db.system.name": "mysql"}),
        ("PostgreSQL", {"db.system": "postgresql", "db.system.name": "postgresql"}),
        ("Redis", {"db.system": "redis", "db.system.name": "redis"}),
        ("AMQP", {"network.protocol.name": "amqp", "messaging.system": "rabbitmq"}),
        ("Thrift", {}),
    ],
)
def test_protocols_are_systems(operation: str, wanted: dict[str, str]) -> None:
    """What a span is says the attribute of its conventions, under its old and its current name."""
    attributes = attributes_of(operation=operation, http_version=None)
    names = {"network.protocol.name", "network.protocol.version", "messaging.system"}
    found = {k: v for k, v in attributes.items() if k in names or ".system" in k}
    assert found == wanted
    assert attributes["operation"] == operation


def test_entry_is_a_server() -> None:
    """The probed process of an entry is the server, whoever it talks to the client."""
    attributes = attributes_of()
    assert span_of().kind == Span.SPAN_KIND_SERVER
    assert (attributes["server.address"], attributes["server.port"]) == ("10.0.0.17", 8080)
    assert (attributes["client.address"], attributes["client.port"]) == ("10.0.0.18", 41234)
    assert (attributes["network.peer.address"], attributes["network.peer.port"]) == ("10.0.0.18", 41234)


def test_exit_is_a_client() -> None:
    """The probed process of an exit is the client."""
    attributes = attributes_of(ebpf_span_type="exit", direction="outgoing")
    assert span_of(ebpf_span_type="exit", direction="outgoing").kind == Span.SPAN_KIND_CLIENT
    assert (attributes["client.address"], attributes["server.address"]) == ("10.0.0.17", "10.0.0.18")
    assert attributes["network.peer.address"] == "10.0.0.18"


@pytest.mark.parametrize(
    ("direction", "kind"),
    [("incoming", Span.SPAN_KIND_SERVER), ("outgoing", Span.SPAN_KIND_CLIENT), ("unknown", Span.SPAN_KIND_UNSPECIFIED)],
)
def test_direction_says_what_the_type_does_not(direction: str, kind: int) -> None:
    """Of an eSpan of unknown type the direction is asked; if that is unknown too nobody is server or client."""
    assert span_of(ebpf_span_type="unknown", direction=direction).kind == kind
    attributes = attributes_of(ebpf_span_type="unknown", direction=direction)
    assert ("server.address" in attributes) == (kind != Span.SPAN_KIND_UNSPECIFIED)
    assert attributes["network.peer.address"] == "10.0.0.18"


def test_times_are_in_ns() -> None:
    """Start and duration (us) are the span's own times."""
    span = span_of(start=1767225600000001, duration=1500)
    assert span.start_time_unix_nano == 1767225600000001000
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_500_000


@pytest.mark.parametrize(("start", "duration"), [(None, 5), (-1, 5), ("1", 5), (2**62, 5)])
def test_point_without_a_start_has_its_time(start: Sent, duration: int) -> None:
    """A start that is absent or cannot be one leaves the point's own time; the key stays as it was sent."""
    span = span_of(start=start, duration=duration)
    assert span.start_time_unix_nano == 1767225600000000000
    assert attributes_of(start=start, duration=duration).get("start") == start


@pytest.mark.parametrize("start", [1767225600000001, "1767225600000001", b"1767225600000001"])
def test_point_without_a_time_has_its_start(start: Any) -> None:
    """No span is of 1970 that says when it was; with neither its start is unset."""
    point = agent_point(start=start)
    point.time = 0
    (resource,) = exported(point)
    span = resource.scope_spans[0].spans[0]
    assert span.start_time_unix_nano == 1767225600000001000
    assert "datakit.point.time" not in {pair.key for pair in span.attributes}
    point = agent_point(start=None)
    point.time = 0
    (resource,) = exported(point)
    assert resource.scope_spans[0].spans[0].start_time_unix_nano == 0


def test_name_is_the_resource() -> None:
    """Without a resource the operation names a span."""
    assert span_of().name == "GET /cart/items"
    assert span_of(resource=None).name == "HTTP"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"http_status_code": "503"}, "503"),
        ({"http_status_code": None, "operation": "gRPC", "grpc_status_code": "14"}, "14"),
        ({"http_status_code": None, "operation": "MySQL", "err_code": "1146"}, "1146"),
        ({"http_status_code": "200", "grpc_status_code": "0"}, "_OTHER"),
    ],
)
def test_errors_have_status_and_type(changed: dict[str, Sent], error: str) -> None:
    """status error is the status of the span, with its text, and error.type names what is known best."""
    span = span_of(status="error", err_msg="no such table", **changed)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "no such table")
    assert attributes_of(status="error", **changed)["error.type"] == error


@pytest.mark.parametrize("status", ["ok", "warning", None])
def test_other_status_is_unset(status: str | None) -> None:
    """Only errors are for a probe to say; warning stays a key."""
    assert span_of(status=status).status == Status()
    assert "error.type" not in attributes_of(status=status)
    assert attributes_of(status=status).get("status") == status


def test_spans_of_one_service_and_host_share_a_resource() -> None:
    """A resource per service and host, with what a point says of it; a scope named after the measurement."""
    points = [agent_point(service=s, host="h", pod_name="p", pid=str(i)) for i, s in enumerate(["a", "b", "a"])]
    found = exported(*points)
    resources = [{p.key: p.value.string_value for p in r.resource.attributes} for r in found]
    assert resources == [{"service.name": s, "host.name": "h", "k8s.pod.name": "p"} for s in ("a", "b")]
    assert [len(r.scope_spans[0].spans) for r in found] == [2, 1]
    assert {r.scope_spans[0].scope.name for r in found} == {"dketrace"}


def test_what_linking_reads_stays_as_it_is() -> None:
    """Another bridge behind this one reads the keys of eSpans; what it would not need is the ids of the headers."""
    attributes = attributes_of()
    for key in (
        "ebpf_span_type",
        "direction",
        "req_seq",
        "resp_seq",
        "thread_trace_id",
        "pid",
        "tid",
        "ktime",
        "src_ip",
    ):
        assert key in attributes
    assert {"app_trace_id_l", "app_trace_id_h", "app_parent_id_l"}.isdisjoint(attributes)


def test_ids_are_put_in() -> None:
    """Ids and how the parent was found are as they are of OTLP eSpans."""
    (resource,) = exported(
        agent_point(), trace_hi=[1], trace_lo=[2], span_id=[3], parent_span_id=[4], method=[Method.SEQ]
    )
    span = resource.scope_spans[0].spans[0]
    assert (span.trace_id[7], span.trace_id[15], span.span_id[7], span.parent_span_id[7]) == (1, 2, 3, 4)
    assert ("espan.link.method", "seq") in [(p.key, p.value.string_value) for p in span.attributes]


@pytest.mark.parametrize("bad", [b"\x0a", b"\x12\x02\x0a\x05", b"\x12\x03\x0a\x01\xff", b"\x0a\x01\xff"])
def test_bytes_that_are_no_point_are_refused(bad: bytes) -> None:
    """A point that protobuf would not read is named."""
    with pytest.raises(InvalidData, match="span 1"):
        exported(agent_point(), bad)


def test_names_are_those_of_the_conventions() -> None:
    """Every attribute that is made is one that OpenTelemetry's own package knows."""
    files = Path(*semconv.__path__).rglob("*_attributes.py")
    known = {
        name for file in files for name in re.findall(r'Final = "([a-z0-9_.]+)"', file.read_text(encoding="utf-8"))
    }
    assert {*DERIVED, *(moved.attribute for moved in MOVED)} <= known
