"""Where attributes lie in the messages that spans and points are, and what their values are made of.

One table for the plain editor of attributes and for its compiled twin: what a field is, by message and tag. Fields that
it does not name are none of an attribute's, and are never looked into.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class Message(IntEnum):
    """A message that is walked through."""

    SPAN = 0
    RESOURCE_SPANS = 1
    SCOPE_SPANS = 2
    POINT = 3
    """A PBPoint."""
    RESOURCE = 4
    SCOPE = 5
    EVENT = 6
    LINK = 7
    STATUS = 8
    PAIR = 9
    """A KeyValue, for its value."""
    VALUE = 10
    """An AnyValue."""
    ARRAY = 11
    LIST = 12
    """A KeyValueList."""
    FIELD = 13
    """A Field of a PBPoint, for its value."""


class Content(IntEnum):
    """What a field holds besides a message; numbered on from those."""

    OTLP_ATTRIBUTE = 32
    POINT_FIELD = 33
    SPAN_NAME = 34
    """A text that is no attribute, but named like one in rules."""
    STATUS_MESSAGE = 35
    TEXT = 36
    BYTES = 37
    INT = 38
    UINT = 39
    BOOL = 40
    DOUBLE = 41
    ANY = 42
    """A google.protobuf.Any, which nobody looks into."""


FIELDS: Final[Mapping[Message, Mapping[int, Message | Content]]] = MappingProxyType(
    {
        Message.SPAN: {
            0x2A: Content.SPAN_NAME,
            0x4A: Content.OTLP_ATTRIBUTE,
            0x5A: Message.EVENT,
            0x6A: Message.LINK,
            0x7A: Message.STATUS,
        },
        Message.RESOURCE_SPANS: {0x0A: Message.RESOURCE},
        Message.SCOPE_SPANS: {0x0A: Message.SCOPE},
        Message.POINT: {0x12: Content.POINT_FIELD},
        Message.RESOURCE: {0x0A: Content.OTLP_ATTRIBUTE},
        Message.SCOPE: {0x1A: Content.OTLP_ATTRIBUTE},
        Message.EVENT: {0x1A: Content.OTLP_ATTRIBUTE},
        Message.LINK: {0x22: Content.OTLP_ATTRIBUTE},
        Message.STATUS: {0x12: Content.STATUS_MESSAGE},
        Message.PAIR: {0x12: Message.VALUE},
        Message.VALUE: {
            0x0A: Content.TEXT,
            0x10: Content.BOOL,
            0x18: Content.INT,
            0x21: Content.DOUBLE,
            0x2A: Message.ARRAY,
            0x32: Message.LIST,
            0x3A: Content.BYTES,
        },
        Message.ARRAY: {0x0A: Message.VALUE},
        Message.LIST: {0x0A: Message.PAIR},
        Message.FIELD: {
            0x10: Content.INT,
            0x18: Content.UINT,
            0x21: Content.DOUBLE,
            0x28: Content.BOOL,
            0x32: Content.BYTES,
            0x3A: Content.ANY,
            0x5A: Content.TEXT,
        },
    }
)
"""By message: what its fields are, by tag (field number << 3 | wire type, all below 128)."""
