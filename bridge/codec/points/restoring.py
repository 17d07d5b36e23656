"""OTLP spans that were points, to these points: the first table of `bridge.codec.points.mapping`, walked back."""

from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.codec.points import limits, mapping
from bridge.codec.points.mapping import DERIVED, MOVED, NOTES
from bridge.codec.points.otlp_values import Attributes, Scalar, scalar
from bridge.codec.points.point_pb2 import PBPoint
from bridge.codec.points.point_writer import PointWriter, unsigned_field, value_field
from bridge.errors import InvalidData

_MAX_NS: Final = 2**63 - 1
_MOVED: Final = {moved.attribute: moved for moved in MOVED}
_NOT_KEYS: Final = frozenset((*DERIVED, *NOTES))


def restored(span: Span, attributes: Attributes, resource: Attributes, measurement: str) -> PointWriter:
    """The point. What others have added since to the span's attributes becomes fields; to the resource's, tags.

    Raises InvalidData where its rest is none.
    """
    notes = _Notes(attributes)
    writer = PointWriter(measurement)
    if mapping.REST in attributes:
        writer.add_written("", _rest(attributes[mapping.REST]))
    for name, value in resource.items():
        if name in _MOVED and _MOVED[name].where == "resource":
            notes.write(writer, _MOVED[name].key, scalar(value))
    for name, value in attributes.items():
        moved = _MOVED.get(name)
        if moved is not None and moved.where == "span":
            own = scalar(value)
            is_text = moved.form == "text" or type(own) is not int or moved.key in notes.integers
            notes.write(writer, moved.key, own if is_text else str(own))
        elif name not in _NOT_KEYS:
            notes.write(writer, name, scalar(value))
    for key, part in _parts(span).items():
        if key not in notes.without:
            notes.write(writer, key, part)
    for name, value in resource.items():
        key = name.replace(".", "_")
        if name not in _MOVED and key not in writer.values and len(key.encode()) <= limits.MAX_KEY_BYTES:
            writer.add(key, scalar(value), is_tag=True)
    time = attributes.get(mapping.TIME)
    writer.time = time if type(time) is int else min(span.start_time_unix_nano, _MAX_NS)
    return writer


def unsigned(value: Scalar) -> int | None:
    """An integer of 64 bits, also as decimal text; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**64 else None


class _Notes:
    """What a span says about the point it was, by what it says of keys."""

    def __init__(self, attributes: Attributes) -> None:
        self.tags, self.unsigned, self.integers, self.without = (
            _names(attributes.get(note)) for note in (mapping.TAGS, mapping.UNSIGNED, mapping.INTEGERS, mapping.WITHOUT)
        )

    def write(self, writer: PointWriter, key: str, value: Scalar) -> None:
        number = unsigned(value) if key in self.unsigned else None
        is_tag = key in self.tags
        written = value_field(key, value, is_tag) if number is None else unsigned_field(key, number, is_tag)
        writer.add_written(key, written)


def _parts(span: Span) -> dict[str, Scalar]:
    """The keys that are parts of a span."""
    start_us = span.start_time_unix_nano // 1000
    duration_us = max(span.end_time_unix_nano // 1000 - start_us, 0)
    return {"resource": span.name, "start": start_us, "duration": duration_us}


def _names(value: Any) -> frozenset[str]:
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else frozenset()


def _rest(data: Any) -> bytes:
    """All but name and time, which a span says itself."""
    if not isinstance(data, bytes):
        raise InvalidData(f"{mapping.REST}: no bytes")
    try:
        rest = PBPoint.FromString(data)
    except DecodeError as exc:
        raise InvalidData(f"{mapping.REST}: {exc}") from exc
    rest.ClearField("name")
    rest.ClearField("time")
    return rest.SerializeToString()
