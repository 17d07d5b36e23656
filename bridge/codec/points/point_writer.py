"""A point being written, within the limits of points: tags that are too long become fields, longer text is cut."""

import struct
from collections.abc import Callable
from typing import Final

from bridge.codec.points import limits
from bridge.codec.points.otlp_values import Scalar, as_text
from bridge.codec.wire import field, varint

_U64: Final = 2**64 - 1
_SHORT: Final = 256
"""No text of so many characters is too long for anything."""

# Tags: field number << 3 | wire type. Of PBPoint; of Field.
_NAME, _FIELDS, _TIME = 0x0A, 0x12, b"\x18"
_KEY, _INTEGER, _UNSIGNED, _DOUBLE, _BOOL = 0x0A, b"\x10", b"\x18", b"\x21", b"\x28"
_BYTES, _IS_TAG, _TEXT = 0x32, 0x40, 0x5A


def value_field_plain(key: str, value: Scalar, is_tag: bool) -> bytes:
    """A value as a field of a point: integers that are not int64 are unsigned, None is a field without a value."""
    if isinstance(value, str):
        return field(_FIELDS, field(_KEY, key.encode()) + _tag_part(is_tag) + field(_TEXT, value.encode()))
    if isinstance(value, bool):
        content = _BOOL + bytes((value,))
    elif isinstance(value, int):
        content = (_UNSIGNED if value >= 2**63 else _INTEGER) + varint(value & _U64)
    elif isinstance(value, float):
        content = _DOUBLE + struct.pack("<d", value)
    else:
        content = field(_BYTES, value) if isinstance(value, bytes) else b""
    return field(_FIELDS, field(_KEY, key.encode()) + content + _tag_part(is_tag))


def unsigned_field(key: str, value: int, is_tag: bool) -> bytes:
    """An unsigned integer as a field of a point, also where it is an int64."""
    return field(_FIELDS, field(_KEY, key.encode()) + _UNSIGNED + varint(value) + _tag_part(is_tag))


def _tag_part(is_tag: bool) -> bytes:
    return bytes((_IS_TAG, 1)) if is_tag else b""


class PointWriter:
    """A PBPoint in parts."""

    def __init__(self, measurement: str, time: int = 0) -> None:
        self.measurement, self.time = measurement, time
        self.values: dict[str, Scalar] = {}
        """What was added, by key."""
        self._fields: list[bytes] = []

    def add(self, key: str, value: Scalar, *, is_tag: bool = False) -> bool:
        """Whether it was added: no value is none, and a tag is text that is not empty. One that is longer than tags may
        be becomes a field; a longer text is cut."""
        if not isinstance(value, str) or not 0 < len(value) <= _SHORT:
            value = as_text(value) if is_tag else value
            if value is None or (is_tag and not value):
                return False
            if isinstance(value, str):
                is_tag = is_tag and len(value.encode()) <= limits.MAX_TAG_VALUE_BYTES
                value = _cut(value, limits.MAX_FIELD_VALUE_BYTES)
        self.values[key] = value
        self._fields.append(value_field(key, value, is_tag))
        return True

    def add_written(self, key: str, written: bytes) -> None:
        """A field as it is, or several."""
        self.values.setdefault(key)
        self._fields.append(written)

    def data(self) -> bytes:
        """The PBPoint."""
        name = _cut(self.measurement, limits.MAX_MEASUREMENT_BYTES).encode()
        head = field(_NAME, name) if name else b""
        time = _TIME + varint(self.time & _U64) if self.time else b""
        return b"".join([head, *self._fields, time])


def _cut(text: str, most: int) -> str:
    """At most so many bytes, and whole characters."""
    return text if len(text) <= most // 4 else text.encode()[:most].decode(errors="ignore")


value_field: Callable[[str, Scalar, bool], bytes]
try:
    from bridge.codec.points._point_convert import value_field
except ImportError:  # no C compiler was there when the bridge was installed
    value_field = value_field_plain
