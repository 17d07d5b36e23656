"""What is wrong with bytes that are no ExportTraceServiceRequest, and where. Slow; asked about bad requests only.

Bounded all the same: no more than `MAX_LEVELS` messages inside one another are looked into, each of them given to
protobuf once, and no more than `MAX_FIELDS` fields are walked over.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.codec.wire import fields
from bridge.errors import InvalidData

MAX_LEVELS: Final = 12
MAX_FIELDS: Final = 100_000


def locate(data: bytes) -> str:
    """The innermost message or text that cannot be read, the byte of the request at which that shows, and why.

    Such as `resource_spans[2]: cut off at byte 1234 (field 1 wants 300 bytes, 17 are left)`: the byte is the first of
    the field. Of bytes that end too early it is the field they end in; of a length that leads beyond its message, the
    field with that length.
    """
    request = _Message(ExportTraceServiceRequest.DESCRIPTOR, data, 0, "")
    found = _Found("request: cannot be read", inside=request)
    budget = iter(range(MAX_FIELDS))
    for _ in range(MAX_LEVELS):
        if found.inside is None:
            break
        closer = _look(found.inside, budget, cut_off=found.cut_off)
        if closer is None:
            break
        found = closer
    return found.text


@dataclass(frozen=True, slots=True)
class _Message:
    """Bytes that should be such a message, and their first one's place in the request."""

    kind: Descriptor
    data: bytes
    offset: int
    path: str

    def tell(self, what: str) -> str:
        return f"{self.path or 'request'}: {what}"


@dataclass(frozen=True, slots=True)
class _Found:
    text: str
    cut_off: bool = False
    inside: _Message | None = None
    """Where more may be found; of a message that is cut off as much as is there."""


def _look(message: _Message, budget: Iterator[int], *, cut_off: bool) -> _Found | None:
    """The first field that cannot be read. In a message that is itself cut off only a field that is cut off, too: if
    anything else is wrong in there, or nothing, then rather the length was."""
    seen: Counter[str] = Counter()
    at = 0
    try:
        for tag, raw, value in fields(message.data):
            if next(budget, None) is None:
                return None if cut_off else _Found(message.tell(f"cannot be read from byte {message.offset + at} on"))
            at += len(raw)
            if (field := _delimited(message.kind, tag)) is None:
                continue
            path = _path(message, field, seen)
            if not cut_off and (found := _in_value(field, value, message.offset + at - len(value), path)):
                return found
    except InvalidData:
        found = _at_field(message, at, seen)
        return found if found.cut_off or not cut_off else None
    return None if cut_off else _Found(message.tell("nested too deep"))


def _in_value(field: FieldDescriptor, value: bytes, offset: int, path: str) -> _Found | None:
    """What is wrong with a value that is there in full."""
    if field.message_type is not None and not _reads(field.message_type, value):
        inner = _Message(field.message_type, value, offset, path)
        return _Found(inner.tell(f"cannot be read from byte {offset} on, or nested too deep"), inside=inner)
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            value.decode()
        except UnicodeDecodeError as exc:
            return _Found(f"{path}: no UTF-8 at byte {offset + exc.start}")
    return None


def _at_field(message: _Message, at: int, seen: Counter[str]) -> _Found:
    """Why no field can be read here, though there are bytes."""
    where = message.offset + at
    try:
        tag, value = _number(message.data, at, 5, 32, "its tag")
        _check_value(message.data, tag, value)
    except _NoFieldError as exc:
        return _Found(message.tell(f"byte {where} is no protobuf field ({exc})"))
    except _CutOffError as exc:
        inside = None
        if exc.value and (field := _delimited(message.kind, tag)) and field.message_type is not None:
            path = _path(message, field, seen)
            inside = _Message(field.message_type, message.data[exc.value :], message.offset + exc.value, path)
        return _Found(message.tell(f"cut off at byte {where} ({exc})"), cut_off=True, inside=inside)
    raise AssertionError("a field that can be read")


class _NoFieldError(Exception):
    pass


class _CutOffError(Exception):
    value = 0
    """Where a delimited value begins that is cut off."""


def _check_value(data: bytes, tag: int, at: int) -> None:
    field, wire_type = tag >> 3, tag & 7
    if field == 0 or wire_type in (4, 6, 7):
        raise _NoFieldError(f"tag {tag}")
    if wire_type == 0:
        _number(data, at, 10, 70, f"the number of field {field}")
        return
    if wire_type == 3:
        raise _NoFieldError(f"group {field} does not end, or holds what is none")
    wanted = 8 if wire_type == 1 else 4
    if wire_type == 2:
        wanted, at = _number(data, at, 5, 32, f"the length of field {field}")
    if wanted > len(data) - at:
        error = _CutOffError(f"field {field} wants {wanted} bytes, {len(data) - at} are left")
        error.value = at if wire_type == 2 else 0
        raise error


def _number(data: bytes, at: int, most: int, bits: int, what: str) -> tuple[int, int]:
    """A varint, and where it ends."""
    number = 0
    for i in range(most):
        if at + i >= len(data):
            raise _CutOffError(f"inside {what}")
        number |= (data[at + i] & 0x7F) << 7 * i
        if data[at + i] < 0x80 and number >> bits == 0:
            return number, at + i + 1
    raise _NoFieldError(f"{what} is too long")


def _delimited(kind: Descriptor, tag: int) -> FieldDescriptor | None:
    return kind.fields_by_number.get(tag >> 3) if tag & 7 == 2 else None


def _path(message: _Message, field: FieldDescriptor, seen: Counter[str]) -> str:
    """Of the next value of this field."""
    path = f"{message.path}.{field.name}".lstrip(".")
    if not field.is_repeated:
        return path
    seen[field.name] += 1
    return f"{path}[{seen[field.name] - 1}]"


def _reads(kind: Descriptor, data: bytes) -> bool:
    try:
        GetMessageClass(kind).FromString(data)
    except DecodeError:
        return False
    return True
