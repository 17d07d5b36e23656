"""What OTLP spans are as tracing points."""

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from bridge.codec.points import limits
from bridge.codec.points.encode import encode_points
from bridge.codec.points.point_pb2 import PBPoint
from bridge.errors import InvalidData
from bridge.spans import Context, Outcome, PayloadFormat
from tests.support.espans import ORDINARY_IDS, Attributes, espan_of, pairs, span_of
from tests.support.linked_points import block_of, linked_of, points_in, tags_of, values_of

NO_LIMIT = 1 << 62
PARENT = {"parent_span_id": b"parent 1"}
HTTP = {"http_method": "GET", "http_status_code": "200"}


def context_of(resource: Attributes = (), scope: Attributes = (), name: str = "") -> Context:
    resource_spans, scope_spans = ResourceSpans(), ScopeSpans()
    resource_spans.resource.attributes.extend(pairs(resource))
    scope_spans.scope.name = name
    scope_spans.scope.attributes.extend(pairs(scope))
    return Context(resource_spans.SerializeToString(), scope_spans.SerializeToString())


def point_of(span: Span | bytes, context: Context | None = None, *, outcome: Outcome, **decided: Any) -> PBPoint:
    raw = span if isinstance(span, bytes) else span.SerializeToString()
    block = block_of([raw], PayloadFormat.OTLP_SPAN, context or context_of())
    linked = linked_of(block, outcome=[outcome], **{name: [value] for name, value in decided.items()})
    ((body, _),) = encode_points(linked, max_bytes=NO_LIMIT, form="protobuf", global_tags={})
    (point,) = points_in(body)
    assert len({field.key for field in point.fields}) == len(point.fields)
    return point


def ordinary(attributes: Attributes = (), *, resource: Attributes = (), **fields: Any) -> PBPoint:
    return point_of(span_of(attributes, **{**ORDINARY_IDS, **fields}), context_of(resource), outcome=Outcome.PASS)


def of_espan(resource: Attributes = (), **attributes: Any) -> PBPoint:
    return point_of(espan_of(**attributes), context_of(resource), outcome=Outcome.EXPORT)


def message_of(point: PBPoint) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(values_of(point)["message"])
    return found


def test_ordinary_span_has_its_own_ids() -> None:
    """Ids in hex, as text fields; a root's parent is "0"."""
    values = values_of(ordinary(**PARENT))
    assert values["trace_id"] == ORDINARY_IDS["trace_id"].hex()
    assert values["span_id"] == ORDINARY_IDS["span_id"].hex()
    assert values["parent_id"] == b"parent 1".hex()
    assert values_of(ordinary())["parent_id"] == values_of(ordinary(parent_span_id=bytes(8)))["parent_id"] == "0"
    assert {"trace_id", "span_id", "parent_id"}.isdisjoint(tags_of(ordinary(**PARENT)))


def test_espan_has_the_ids_decided() -> None:
    """Whatever ids the sender set, an eSpan leaves with those of linking, and how its parent was found."""
    span = espan_of()
    span.trace_id, span.span_id = b"t" * 16, b"s" * 8
    point = point_of(span, outcome=Outcome.EXPORT, trace_lo=2, span_id=3, parent_span_id=4, method=1)
    values = values_of(point)
    ids = (values["trace_id"], values["span_id"], values["parent_id"], values["espan_link_method"])
    assert ids == ("0" * 31 + "2", "0" * 15 + "3", "0" * 15 + "4", "seq")


@pytest.mark.parametrize("value", [5, 2.5, True, b"\xff", "text"])
@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.EXPORT])
def test_keys_that_guance_takes_as_text_are_text_fields(outcome: Outcome, value: Any) -> None:
    """Whatever type an attribute of that name has, of ordinary spans and of eSpans."""
    names = ("resource", "trace_id", "span_id", "parent_id", "message")
    span = span_of(**ORDINARY_IDS) if outcome is Outcome.PASS else espan_of()
    span.attributes.extend(pairs(dict.fromkeys(names, value)))
    point = point_of(span, outcome=outcome)
    found = {field.key: (field.WhichOneof("val"), field.is_tag) for field in point.fields}
    assert {name: found[name] for name in names} == dict.fromkeys(names, ("s", False))


def test_the_resource_of_an_espan_is_its_attribute_as_text() -> None:
    """The span's name where the attribute has no value."""
    span = espan_of()
    span.name = "GET /"
    value = span.attributes.add(key="resource").value
    assert values_of(point_of(span, outcome=Outcome.EXPORT))["resource"] == "GET /"
    value.int_value = 5
    assert values_of(point_of(span, outcome=Outcome.EXPORT))["resource"] == "5"


def test_name_and_times() -> None:
    """resource is the span's name, start and duration are us, the point's time is the start in ns."""
    point = ordinary(name="GET /", start_time_unix_nano=1767225600000001999, end_time_unix_nano=1767225600001502000)
    values = values_of(point)
    assert (values["resource"], values["start"], values["duration"]) == ("GET /", 1767225600000001, 1500)
    assert (point.name, point.time) == ("opentelemetry", 1767225600000001999)
    assert values["operation"] == "GET /"


def test_times_that_cannot_be() -> None:
    """An end before the start is no negative duration; a start beyond int64 is cut, not wrapped."""
    point = ordinary(start_time_unix_nano=2**64 - 1, end_time_unix_nano=5)
    assert values_of(point)["duration"] == 0
    assert point.time == 2**63 - 1


def test_espan_without_own_times_has_its_attributes() -> None:
    """start and duration of an eSpan are read where the span has no times of its own."""
    point = of_espan(start="1767225600000000", duration=1500)
    values = values_of(point)
    assert (values["start"], values["duration"], point.time) == (1767225600000000, 1500, 1767225600000000000)
    assert "start" not in message_of(point).get("attributes", {})


def test_service_and_host_are_tags_of_the_resource() -> None:
    """What the resource says of a span is tags; attributes of the span go before those of the resource."""
    resource = {
        "service.name": "shop",
        "host.name": "h",
        "k8s.pod.name": "p",
        "service.version": "1",
        "container.name": "c",
    }
    tags = tags_of(ordinary({"service.name": "own"}, resource=resource))
    assert {
        "service": "own",
        "host": "h",
        "pod_name": "p",
        "version": "1",
        "container_host": "c",
    }.items() <= tags.items()
    assert message_of(ordinary({"service.name": "own"}, resource=resource))["resource"] == {"service.name": "shop"}
    assert tags_of(ordinary())["service"] == "unknown_service"


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        (
            {"http.request.method": "GET", "http.response.status_code": 200},
            {"http_method": "GET", "http_status_code": "200"},
        ),
        ({"http.method": "GET", "http.status_code": 200}, {"http_method": "GET", "http_status_code": "200"}),
        ({"db.system.name": "mysql", "db.namespace": "d"}, {"db_system": "mysql", "db_name": "d"}),
        ({"db.system": "mysql", "server.address": "h"}, {"db_system": "mysql", "db_host": "h"}),
        ({"rpc.system": "grpc", "rpc.grpc.status_code": 5}, {"rpc_system": "grpc", "grpc_status_code": "5"}),
        ({"messaging.system": "kafka"}, {"messaging_system": "kafka"}),
        ({"error.type": "x", "db.query.text": "select 1"}, {}),
    ],
)
def test_attributes_become_keys(attributes: Attributes, wanted: dict[str, str]) -> None:
    """Old and current names of the conventions come to one key; what became a key is not in message."""
    point = ordinary(attributes)
    assert wanted.items() <= tags_of(point).items()
    assert "attributes" not in message_of(point)


@pytest.mark.parametrize(
    ("attributes", "kind", "source_type"),
    [
        ({"db.system": "mysql"}, Span.SPAN_KIND_CLIENT, "db"),
        ({"db.system.name": "redis"}, Span.SPAN_KIND_CLIENT, "cache"),
        ({"messaging.system": "kafka"}, Span.SPAN_KIND_PRODUCER, "message_queue"),
        ({"rpc.system": "grpc"}, Span.SPAN_KIND_SERVER, "framework"),
        ({"http.method": "GET"}, Span.SPAN_KIND_CLIENT, "web"),
        ({}, Span.SPAN_KIND_SERVER, "app"),
        ({}, Span.SPAN_KIND_INTERNAL, "custom"),
    ],
)
def test_source_type_is_what_the_span_is(attributes: Attributes, kind: int, source_type: str) -> None:
    """The system it talks to says it, else its kind."""
    assert tags_of(ordinary(attributes, kind=kind))["source_type"] == source_type


@pytest.mark.parametrize(
    ("kind", "span_kind", "span_type"),
    [
        (Span.SPAN_KIND_UNSPECIFIED, "unspecified", "unknown"),
        (Span.SPAN_KIND_INTERNAL, "internal", "local"),
        (Span.SPAN_KIND_SERVER, "server", "entry"),
        (Span.SPAN_KIND_CLIENT, "client", "exit"),
        (Span.SPAN_KIND_PRODUCER, "producer", "exit"),
        (Span.SPAN_KIND_CONSUMER, "consumer", "entry"),
        (77, "unspecified", "unknown"),
    ],
)
def test_kinds(kind: int, span_kind: str, span_type: str) -> None:
    """span_kind is the kind's name; span_type the side it is on, entry at a root."""
    tags = tags_of(ordinary(kind=kind, **PARENT))
    assert (tags["span_kind"], tags["span_type"]) == (span_kind, span_type)
    assert tags_of(ordinary(kind=kind))["span_type"] == "entry"


@pytest.mark.parametrize(
    ("code", "status"),
    [(Status.STATUS_CODE_UNSET, "ok"), (Status.STATUS_CODE_OK, "ok"), (Status.STATUS_CODE_ERROR, "error")],
)
def test_status(code: Any, status: str) -> None:
    """Unset and ok are ok."""
    assert tags_of(ordinary(status=Status(code=code)))["status"] == status


def test_exception_event_is_the_error() -> None:
    """type, message and stack of the last exception event are fields; what else events say is in message."""
    events = [
        Span.Event(name="exception", attributes=pairs({"exception.type": "First"})),
        Span.Event(
            name="exception",
            time_unix_nano=5,
            attributes=pairs(
                {"exception.type": "E", "exception.message": "m", "exception.stacktrace": "s", "escaped": True}
            ),
        ),
        Span.Event(name="sent", attributes=pairs({"bytes": 7})),
    ]
    point = ordinary({"error.type": "own"}, events=events, status=Status(code=Status.STATUS_CODE_ERROR, message="text"))
    values = values_of(point)
    assert (values["error_message"], values["error_stack"]) == ("m", "s")
    assert values["error_type"] == "own"
    assert values_of(ordinary(events=events))["error_type"] == "E"
    assert message_of(point)["events"] == [
        {"name": "exception", "attributes": {"exception.type": "First"}},
        {"name": "exception", "time": 5, "attributes": {"escaped": True}},
        {"name": "sent", "attributes": {"bytes": 7}},
    ]


def test_text_of_an_error_status_is_its_message() -> None:
    """Without an exception event the status says what was wrong."""
    point = ordinary(status=Status(code=Status.STATUS_CODE_ERROR, message="deadline"))
    assert values_of(point)["error_message"] == "deadline"


def test_message_holds_what_has_no_key() -> None:
    """Attributes of every type, the scope, links and all else of a span are JSON; nothing empty is."""
    attributes: Attributes = {
        "custom.list": AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1), AnyValue(string_value="ü")])),
        "custom.map": AnyValue(kvlist_value=KeyValueList(values=pairs({"a": 1.5}))),
        "custom.bytes": b"\x00\xff",
        "custom.nan": float("nan"),
        "custom.none": None,
        "custom.false": False,
    }
    link = Span.Link(trace_id=b"\x01" * 16, span_id=b"\x02" * 8, attributes=pairs({"k": "v"}))
    span = span_of(attributes, **ORDINARY_IDS, links=[link], trace_state="a=1", flags=1, dropped_events_count=2)
    context = context_of({"custom.resource": 1}, {"s": "t"}, "lib")
    assert message_of(point_of(span, context, outcome=Outcome.PASS)) == {
        "attributes": {
            "custom.list": [1, "ü"],
            "custom.map": {"a": 1.5},
            "custom.bytes": "AP8=",
            "custom.nan": "nan",
            "custom.none": None,
            "custom.false": False,
        },
        "resource": {"custom.resource": 1},
        "scope": {"name": "lib", "attributes": {"s": "t"}},
        "links": [{"trace_id": "01" * 16, "span_id": "02" * 8, "attributes": {"k": "v"}}],
        "trace_state": "a=1",
        "flags": 1,
        "dropped": {"events": 2},
    }
    assert message_of(ordinary()) == {}


def test_espan_keeps_its_keys() -> None:
    """Keys of the convention, and any other without a dot, are fields of the same type; tags of points are tags."""
    point = of_espan(
        {"host.name": "h"},
        service="shop",
        operation="HTTP",
        status="warning",
        tid=7,
        mysql_rows=1.5,
        note="n",
        **{"a.b": 1},
    )
    values, tags = values_of(point), tags_of(point)
    assert point.name == "dketrace"
    wanted = {
        "ebpf_span_type": "entry",
        "direction": "incoming",
        "req_seq": 11,
        "tid": 7,
        "mysql_rows": 1.5,
        "note": "n",
    }
    assert wanted.items() <= values.items()
    assert wanted.keys().isdisjoint(tags)
    assert {"service": "shop", "operation": "HTTP", "status": "warning", "host": "h"}.items() <= tags.items()
    assert (tags["span_type"], tags["source_type"], tags["source"]) == ("entry", "ebpf", "dketrace")
    assert message_of(point)["attributes"] == {"a.b": 1}


def test_espan_loses_the_halves_of_header_ids() -> None:
    """They are in no field and not in message."""
    point = of_espan(app_trace_id_l=1, app_trace_id_h=2, app_parent_id_l=3, app_trace_id="7")
    assert values_of(point)["app_trace_id"] == "7"
    assert "app_trace_id_l" not in values_of(point)
    assert "attributes" not in message_of(point)


def test_attributes_of_ordinary_spans_are_no_keys_by_themselves() -> None:
    """A span of an instrumented service may call its attributes what it likes: they are in message."""
    point = ordinary({"status": "weird", "note": "n"})
    assert tags_of(point)["status"] == "ok"
    assert message_of(point)["attributes"] == {"status": "weird", "note": "n"}


def test_long_tag_becomes_a_field() -> None:
    """A tag has 1024 bytes at most, counted in UTF-8; what is longer is a field, whole."""
    fits, long = "ü" * 512, "ü" * 512 + "x"
    assert tags_of(ordinary({"http.route": fits}))["http_route"] == fits
    point = ordinary({"http.route": long})
    assert "http_route" not in tags_of(point)
    assert values_of(point)["http_route"] == long


def test_long_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field has a limit, too; text is cut to whole characters, message to the names of what it held."""
    monkeypatch.setattr(limits, "MAX_FIELD_VALUE_BYTES", 1001)
    point = ordinary({"db.query.text": "ü" * 600, "custom": "x" * 2000})
    assert values_of(point)["db_statement"] == "ü" * 500
    assert message_of(point) == {"cut": True, "held": ["attributes"]}


def test_attributes_beyond_what_a_point_may_have_go_into_message() -> None:
    """Names that are too long, and more attributes than fields, are no keys."""
    many = {f"k{i}": i for i in range(2000)}
    point = of_espan(**many, **{"n" * 257: "long"})
    assert len(point.fields) <= limits.MAX_FIELDS
    kept = {key: value for key, value in values_of(point).items() if key in many}
    held = message_of(point)["attributes"]
    assert held.pop("n" * 257) == "long"
    assert {**kept, **held} == many
    assert kept
    assert held


def test_span_that_was_a_point_keeps_what_others_added() -> None:
    """What somebody on the way added to a point's span is fields; what he added to its resource is tags."""
    context = context_of({"service.name": "shop", "k8s.node.name": "n"}, {"datakit.point": 1}, "dketrace")
    span = espan_of(**{"added.by": "collector"})
    values = values_of(point_of(span, context, outcome=Outcome.EXPORT))
    assert values["added.by"] == "collector"
    assert tags_of(point_of(span, context, outcome=Outcome.EXPORT)) == {"k8s_node_name": "n"}
    assert values["service"] == "shop"


@pytest.mark.parametrize("bad", [b"\x0a", b"\x2a\x01\xff", b"\x4a\x02\x0a\x05"])
@pytest.mark.parametrize("outcome", [Outcome.EXPORT, Outcome.PASS])
def test_bytes_that_are_no_span_are_refused(bad: bytes, outcome: Outcome) -> None:
    """Also those of ordinary spans, which are read here."""
    with pytest.raises(InvalidData, match="span 0"):
        point_of(bad, outcome=outcome)


def test_rest_that_is_no_point_is_refused() -> None:
    """A span that says it was a point, but brings a rest that is none."""
    context = context_of((), {"datakit.point": 1}, "dketrace")
    with pytest.raises(InvalidData, match=r"span 0: datakit\.point\.rest"):
        point_of(espan_of(**{"datakit.point.rest": b"\x0a"}), context, outcome=Outcome.EXPORT)


def test_every_key_is_documented() -> None:
    """What a tracing point may have is on the page."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "datakit-mapping.md").read_text(encoding="utf-8")
    events = [Span.Event(name="exception", attributes=pairs({"exception.type": "E", "exception.stacktrace": "s"}))]
    error = Status(code=Status.STATUS_CODE_ERROR, message="m")
    point = ordinary({"db.system": "mysql", "server.address": "h"}, events=events, status=error, name="n")
    assert {"error_type", "error_message", "error_stack", "db_host", "message"} <= values_of(point).keys()
    assert all(f"`{key}`" in page for key in values_of(point))


@pytest.mark.parametrize(
    ("kind", "side"),
    [(Span.SPAN_KIND_CLIENT, "exit"), (Span.SPAN_KIND_SERVER, "entry"), (Span.SPAN_KIND_UNSPECIFIED, "unknown")],
)
def test_side_of_an_espan_that_says_it_otherwise(kind: "Span.SpanKind", side: str) -> None:
    """Of an agent with names of its own the kind says it, also at a root."""
    point = point_of(span_of({"agent.side": "c"}, kind=kind), outcome=Outcome.EXPORT)
    assert tags_of(point)["span_type"] == side
