"""Fields of points to attributes: what each becomes by itself, in a span or in its resource."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from bridge.codec.points import mapping
from bridge.codec.points.mapping import DERIVED, MOVED, NOTES, REPLACED_KEYS, Moved
from bridge.codec.points.point_pb2 import Field
from bridge.codec.wire import field, varint

MAX_CACHED_BYTES: Final = 256
"""Longer fields are not remembered: what a sender writes may not decide how much memory they take."""

# Tags: field number << 3 | wire type. Of Span; KeyValue; AnyValue; Resource.
_ATTRIBUTE = 0x4A
_KEY, _VALUE = 0x0A, 0x12
_STRING, _BOOL, _INT, _BYTES = 0x0A, b"\x10", b"\x18", 0x3A
_RESOURCE_ATTRIBUTE = 0x0A

_MOVED: Final = {moved.key: moved for moved in MOVED}
RESERVED: Final = frozenset((*DERIVED, *NOTES, *(moved.attribute for moved in MOVED)))
"""Names of attributes that a key of a point cannot have for its own."""
REPLACED: Final = frozenset(key.decode() for key in REPLACED_KEYS)

_DECIMAL: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")

Value = str | int | None
_T = TypeVar("_T", str, int)


class FieldRead(NamedTuple):
    """What one field of a point becomes."""

    key: str
    raw: bytes
    value: str | int | None
    """Of texts and integers; of all others None."""
    attribute: bytes = b""
    """An attribute of the span, if it becomes one."""
    resource: bytes = b""
    """An attribute of the resource, if it becomes one."""
    notes: tuple[str, ...] = ()
    is_rest: bool = False


def value_of(fields: Mapping[str, FieldRead], key: str, form: type[_T]) -> _T | None:
    """The value of a key that has one of this type."""
    value = fields[key].value if key in fields else None
    return value if isinstance(value, form) else None


def read_fields(raws: Iterable[bytes]) -> list[FieldRead]:
    """Fields of a point, each by its bytes. Raises DecodeError where one is no field."""
    return [read_field(raw) if len(raw) <= MAX_CACHED_BYTES else read_field.__wrapped__(raw) for raw in raws]


@lru_cache(maxsize=1 << 16)
def read_field(raw: bytes) -> FieldRead:
    """Raises DecodeError where it is no field."""
    sent = Field.FromString(raw)
    key, form = sent.key, sent.WhichOneof("val")
    value = sent.s if form == "s" else sent.i if form == "i" else sent.u if form == "u" else None
    if key in REPLACED:
        return FieldRead(key, raw, value)
    if not key or key in RESERVED or form is None or form == "a" or sent.type or sent.unit:
        return FieldRead(key, raw, value, is_rest=True)
    notes = [mapping.TAGS] * sent.is_tag + [mapping.UNSIGNED] * (form == "u")
    moved = _MOVED.get(key)
    if moved is not None and (content := _moved(moved, value)):
        notes += [mapping.INTEGERS] * (moved.form == "number" and form != "s")
        if moved.where == "resource":
            resource = attribute(moved.attribute, content, _RESOURCE_ATTRIBUTE)
            return FieldRead(key, raw, value, resource=resource, notes=tuple(notes))
        return FieldRead(key, raw, value, attribute(moved.attribute, content), notes=tuple(notes))
    return FieldRead(key, raw, value, attribute(key, _content(sent, form)), notes=tuple(notes))


def _moved(moved: Moved, value: str | int | None) -> bytes:
    """The value of the attribute, empty where this value is not moved."""
    if moved.form == "text":
        return text_value(value) if isinstance(value, str) else b""
    number = as_number(value)
    return b"" if number is None else integer_value(number)


def as_number(value: str | int | None) -> int | None:
    """An int64, or decimal text of one as Python writes it."""
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            return None
        number = int(value)
        return number if -(2**63) <= number < 2**63 else None
    return value if value is not None and value < 2**63 else None


def _content(sent: Field, form: str) -> bytes:
    """An AnyValue of the same type; unsigned numbers have none."""
    if form == "s":
        return text_value(sent.s)
    if form == "i":
        return integer_value(sent.i)
    if form == "u":
        return integer_value(sent.u) if sent.u < 2**63 else text_value(str(sent.u))
    if form == "b":
        return _BOOL + bytes((sent.b,))
    return field(_BYTES, sent.d) if form == "d" else AnyValue(double_value=sent.f).SerializeToString()


def text_value(text: str) -> bytes:
    """A text as an AnyValue."""
    return field(_STRING, text.encode())


def integer_value(number: int) -> bytes:
    """An int64, or the bits of one, as an AnyValue."""
    return _INT + varint(number & 0xFFFFFFFFFFFFFFFF)


def attribute(key: str, content: bytes, tag: int = _ATTRIBUTE) -> bytes:
    """A KeyValue with an AnyValue, as an attribute of a span or under another tag."""
    return field(tag, field(_KEY, key.encode()) + field(_VALUE, content))
