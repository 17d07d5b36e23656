"""A point being written, within the limits of points: tags that are too long become fields, longer text is cut."""

import struct
from functools import lru_cache
from typing import Final

from bridge.codec.points import limits
from bridge.codec.points.otlp_values import Scalar, as_text
from bridge.codec.wire import field, varint

_MAX_CACHED_TEXT: Final = 256
"""Longer texts are not remembered: what a sender writes may not decide how much memory they take."""
_U64: Final = 2**64 - 1

# Tags: field number << 3 | wire type. Of PBPoint; of Field.
_NAME, _FIELDS, _TIME = 0x0A, 0x12, b"\x18"
_KEY, _INTEGER, _UNSIGNED, _DOUBLE, _BOOL, _BYTES, _IS_TAG, _TEXT = (
    0x0A,
    b"\x10",
    b"\x18",
    b"\x21",
    b"\x28",
    0x32,
    0x40,
    0x5A,
)


def text_field(key: str, text: str, *, is_tag: bool = False) -> bytes:
    """A text as a field of a point."""
    return field(_FIELDS, field(_KEY, key.encode()) + bytes((_IS_TAG, 1)) * is_tag + field(_TEXT, text.encode()))


def value_field(key: str, value: Scalar, *, is_tag: bool = False) -> bytes:
    """A value as a field of a point: integers that are not int64 are unsigned, None is a field without a value."""
    if isinstance(value, str):
        return (
            _short_text(key, value, is_tag) if len(value) <= _MAX_CACHED_TEXT else text_field(key, value, is_tag=is_tag)
        )
    return number_field(key, value, is_tag=is_tag, unsigned=isinstance(value, int) and value >= 2**63)


def number_field(key: str, value: Scalar, *, is_tag: bool, unsigned: bool) -> bytes:
    """Any value but text."""
    if isinstance(value, bool):
        content = _BOOL + bytes((value,))
    elif isinstance(value, int):
        content = (_UNSIGNED if unsigned else _INTEGER) + varint(value & _U64)
    elif isinstance(value, float):
        content = _DOUBLE + struct.pack("<d", value)
    else:
        content = field(_BYTES, value) if isinstance(value, bytes) else b""
    return field(_FIELDS, _key_part(key) + content + bytes((_IS_TAG, 1)) * is_tag)


@lru_cache(maxsize=1 << 12)
def _key_part(key: str) -> bytes:
    return field(_KEY, key.encode())


@lru_cache(maxsize=1 << 16)
def _short_text(key: str, text: str, is_tag: bool) -> bytes:
    return text_field(key, text, is_tag=is_tag)


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
        if value and isinstance(value, str) and len(value) <= _MAX_CACHED_TEXT:  # so short it keeps every limit
            self.values[key] = value
            self._fields.append(_short_text(key, value, is_tag))
            return True
        if is_tag:
            value = as_text(value)
            if not value:
                return False
            is_tag = len(value.encode()) <= limits.MAX_TAG_VALUE_BYTES
        if value is None:
            return False
        if isinstance(value, str):
            value = _cut(value, limits.MAX_FIELD_VALUE_BYTES)
        self.values[key] = value
        self._fields.append(value_field(key, value, is_tag=is_tag))
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
