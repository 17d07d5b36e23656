"""The protobuf wire format in plain Python: fields of a message as they lie in its bytes, and fields to be written.

Nothing is decoded and written again: a field is handed on as the bytes it came in. What upb, the parser of
opentelemetry-proto, does not read raises InvalidData. _wire.pxd is the same for kernels.
"""

from collections.abc import Iterator
from typing import Final

from bridge.errors import InvalidData

_MAX_GROUPS: Final = 100
"""How deep groups of unknown fields may nest: as deep as protobuf itself reads them."""


def fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(tag, field, value) of each field of a message; a value is empty where the field is not length-delimited."""
    at = 0
    while at < len(message):
        tag, value = _number(message, at)
        if tag & 7 == 2:
            length, value = _number(message, value)
            end = value + length
        else:
            value = end = _skip(message, value, tag)
        if end > len(message) or tag >> 3 == 0:
            raise InvalidData(f"no protobuf field, or one that is cut off, at byte {at}")
        yield tag, message[at:end], message[value:end]
        at = end


def _skip(message: bytes, at: int, tag: int) -> int:
    """Where the value of a field ends; behind the message where it is cut off."""
    groups: list[int] = []
    while True:
        wire_type = tag & 7
        if wire_type == 0:
            at = next((i + 1 for i in range(at, min(at + 10, len(message))) if message[i] < 0x80), len(message) + 1)
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        elif wire_type == 2:
            length, at = _number(message, at)
            at += length
        elif wire_type == 3 and len(groups) < _MAX_GROUPS:
            groups.append(tag >> 3)
        elif wire_type != 4 or not groups or groups.pop() != tag >> 3:
            raise InvalidData(f"no protobuf field before byte {at}")
        if not groups:
            return at
        tag, at = _number(message, at)  # inside a group protobuf reads field number 0, too


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A tag or length, 32 bits in at most 5 bytes, and where it ends."""
    if at < len(message) and message[at] < 0x80:
        return message[at], at + 1
    number = 0
    for i, byte in enumerate(message[at : at + 5]):
        number |= (byte & 0x7F) << 7 * i
        if byte < 0x80 and number < 1 << 32:
            return number, at + i + 1
    raise InvalidData(f"no tag or length at byte {at}")


def varint(number: int) -> bytes:
    """A number that is not negative, as it is written."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def head(tag: int, length: int) -> bytes:
    """What stands before the value of a delimited field; the tag is below 256."""
    return bytes((tag, length)) if length < 0x80 else bytes((tag,)) + varint(length)


def field(tag: int, value: bytes) -> bytes:
    """A delimited field."""
    return head(tag, len(value)) + value
