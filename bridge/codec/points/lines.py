"""Points as lines of InfluxDB's line protocol, as Dataway's version 1 takes them.

https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/ is the grammar. What it cannot say: a line end
or a tab in a measurement, key or tag becomes a space, and a backslash at the end of one is left out; bytes are base64;
a number that is not finite and a field without a value are left out; what `Field.a` holds is JSON. Numbers beyond int64
have the suffix u. A point without a name is `unnamed`; a backslash stands before a name that would make a comment of
the line.
"""

import math
from base64 import b64encode

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message

from bridge.codec.points.point_pb2 import Array, Field, Map, PBPoint
from bridge.errors import InvalidData

_BLANKS = str.maketrans("\r\n\t", "   ")


def line(point: PBPoint) -> bytes:
    """One line, without its end. Raises InvalidData for a point without a field, which no line can be."""
    # as they stand in the line: keys that differ in what is not kept of them are one, and the last one counts
    last = {_escaped(field.key, ",= "): field for field in point.fields}
    last.pop("", None)
    tags = sorted((key, _tag(field)) for key, field in last.items() if field.is_tag)
    values = {key: _value(field) for key, field in last.items() if not field.is_tag}
    texts = [f"{key}={text}" for key, text in values.items() if text]
    if not texts:
        raise InvalidData("a point without a field cannot be written as a line")
    head = _escaped(point.name, ", ") or "unnamed"
    head = f"\\{head}" if head.startswith("#") else head  # not a comment
    head += "".join(f",{key}={text}" for key, text in tags if text)
    return f"{head} {','.join(texts)}{f' {point.time}' if point.time else ''}".encode()


def _escaped(text: str, special: str) -> str:
    text = text.translate(_BLANKS).rstrip("\\")
    for character in special:
        text = text.replace(character, "\\" + character)
    return text


def _tag(field: Field) -> str:
    value = getattr(field, form) if (form := field.WhichOneof("val")) else ""
    return _escaped(str(value) if form in ("s", "i", "u", "f") else _value(field).strip('"'), ",= ")


def _value(field: Field) -> str:
    """Empty where the field cannot be written."""
    form = field.WhichOneof("val")
    if form == "i":
        return f"{field.i}i"
    if form == "u":
        return f"{field.u}i" if field.u < 2**63 else f"{field.u}u"
    if form == "f":
        return repr(field.f) if math.isfinite(field.f) else ""
    if form == "b":
        return "true" if field.b else "false"
    if form == "d":
        return _quoted(b64encode(field.d).decode())
    if form == "s":
        return _quoted(field.s)
    return _quoted(_json(field)) if form == "a" else ""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _json(field: Field) -> str:
    """An array or a map of the `point` package; of anything else, and where it cannot be read, its bytes."""
    held: Message
    for held in (Array(), Map()):
        try:
            if field.a.Unpack(held):
                return MessageToJson(held, indent=None)
        except DecodeError:
            break
    return b64encode(field.a.value).decode()
