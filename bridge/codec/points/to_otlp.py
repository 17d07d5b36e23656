"""Points to OTLP spans, by the first table of `bridge.codec.points.mapping`.

Spans are made without ids: those are decided, and put in when a request is written. Nothing of a point is lost: what
has no form in OTLP goes along as bytes, and `bridge.codec.points.from_otlp` makes the same point of the span again.

Fields repeat from point to point, so what a field becomes is remembered by its bytes; a span is then joined from parts.
What has no meaning here goes from a field to an attribute in the kernel, where there is one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue

from bridge.codec.points import mapping
from bridge.codec.points.blocks import with_converted
from bridge.codec.points.derived import CLIENT, DERIVED_FROM, SERVER, UNSPECIFIED, derived
from bridge.codec.points.field_reader import (
    REPLACED,
    RESERVED,
    FieldRead,
    attribute,
    integer_value,
    read_fields,
    value_of,
)
from bridge.codec.points.mapping import MOVED, PARTS
from bridge.codec.points.point_view_pb2 import Point
from bridge.codec.points.repairs import start_ns_of
from bridge.codec.wire import field
from bridge.errors import InvalidData
from bridge.spans import Context, LinkedSpans, PayloadBlock, PayloadFormat

MAX_NS: Final = 2**63 - 1

# Tags: field number << 3 | wire type. Of PBPoint; Span; Status; AnyValue; ResourceSpans and ScopeSpans, and inside.
_FIELDS = 0x12
_NAME, _KIND, _START, _END, _STATUS = 0x2A, 0x30, 0x39, b"\x41", 0x7A
_STATUS_MESSAGE, _STATUS_ERROR = 0x12, b"\x18\x02"
_BYTES = 0x3A
_INNER, _SCOPE_NAME, _SCOPE_ATTRIBUTE = 0x0A, 0x0A, 0x1A

_KINDS: Final = {"entry": SERVER, "exit": CLIENT}
_KINDS_OF_DIRECTION: Final = {"incoming": SERVER, "outgoing": CLIENT}
_RESOURCE_KEYS: Final = tuple(moved.key for moved in MOVED if moved.where == "resource")
_PARTS: Final = frozenset(PARTS)
_NAMED_TEXTS: Final = frozenset(
    (
        *(moved.key for moved in MOVED),
        *PARTS,
        *RESERVED,
        *REPLACED,
        *DERIVED_FROM,
        *("ebpf_span_type", "direction", "status", "err_msg", "status_msg", "err_code", ""),
    )
)
"""Keys that mean something here; of all others a field is an attribute, and no more."""
_NAMED: Final = frozenset(key.encode() for key in _NAMED_TEXTS)

Around = tuple[bytes, bytes]
"""What surrounds a span: attributes of its resource, and its measurement."""


def as_otlp(linked: LinkedSpans) -> LinkedSpans:
    """The same spans, points among them as OTLP spans without ids; a context per measurement and set of resource keys.

    Raises InvalidData, which names the span, where the bytes of a point are none, and ValueError where a row names a
    place that is not there.
    """
    return with_converted(linked, PayloadFormat.POINT, partial(_converted, linked))


def _converted(linked: LinkedSpans, rows: list[int]) -> PayloadBlock:
    numbers: dict[Around, int] = {}
    spans, of_span = [], []
    for i in rows:
        try:
            around, span = otlp_span(linked.blocks[linked.block[i]].span(int(linked.row[i])))
        except InvalidData as exc:
            raise InvalidData(f"span {i}: {exc}") from exc
        spans.append(span)
        of_span.append(numbers.setdefault(around, len(numbers)))
    offsets = np.cumsum([0, *map(len, spans)], dtype=np.int64)
    contexts = tuple(_context(*around) for around in numbers)
    return PayloadBlock(PayloadFormat.OTLP_SPAN, b"".join(spans), offsets, contexts, np.array(of_span, np.uint32))


def otlp_span(data: bytes) -> tuple[Around, bytes]:
    """What surrounds the span, and the span, of a serialized PBPoint. Raises InvalidData where it is none."""
    try:
        return _usual_span(data) or _any_span(data)
    except DecodeError as exc:
        raise InvalidData(f"its bytes are no point: {exc}") from exc


def _usual_span(data: bytes) -> tuple[Around, bytes] | None:
    """With the kernel, if there is one, of a point as agents write them; the same as `_any_span` makes of it."""
    found = split_point(data, _NAMED)
    if found is None:
        return None
    measurement, time, start, duration, plain, raws = found
    if not _in_ns(start, duration):
        return None
    read = read_fields(raws)
    if any(each.is_rest for each in read):
        return None
    fields = {each.key: each for each in read}
    times = start * 1000, (start + duration) * 1000
    return (_resource(fields), measurement), _span(fields, time or times[0], times, measurement, [plain], b"")


def _any_span(data: bytes) -> tuple[Around, bytes]:
    point = Point.FromString(data)
    measurement, time = point.name, point.time
    read = read_fields(point.fields)
    fields = {each.key: each for each in read}
    if not time and "start" in fields:  # as a point without a time leaves to Dataway
        time = start_ns_of(fields["start"].raw)
    rest = [
        field(_FIELDS, each.raw)
        for each in read
        if each.is_rest or (fields[each.key] is not each and each.key not in REPLACED)
    ]
    for part in ("name", "fields", "time"):
        point.ClearField(part)
    rest.append(point.SerializeToString())
    plain = [each.attribute for each in fields.values() if each.key.encode() not in _NAMED]
    around = _resource(fields), _utf8(measurement)
    times = _own_times(fields)
    return around, _span(fields, time, times, measurement, plain, b"".join(rest))


def _utf8(text: bytes) -> bytes:
    try:
        text.decode()
    except UnicodeDecodeError as exc:
        raise InvalidData("its bytes are no point: the name is no UTF-8") from exc
    return text


def _context(resource: bytes, measurement: bytes) -> Context:
    version = attribute(mapping.POINT_SCOPE, integer_value(mapping.MAPPING_VERSION), _SCOPE_ATTRIBUTE)
    return Context(
        resource_spans=field(_INNER, resource),
        scope_spans=field(_INNER, field(_SCOPE_NAME, measurement) + version),
    )


def _resource(fields: dict[str, FieldRead]) -> bytes:
    return b"".join([fields[key].resource for key in _RESOURCE_KEYS if key in fields])


# --- a span -----------------------------------------------------------------------------------------------------------


def _span(
    fields: dict[str, FieldRead],
    time: int,
    times: tuple[int, int] | None,
    measurement: bytes,
    plain: list[bytes],
    rest: bytes,
) -> bytes:
    """fields: the last of each key, at least of those in `_NAMED`. times: start and end (ns), if start and duration say
    the same. plain: attributes of all other keys. rest: a PBPoint.
    """
    kind, without, notes = _kind(fields), [], _notes(fields)
    if times is None:
        without += ["start", "duration"]
    start_ns, end_ns = times or _nearest_times(fields, time)
    name = value_of(fields, "resource", str)
    if name is None or fields["resource"].is_rest:
        without.append("resource")
        name = value_of(fields, "operation", str) or measurement.decode()
    parts = _PARTS.difference(without) if without else _PARTS
    if without:
        notes.append(_names(mapping.WITHOUT, without))
    if time != start_ns:
        notes.append(attribute(mapping.TIME, integer_value(time)))
    if rest:
        notes.append(attribute(mapping.REST, field(_BYTES, rest)))
    return b"".join(
        [
            field(_NAME, name.encode()),
            bytes((_KIND, kind, _START)),
            start_ns.to_bytes(8, "little"),
            _END,
            end_ns.to_bytes(8, "little"),
            *plain,
            *[each.attribute for key, each in fields.items() if key in _NAMED_TEXTS and key not in parts],
            *derived(fields, kind),
            *notes,
            _status(fields),
        ]
    )


def _kind(fields: Mapping[str, FieldRead]) -> int:
    side, direction = value_of(fields, "ebpf_span_type", str), value_of(fields, "direction", str)
    return _KINDS.get(side or "") or _KINDS_OF_DIRECTION.get(direction or "") or UNSPECIFIED


def _own_times(fields: Mapping[str, FieldRead]) -> tuple[int, int] | None:
    """Start and end of a span (ns) that say the same as the keys; None where there are none."""
    for key in ("start", "duration"):
        if key not in fields or fields[key].is_rest or mapping.UNSIGNED in fields[key].notes:
            return None
    start, duration = fields["start"].value, fields["duration"].value
    if not isinstance(start, int) or not isinstance(duration, int) or not _in_ns(start, duration):
        return None
    return start * 1000, (start + duration) * 1000


def _in_ns(start: int, duration: int) -> bool:
    return start >= 0 and duration >= 0 and (start + duration) * 1000 <= MAX_NS


def _nearest_times(fields: Mapping[str, FieldRead], time: int) -> tuple[int, int]:
    """Start and end (ns) for keys that are not, or not all, what they should be."""
    start, duration = value_of(fields, "start", int) or 0, value_of(fields, "duration", int) or 0
    start_ns = start * 1000 if start and _in_ns(start, 0) else max(time, 0)
    return start_ns, start_ns + duration * 1000 if _in_ns(start_ns // 1000 + 1, duration) else start_ns


def _notes(fields: Mapping[str, FieldRead]) -> list[bytes]:
    named: dict[str, list[str]] = {}
    for each in [each for each in fields.values() if each.notes]:
        for note in each.notes:
            named.setdefault(note, []).append(each.key)
    return [_names(note, keys) for note, keys in named.items()]


def _names(note: str, keys: list[str]) -> bytes:
    names = AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=key) for key in keys]))
    return attribute(note, names.SerializeToString())


def _status(fields: Mapping[str, FieldRead]) -> bytes:
    """Unset, but for errors."""
    if value_of(fields, "status", str) != "error":
        return b""
    text = value_of(fields, "err_msg", str) or value_of(fields, "status_msg", str) or ""
    return field(_STATUS, (field(_STATUS_MESSAGE, text.encode()) if text else b"") + _STATUS_ERROR)


def _no_kernel(data: bytes, named: frozenset[bytes]) -> None:
    """Nothing is usual where no C compiler was there when the bridge was installed."""


split_point: Callable[[bytes, frozenset[bytes]], tuple[bytes, int, int, int, bytes, list[bytes]] | None]
try:
    from bridge.codec.points._point_convert import split_point
except ImportError:
    split_point = _no_kernel
