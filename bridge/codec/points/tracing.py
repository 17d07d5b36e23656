"""OTLP spans that never were points, to tracing points: the second table of `bridge.codec.points.mapping`."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bridge.codec.points import limits, mapping
from bridge.codec.points.mapping import ESPAN_TAGS, KEYS, REPLACED_KEYS, SPAN_LINKS
from bridge.codec.points.otlp_values import Attributes, Scalar, as_text, by_key, scalar, there, to_json
from bridge.codec.points.point_writer import PointWriter
from bridge.codec.points.restoring import unsigned
from bridge.spans import convention

_MAX_NS: Final = 2**63 - 1
_FIELDS_BESIDE: Final = 64
"""So many fields are kept free for what is not an attribute."""
_REPLACED: Final = frozenset(key.decode() for key in REPLACED_KEYS)
_TAGS: Final = frozenset((*ESPAN_TAGS, "span_kind", "source", "db_host"))
_SPAN_TIMES: Final = frozenset((convention.START, convention.DURATION))
_UNNAMED: Final = "unnamed"
_OURS: Final = frozenset(("", "message", SPAN_LINKS))
"""What no attribute of an eSpan may be for a key of its own."""
_RESOURCE: Final = "resource"
_CACHES: Final = frozenset(("redis", "memcached"))
_SPAN_TYPES: Final[Mapping[int, str]] = {
    Span.SPAN_KIND_SERVER: "entry",
    Span.SPAN_KIND_CONSUMER: "entry",
    Span.SPAN_KIND_CLIENT: "exit",
    Span.SPAN_KIND_PRODUCER: "exit",
    Span.SPAN_KIND_INTERNAL: "local",
}
_SPAN_KINDS: Final[Mapping[int, str]] = {
    Span.SPAN_KIND_INTERNAL: "internal",
    Span.SPAN_KIND_SERVER: "server",
    Span.SPAN_KIND_CLIENT: "client",
    Span.SPAN_KIND_PRODUCER: "producer",
    Span.SPAN_KIND_CONSUMER: "consumer",
}
_ERROR_KEYS: Final[Mapping[str, str]] = {
    "error_type": "exception.type",
    "error_message": "exception.message",
    "error_stack": "exception.stacktrace",
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What surrounds a span."""

    resource: Attributes
    scope: Mapping[str, Any]
    """As `message` holds it."""
    schema_url: str
    measurement: str | None
    """Of spans that were points; of all others None."""


def tracing_point(span: Span, attributes: Attributes, around: Surroundings, *, is_espan: bool) -> PointWriter:
    """A tracing point without ids: keys by table, times, what the span is, and all else in `message`.

    attributes: those of the span; what becomes a key is taken out of them.
    """
    writer = PointWriter(mapping.EBPF_MEASUREMENT if is_espan else mapping.OTLP_MEASUREMENT)
    resource = dict(around.resource)
    times = {name: scalar(attributes[name]) for name in _SPAN_TIMES if name in attributes}
    if is_espan:
        _take_own(writer, attributes)
    _take_named(writer, attributes, resource)
    error, events = _exception(span)
    for key, value in {**_identity(writer, span, is_espan), **error}.items():
        if key not in writer.values and value:
            writer.add(key, value, is_tag=key in _TAGS)
    _add_times(writer, span, times)
    writer.add("message", _message(span, around, attributes, resource, events))
    return writer


def _take_own(writer: PointWriter, attributes: Attributes) -> None:
    """Attributes of an eSpan that keep their name."""
    for name, value in [*attributes.items()]:
        fate = _fate(name) if len(name) <= limits.MAX_KEY_BYTES else _Fate.MESSAGE
        if fate is not _Fate.NONE and len(writer.values) >= limits.MAX_FIELDS - _FIELDS_BESIDE:
            continue
        if fate is not _Fate.MESSAGE and (
            fate is _Fate.NONE or writer.add(name, _own(name, scalar(value)), is_tag=fate is _Fate.TAG)
        ):
            del attributes[name]


def _own(name: str, value: Scalar) -> Scalar:
    """The value as it is, but `resource` as text: Guance takes it as a text field only."""
    return as_text(value) if name == _RESOURCE and value is not None else value


class _Fate(Enum):
    """Where an attribute of an eSpan goes."""

    NONE = auto()
    TAG = auto()
    FIELD = auto()
    MESSAGE = auto()


@lru_cache(maxsize=1 << 12)
def _fate(name: str) -> _Fate:
    if name in _REPLACED or name in _SPAN_TIMES:
        return _Fate.NONE
    if name in _OURS or "." in name or len(name.encode()) > limits.MAX_KEY_BYTES:
        return _Fate.MESSAGE
    return _Fate.TAG if name in _TAGS else _Fate.FIELD


def _take_named(writer: PointWriter, attributes: Attributes, resource: Attributes) -> None:
    """The keys in `KEYS`."""
    for key in KEYS:
        if key.key in writer.values:
            continue
        for name in key.attributes:
            owner = attributes if name in attributes else resource
            if name in owner and writer.add(key.key, scalar(owner[name]), is_tag=key.is_tag):
                del owner[name]
                break


def _identity(writer: PointWriter, span: Span, is_espan: bool) -> dict[str, str]:
    """What the span is, in the keys that every tracing point has."""
    found = {key: value for key, value in writer.values.items() if isinstance(value, str)}
    is_error = span.status.code == Status.STATUS_CODE_ERROR
    identity = {
        "service": "unknown_service",
        "operation": span.name or _UNNAMED,
        _RESOURCE: span.name or _UNNAMED,
        "status": "error" if is_error else "ok",
        "span_kind": _SPAN_KINDS.get(span.kind, "unspecified"),
        "source": writer.measurement,
    }
    if is_espan:
        side = found.get(convention.EBPF_SPAN_TYPE) or _SPAN_TYPES.get(span.kind, "unknown")
        identity |= {"span_type": side, "source_type": "ebpf"}
    else:
        identity |= {"span_type": _span_type(span), "source_type": _source_type(span, found)}
    if "db_system" in found:
        identity["db_host"] = found.get("server_address", "")
    return identity


def _span_type(span: Span) -> str:
    return "entry" if not any(span.parent_span_id) else _SPAN_TYPES.get(span.kind, "unknown")


def _source_type(span: Span, found: Mapping[str, str]) -> str:
    if "db_system" in found:
        return "cache" if found["db_system"] in _CACHES else "db"
    if "messaging_system" in found:
        return "message_queue"
    if "rpc_system" in found:
        return "framework"
    if "http_method" in found or "http_status_code" in found:
        return "web"
    return "app" if span.kind in (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER) else "custom"


def _exception(span: Span) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """error_* of the last exception event, and the events as `message` holds them."""
    error = {"error_message": span.status.message} if span.status.code == Status.STATUS_CODE_ERROR else {}
    last = max((i for i, event in enumerate(span.events) if event.name == "exception"), default=-1)
    events = []
    for i, event in enumerate(span.events):
        attributes = by_key(event.attributes)
        if i == last:
            for key, name in _ERROR_KEYS.items():
                if name in attributes:
                    error[key] = as_text(scalar(attributes.pop(name)))
        said = {"name": event.name, "time": event.time_unix_nano, "attributes": attributes}
        events.append(there({**said, "dropped": event.dropped_attributes_count}))
    return error, events


def _add_times(writer: PointWriter, span: Span, times: Mapping[str, Scalar]) -> None:
    """From the span's own times; from attributes of an eSpan that has none."""
    start_ns, end_ns = span.start_time_unix_nano, span.end_time_unix_nano
    start_us = start_ns // 1000 or _whole(times.get(convention.START))
    duration_us = (end_ns - start_ns) // 1000 if end_ns >= start_ns > 0 else _whole(times.get(convention.DURATION))
    writer.add("start", start_us)
    writer.add("duration", duration_us)
    writer.time = min(start_ns or start_us * 1000, _MAX_NS)


def _whole(value: Scalar) -> int:
    number = unsigned(value)
    return number if number is not None and number < 2**63 else 0


# --- message ----------------------------------------------------------------------------------------------------------


def _message(
    span: Span, around: Surroundings, attributes: Attributes, resource: Attributes, events: list[dict[str, Any]]
) -> str:
    """What has no key of its own, as JSON."""
    held = {
        "attributes": attributes,
        "resource": resource,
        "scope": around.scope,
        "events": events,
        "links": [_link(link) for link in span.links],
        "trace_state": span.trace_state,
        "flags": span.flags,
        "status_message": span.status.message,
        "dropped": there(
            {
                "attributes": span.dropped_attributes_count,
                "events": span.dropped_events_count,
                "links": span.dropped_links_count,
            }
        ),
        "schema_url": around.schema_url,
    }
    text = to_json(there(held))
    if len(text.encode()) <= limits.MAX_FIELD_VALUE_BYTES:
        return text
    return to_json({"cut": True, "held": [*there(held)]})


def _link(link: Span.Link) -> dict[str, Any]:
    ids = {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()}
    return there({**ids, "trace_state": link.trace_state, "attributes": by_key(link.attributes)})
