"""What a key of a point is as an OTLP attribute, and the other way round: both tables, in this place alone.

docs/datakit-mapping.md is the same for people; a test compares them. The first table (`MOVED`, `DERIVED`, `NOTES`) can
be walked back: a point that became an OTLP span becomes the same point again. The second (`KEYS`) is one-way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from bridge.spans import convention

EBPF_MEASUREMENT: Final = "dketrace"
OTLP_MEASUREMENT: Final = "opentelemetry"

REPLACED_KEYS: Final = frozenset(
    (
        b"app_trace_id_l",
        b"app_trace_id_h",
        b"app_parent_id_l",
        b"span_id",
        b"trace_id",
        b"parent_id",
        b"ebpf_trace_id",
        b"ebpf_parent_id",
        b"espan_link_method",
        b"espan.link.method",
        b"espan_link_confidence",
        b"espan.link.confidence",
        b"espan_clock_reference",
        b"espan.clock.reference",
        b"espan_clock_offset_ns",
        b"espan.clock.offset_ns",
        b"espan_clock_uncertainty_ns",
        b"espan.clock.uncertainty_ns",
    )
)
"""Fields that the point of an eSpan does not keep; the kernel knows them too."""

DECIDED_KEYS: Final = frozenset(
    (
        "span_id",
        "trace_id",
        "parent_id",
        "ebpf_trace_id",
        "ebpf_parent_id",
        "espan_link_method",
        "espan_link_confidence",
        "espan_clock_reference",
        "espan_clock_offset_ns",
        "espan_clock_uncertainty_ns",
    )
)
"""Fields that linking writes."""

SPAN_LINKS: Final = "span_links"
"""The field of a point that holds the links it carries."""

# --- points to OTLP spans, and back -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moved:
    """A key that leaves under another name, and comes back under its own."""

    key: str
    attribute: str
    where: Literal["resource", "span"]
    form: Literal["text", "number"] = "text"
    """text: a text stays one. number: decimal text, or an integer, becomes an integer. Other values are not moved."""


MOVED: Final = (
    Moved("service", "service.name", "resource"),
    Moved("version", "service.version", "resource"),
    Moved("env", "deployment.environment.name", "resource"),
    Moved("host", "host.name", "resource"),
    Moved("container_host", "container.name", "resource"),
    Moved("pod_name", "k8s.pod.name", "resource"),
    Moved("pod_namespace", "k8s.namespace.name", "resource"),
    Moved("cluster_name_k8s", "k8s.cluster.name", "resource"),
    Moved("process_name", "process.executable.name", "span"),
    Moved("thread_name", "thread.name", "span"),
    Moved("http_method", "http.request.method", "span"),
    Moved("http_route", "http.route", "span"),
    Moved("http_status_code", "http.response.status_code", "span", "number"),
    Moved("grpc_status_code", "rpc.response.status_code", "span"),
)

PARTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "resource": "name",
        "start": "start_time_unix_nano",
        "duration": "end_time_unix_nano, less the start",
    }
)
"""Keys that are parts of a span, by key: text, and times that ns can hold. Other values stay attributes."""

DERIVED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "process.pid": "`pid`, where it is a number",
        "thread.id": "`tid`, where it is a number",
        "url.path": "`http_route`, where it begins with a slash",
        "network.protocol.name": "`operation`: http, amqp",
        "network.protocol.version": "`http_version` without `HTTP/`, else 2 where `operation` is HTTP2",
        "rpc.system": "`operation` gRPC: grpc",
        "rpc.system.name": "the same; the current name of `rpc.system`",
        "db.system": "`operation` MySQL, PostgreSQL, Redis: mysql, postgresql, redis",
        "db.system.name": "the same; the current, stable name of `db.system`",
        "messaging.system": "`operation` AMQP: rabbitmq",
        "network.peer.address": "`dst_ip`",
        "network.peer.port": "`dst_port`",
        "server.address": "`src_ip` of an entry, `dst_ip` of an exit",
        "server.port": "`src_port` of an entry, `dst_port` of an exit",
        "client.address": "`dst_ip` of an entry, `src_ip` of an exit",
        "client.port": "`dst_port` of an entry, `src_port` of an exit",
        "error.type": "where `status` is error: the HTTP status from 400 on, else the gRPC status but 0, else "
        "`err_code`, else _OTHER",
    }
)
"""Attributes that a span is given besides the keys they are made of, by name; they are left out on the way back."""

TAGS: Final = "datakit.point.tags"
UNSIGNED: Final = "datakit.point.unsigned"
INTEGERS: Final = "datakit.point.integers"
WITHOUT: Final = "datakit.point.without"
TIME: Final = "datakit.point.time"
REST: Final = "datakit.point.rest"
NOTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        TAGS: "names of the keys that are tags",
        UNSIGNED: "names of the keys whose numbers are unsigned; beyond int64 they are decimal text",
        INTEGERS: "names of the keys that became a number and were none in text",
        WITHOUT: "keys of the parts above that the point has not, or has in another form under their own name",
        TIME: "the point's time (ns) where that is not the start of the span",
        REST: "bytes: a PBPoint of whatever has no form in OTLP: fields of type Any, without a value, with a metric "
        "type or a unit, given twice, or named like an attribute of these tables; warns, debugs, unknown fields",
    }
)
"""What a span says about the point it was, where that is not what is usual."""

POINT_SCOPE: Final = "datakit.point"
"""Attribute of the scope around spans that were points: the version of this mapping. The scope's name is the
measurement."""
MAPPING_VERSION: Final = 1

SYSTEMS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "HTTP": {"network.protocol.name": "http"},
        "HTTP2": {"network.protocol.name": "http", "network.protocol.version": "2"},
        "gRPC": {"rpc.system": "grpc", "rpc.system.name": "grpc"},
        "MySQL": {"db.system": "mysql", "db.system.name": "mysql"},
        "PostgreSQL": {"db.system": "postgresql", "db.system.name": "postgresql"},
        "Redis": {"db.system": "redis", "db.system.name": "redis"},
        "AMQP": {"network.protocol.name": "amqp", "messaging.system": "rabbitmq"},
    }
)
"""What an `operation` says, as attributes."""

# --- OTLP spans to points ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a tracing point, and the attributes it is taken from: the first that is there, of the span before the
    resource."""

    key: str
    attributes: tuple[str, ...]
    is_tag: bool = True
    """Tags are text. A field keeps the type of its attribute."""


KEYS: Final = (
    Key("service", ("service.name", "service")),
    Key("version", ("service.version",)),
    Key("env", ("deployment.environment.name", "deployment.environment")),
    Key("project", ("project", "service.namespace")),
    Key("host", ("host.name",)),
    Key("pid", ("process.pid",)),
    Key("process_name", ("process.executable.name",)),
    Key("thread_name", ("thread.name",)),
    Key("container_host", ("container.name",)),
    Key("pod_name", ("k8s.pod.name",)),
    Key("pod_namespace", ("k8s.namespace.name",)),
    Key("node_name", ("k8s.node.name",)),
    Key("cluster_name_k8s", ("k8s.cluster.name",)),
    Key("http_method", ("http.request.method", "http.method")),
    Key("http_route", ("http.route",)),
    Key("http_status_code", ("http.response.status_code", "http.status_code")),
    Key("http_url", ("url.full", "http.url"), is_tag=False),
    Key("url_path", ("url.path", "http.target"), is_tag=False),
    Key("grpc_status_code", ("rpc.response.status_code", "rpc.grpc.status_code")),
    Key("rpc_system", ("rpc.system.name", "rpc.system")),
    Key("rpc_service", ("rpc.service",)),
    Key("rpc_method", ("rpc.method",)),
    Key("db_system", ("db.system.name", "db.system")),
    Key("db_name", ("db.namespace", "db.name")),
    Key("db_operation", ("db.operation.name", "db.operation")),
    Key("db_collection", ("db.collection.name", "db.sql.table")),
    Key("db_statement", ("db.query.text", "db.statement"), is_tag=False),
    Key("messaging_system", ("messaging.system",)),
    Key("messaging_destination", ("messaging.destination.name", "messaging.destination")),
    Key("messaging_operation", ("messaging.operation.name", "messaging.operation.type", "messaging.operation")),
    Key("server_address", ("server.address", "net.peer.name")),
    Key("server_port", ("server.port", "net.peer.port")),
    Key("client_address", ("client.address", "http.client_ip")),
    Key("network_peer_address", ("network.peer.address", "net.sock.peer.addr")),
    Key("network_peer_port", ("network.peer.port", "net.sock.peer.port")),
    Key("error_type", ("error.type",), is_tag=False),
)
"""Besides, an eSpan keeps each attribute of its own whose name has no dot: as a tag if it is in `ESPAN_TAGS`, else as a
field."""

ESPAN_TAGS: Final = frozenset(
    (
        convention.SERVICE,
        convention.OPERATION,
        convention.STATUS,
        convention.SPAN_TYPE,
        convention.SOURCE_TYPE,
        *(key.key for key in KEYS if key.is_tag),
    )
)

MESSAGE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "attributes": "attributes of the span that are no key",
        "resource": "attributes of the resource that are no key",
        "scope": "name, version and attributes of the scope",
        "events": "name, time (ns) and attributes of each event, but for what error_* hold of an exception",
        "links": "trace_id, span_id, trace_state and attributes of each link",
        "trace_state": "text",
        "flags": "number",
        "status_message": "text of the status",
        "dropped": "how many attributes, events and links the SDK dropped",
        "schema_url": "of the resource and of the scope",
        "cut": "true where the message would be larger than a field may be; only the names of what it held are left",
    }
)
"""What `message` holds, by key of its JSON; what is empty is left out."""
