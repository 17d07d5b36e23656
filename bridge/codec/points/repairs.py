"""What is put right about points: a key that is there twice, and a time that is missing.

A Dataway refuses a body as a whole for one point with a key twice, and takes a point without a time for one of 1970.
Both are rare: the kernel finds such points, and asks here what to do about them, as its twin does of every point.
"""

from typing import Final

from google.protobuf.message import DecodeError

from bridge.codec.espan import MAX_NS, U64, integer
from bridge.codec.points.point_pb2 import Field, PBPoint
from bridge.codec.points.scan import value_of
from bridge.codec.wire import fields, varint

# Tags of PBPoint and Field: field number << 3 | wire type.
_FIELDS, _TIME, _KEY = 0x12, 0x18, 0x0A
_NS_PER_US: Final = 1000


def complete(point: PBPoint, received_ns: int) -> PBPoint:
    """A point that came as text, with each key once, and where it has no time with that of its `start`, else this one.

    Of a key that is both, the field stays and the tag goes; of two fields, or of two tags, the last stays. A point that
    is sent again is the same again only if it has a time or a `start`.
    """
    chosen: dict[str, int] = {}
    for i, field in enumerate(point.fields):
        before = chosen.setdefault(field.key, i)
        if point.fields[before].is_tag or not field.is_tag:
            chosen[field.key] = i
    if len(chosen) < len(point.fields):
        kept = PBPoint(fields=[point.fields[i] for i in sorted(chosen.values())])
        point.ClearField("fields")
        point.fields.extend(kept.fields)
    if not point.time:
        starts = [start_ns_of(field.SerializeToString()) for field in point.fields if field.key == "start"]
        point.time = next(iter(starts), 0) or received_ns
    return point


def repaired(data: bytes) -> bytes:
    """A serialized PBPoint as it may leave: of a key that is there twice the last field, in its place, and at the end
    the time of `start` where it has none of its own; all else byte for byte.

    A point with neither time nor `start` stays without. Raises InvalidData where it is no protobuf message.
    """
    parts: list[bytes] = []
    time = start_ns = 0
    last: dict[bytes, int] = {}
    for tag, raw, value in fields(data):
        if tag == _FIELDS:
            key = key_of(value)
            if key in last:
                parts[last[key]] = b""
            last[key] = len(parts)
            start_ns = start_ns_of(value) if key == b"start" else start_ns
        elif tag == _TIME:
            time = _number(raw)
        parts.append(raw)
    if not time and start_ns:
        parts.append(bytes((_TIME,)) + varint(start_ns))
    return b"".join(parts)


def key_of(field: bytes) -> bytes:
    """The key of a serialized Field; of one given twice, protobuf takes the last."""
    return ([b""] + [key for tag, _, key in fields(field) if tag == _KEY])[-1]


def start_ns_of(field: bytes) -> int:
    """When a point began whose `start` (us) is this serialized Field, as linking reads it; 0 where that cannot be."""
    try:
        value = value_of(Field.FromString(field))
    except DecodeError:
        return 0
    start_us = integer(value) or 0
    return start_us * _NS_PER_US if start_us <= MAX_NS // _NS_PER_US else 0


def _number(raw: bytes) -> int:
    """The number of a varint field."""
    at = next(i for i, byte in enumerate(raw) if byte < 0x80) + 1
    return sum((byte & 0x7F) << 7 * i for i, byte in enumerate(raw[at:])) & U64
