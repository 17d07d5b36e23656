"""Bodies of points in each form, written by hand: nothing here is what the bridge itself writes with."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.codec.limits import NO_LIMITS
from bridge.codec.points.decode import DecodedPoints, decode_points
from bridge.codec.points.point_pb2 import Field, PBPoint, PBPoints

Value = str | int | float | bool | bytes | None
Fields = Mapping[str, Value] | Iterable[tuple[str, Value]]

PROTOBUF = "application/protobuf; proto=com.guance.Point"
PBJSON = "application/pbjson; proto=com.guance.Point"
JSON = "application/json"
LINES = "application/line-protocol"

REQUIRED: Mapping[str, Value] = {"ebpf_span_type": "entry", "direction": "incoming", "req_seq": 11, "resp_seq": 12}
"""What a point needs to be without fault."""
PEER = "192.0.2.7"


@dataclass(frozen=True)
class Point:
    """What a point says, whatever it is written in."""

    name: str
    tags: tuple[tuple[str, str], ...]
    fields: tuple[tuple[str, Value], ...]
    time: int = 0
    """Ns; 0 for none."""


def oneof(value: Value) -> dict[str, Any]:
    """A value under its name in the oneof; unsigned where it does not fit an int64."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"b": value}
    if isinstance(value, int):
        return {"i" if value < 2**63 else "u": value}
    return {{str: "s", float: "f", bytes: "d"}[type(value)]: value}


def field_of(key: str, value: Value, **more: Any) -> Field:
    """A field with this value."""
    return Field(key=key, **oneof(value), **more)


def point_of(fields: Fields = (), tags: Fields = (), **more: Any) -> PBPoint:
    """A point that has these fields and tags; lists may hold a key twice."""
    tag, field = ((items.items() if isinstance(items, Mapping) else items) for items in (tags, fields))
    made = [*(field_of(k, v, is_tag=True) for k, v in tag), *(field_of(k, v) for k, v in field)]
    return PBPoint(**{"name": "dketrace", "fields": made, **more})


def espan_point(**fields: Value) -> PBPoint:
    """A point without fault, with these fields."""
    return point_of({**REQUIRED, **fields})


def body_of(*points: PBPoint) -> bytes:
    """A body of these points."""
    return PBPoints(arr=points).SerializeToString()


def decoded(*points: PBPoint) -> DecodedPoints:
    """These points, sent by PEER as protobuf."""
    return decode_points(body_of(*points), PROTOBUF, peer=PEER, limits=NO_LIMITS)


def row_of(point: PBPoint) -> dict[str, int]:
    """The columns of a point that is taken."""
    batch = decoded(point).batch
    assert len(batch) == 1
    return {name: int(column[0]) for name, column in batch.columns.items()}


def as_protobuf(points: Iterable[Point]) -> bytes:
    return body_of(*(point_of(p.fields, p.tags, name=p.name, time=p.time) for p in points))


def as_json(points: Iterable[Point]) -> bytes:
    """`{"measurement", "tags", "fields", "time"}`."""
    return json.dumps(
        [{"measurement": p.name, "tags": dict(p.tags), "fields": dict(p.fields), "time": p.time} for p in points]
    ).encode()


def as_pbjson(points: Iterable[Point]) -> bytes:
    """As protobuf's JSON mapping writes it: 64-bit integers as text, bytes in base64."""
    written = []
    for p in points:
        fields = [{"key": k, "s": v, "is_tag": True} for k, v in p.tags]
        for key, value in p.fields:
            ((name, content),) = oneof(value).items()
            if name in "iu":
                content = str(content)
            fields.append({"key": key, name: b64encode(content).decode() if name == "d" else content})
        written.append({"name": p.name, "fields": fields, "time": str(p.time)})
    return json.dumps(written).encode()


def as_lines(points: Iterable[Point], newline: str = "\n") -> bytes:
    """Line protocol; times in ns."""
    return newline.join(map(line_of, points)).encode()


def line_of(point: Point) -> str:
    """One point of line protocol, without the newline."""
    tags = "".join(f",{escaped(k, ',= ')}={escaped(v, ',= ')}" for k, v in point.tags)
    fields = ",".join(f"{escaped(k, ',= ')}={literal(v)}" for k, v in point.fields)
    return f"{escaped(point.name, ', ')}{tags} {fields}" + (f" {point.time}" if point.time else "")


def escaped(text: str, special: str) -> str:
    return re.sub(f"([{special}])", r"\\\1", text)


def literal(value: Value) -> str:
    """A field's value in line protocol."""
    if isinstance(value, bool):
        return "true" if value else "F"
    if isinstance(value, int):
        return f"{value}{'i' if value < 2**63 else 'u'}"
    if isinstance(value, str):
        return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'
    return repr(value)
