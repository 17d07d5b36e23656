"""Bodies of points in JSON, to serialized PBPoints.

An array of points, each in one of two forms: `{"measurement", "tags", "fields", "time"}`, or as protobuf's JSON mapping
has it, `{"name", "fields": [{"key", "i": "123"}], "time"}`. Integers keep all their digits. Points are read one after
another, so that no more than one of them is there as Python objects.

Decided against: protobuf's json_format, which refuses a body for one bad point and does not say where it is.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bridge.codec.points.json_values import (
    MAX_DIGITS,
    Json,
    items,
    members,
    optional_text,
    read_bool,
    read_bytes,
    read_double,
    read_metric_type,
    read_object,
    read_signed,
    read_text,
    read_unsigned,
    told,
)
from bridge.codec.points.limits import MAX_POINTS, too_many
from bridge.codec.points.point_pb2 import Array, BasicTypes, Debug, Field, Map, PBPoint, PBPoints, Warn
from bridge.codec.points.rejections import (
    INVALID_JSON,
    INVALID_VALUE,
    NO_MEASUREMENT,
    BadPoint,
    Converted,
    InvalidPoints,
    Rejections,
    shown,
)
from bridge.codec.points.repairs import complete
from bridge.codec.points.times import MAX_I64, MIN_I64, as_ns

_SPACE: Final = re.compile(r"[ \t\n\r]++")
_ANY_TYPES: Final = {f"type.googleapis.com/{kind.DESCRIPTOR.full_name}": kind for kind in (Array, Map)}


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < MAX_DIGITS else math.inf


_DECODER: Final = json.JSONDecoder()
_WARY: Final = json.JSONDecoder(parse_int=_integer)
"""The same for points with a number that Python refuses; slower."""


def read_json(body: bytes, precision: str = "", received_ns: int = 0, max_points: int = MAX_POINTS) -> Converted:
    """The points of a body; null counts as absent, unknown names are ignored.

    precision: unit of the times of the first form (n, u, ms, s, m, h), ns without. received_ns: the time of points that
    have none. Raises InvalidPoints for a body that is no JSON array, TooLarge for too many points.
    """
    points: list[PBPoint] = []
    numbers: list[int] = []
    rejections = Rejections()
    for number, sent in enumerate(_elements(_text(body))):
        if number >= max_points:
            raise too_many(max_points)
        try:
            points.append(complete(_point(sent, precision), received_ns))
        except BadPoint as exc:
            rejections.add(number, exc.reason, str(exc))
        else:
            numbers.append(number)
    return Converted(PBPoints(arr=points).SerializeToString(), numbers, rejections)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidPoints(INVALID_JSON, f"body: no UTF-8 at byte {exc.start}") from exc


def _elements(text: str) -> Iterator[Json]:
    """What is in the one array that a body is."""
    at = _skip(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        raise InvalidPoints(INVALID_JSON, f"body: want an array of points at character {at}")
    at = _skip(text, at + 1)
    number, more = 0, text[at : at + 1] != "]"
    while more:
        element, at = _element(text, at, number)
        yield element
        at = _skip(text, at)
        number, more = number + 1, text[at : at + 1] == ","
        if more:
            at = _skip(text, at + 1)
    if text[at : at + 1] != "]" or _skip(text, at + 1) != len(text):
        raise InvalidPoints(INVALID_JSON, f"body: want the array's end at character {at}, and nothing behind it")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _element(text: str, at: int, number: int) -> tuple[Json, int]:
    try:
        try:
            return _DECODER.raw_decode(text, at)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a number with more digits than Python takes
            return _WARY.raw_decode(text, at)
    except json.JSONDecodeError as exc:
        raise InvalidPoints(INVALID_JSON, f"points[{number}]: no JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidPoints(INVALID_JSON, f"points[{number}]: nested too deep") from exc


# --- the two forms ----------------------------------------------------------------------------------------------------


def _point(sent: Json, precision: str) -> PBPoint:
    if not isinstance(sent, dict):
        raise BadPoint(INVALID_VALUE, f"want an object, got {told(sent)}")
    try:
        if "measurement" not in sent and ("name" in sent or isinstance(sent.get("fields"), list)):
            return _mapped_point(sent)
        return _plain_point(sent, precision)
    except UnicodeEncodeError:
        raise BadPoint(INVALID_VALUE, "half of a surrogate pair, which is no text") from None


def _plain_point(sent: dict[str, Json], precision: str) -> PBPoint:
    point = PBPoint(name=_measurement(sent, "measurement"), time=as_ns(_time(sent), precision or "n"))
    for key, value in members(sent, "tags"):
        point.fields.append(Field(key=key, s=read_text(value, f"tag {shown(key)}"), is_tag=True))
    for key, value in members(sent, "fields"):
        where = f"field {shown(key)}"
        if isinstance(value, list):
            field = Field(key=key)
            field.a.Pack(_array([BasicTypes(**_plain_value(item, where)) for item in value], where))
            point.fields.append(field)
        else:
            point.fields.append(Field(key=key, **_plain_value(value, where)))
    return point


def _plain_value(value: Json, where: str) -> dict[str, Any]:
    match value:
        case bool():
            return {"b": value}
        case int() if MIN_I64 <= value <= MAX_I64:
            return {"i": value}
        case int() if 0 <= value < 2**64:
            return {"u": value}
        case int():
            raise BadPoint(INVALID_VALUE, f"{where}: an integer beyond 64 bits")
        case float() if math.isfinite(value):
            return {"f": value}
        case str():
            return {"s": value}
    raise BadPoint(INVALID_VALUE, f"{where}: want text, a finite number, true or false, got {told(value)}")


def _mapped_point(sent: dict[str, Json]) -> PBPoint:
    point = PBPoint(name=_measurement(sent, "name"), time=_time(sent))
    for i, item in enumerate(items(sent, "fields")):
        point.fields.append(_mapped_field(item, f"fields[{i}]"))
    for i, item in enumerate(items(sent, "warns")):
        point.warns.append(Warn(type=optional_text(item, "type", f"warns[{i}]"), msg=_message(item, f"warns[{i}]")))
    for i, item in enumerate(items(sent, "debugs")):
        point.debugs.append(Debug(info=optional_text(item, "info", f"debugs[{i}]")))
    return point


def _message(item: Json, where: str) -> str:
    return optional_text(item, "message", where) or optional_text(item, "msg", where)


def _mapped_field(item: Json, where: str) -> Field:
    key = optional_text(item, "key", where)
    where = f"field {shown(key)}" if key else where
    field = Field(key=key, unit=optional_text(item, "unit", where), **_mapped_value(item, where))
    is_tag = item.get("is_tag", item.get("isTag"))
    if is_tag is not None:
        field.is_tag = read_bool(is_tag, f"{where}.is_tag")
    if (kind := item.get("type")) is not None:
        field.type = read_metric_type(kind, f"{where}.type")
    return field


def _mapped_value(item: Mapping[str, Json], where: str) -> dict[str, Any]:
    """The value's name in the oneof with the value; nothing without one. The last counts, as on the wire."""
    found: dict[str, Any] = {}
    for name, value in item.items():
        if name in _READERS and value is not None:
            found = {name: _READERS[name](value, where)}
    return found


def _any(value: Json, where: str) -> Any:
    """An array or a map, packed."""
    kind = value.get("@type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _ANY_TYPES:
        raise BadPoint(INVALID_VALUE, f"{where}: want one of {', '.join(_ANY_TYPES)}, got {told(value)}")
    field = Field()
    if _ANY_TYPES[kind] is Array:
        field.a.Pack(_array([BasicTypes(**_basic(item, where)) for item in items(value, "arr", where)], where))
    else:
        packed = Map()
        for key, item in members(value, "map", where):
            packed.map[key].CopyFrom(BasicTypes(**_basic(item, where)))
        field.a.Pack(packed)
    return field.a


def _basic(item: Json, where: str) -> dict[str, Any]:
    found = _mapped_value(read_object(item, where), where)
    if "a" in found:
        raise BadPoint(INVALID_VALUE, f"{where}: an array inside an array")
    return found


def _array(values: list[BasicTypes], where: str) -> Array:
    if len({value.WhichOneof("x") for value in values}) > 1:
        raise BadPoint(INVALID_VALUE, f"{where}: an array of values of several types")
    return Array(arr=values)


def _measurement(sent: dict[str, Json], name: str) -> str:
    value = sent.get(name)
    if value is None or value == "":
        raise BadPoint(NO_MEASUREMENT, f"no {name}")
    return read_text(value, name)


def _time(sent: dict[str, Json]) -> int:
    value = sent.get("time")
    return 0 if value is None else read_signed(value, "time")


_READERS: Final = {
    "i": read_signed,
    "u": read_unsigned,
    "f": read_double,
    "b": read_bool,
    "d": read_bytes,
    "s": read_text,
    "a": _any,
}
