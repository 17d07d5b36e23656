"""OTLP/JSON to batches of spans, and serialized ExportTraceServiceRequests to OTLP/JSON.

OTLP/JSON is protobuf's JSON mapping, but for ids, which are hex, and enums, which are numbers. Fields and their types
are those of opentelemetry-proto as it is installed. A request is turned into the protobuf that stock senders would have
sent, and goes the same way from there.

Decided against: protobuf's own json_format, which takes ids for base64, says at most roughly where a body is wrong, and
costs several times as much.
"""

import json
import math
import re
from base64 import b64encode
from binascii import a2b_base64, a2b_hex
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.codec.limits import RequestLimits
from bridge.codec.otlp_protobuf import Decoded, decoded
from bridge.codec.otlp_scan import scan_request, what_is_wrong
from bridge.errors import InvalidData

MAX_DEPTH: Final = 100
"""So deep protobuf reads messages inside a message."""

_PATH: Final = "resourceSpans[{}].scopeSpans[{}].spans[{}]"
_IDS: Final = frozenset(("trace_id", "span_id", "parent_span_id"))
_DECIMAL: Final = re.compile(r"-?[0-9]{1,20}")
_BLANK: Final = b" \t\n\r"
_BASE64: Final = re.compile(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}(==)?|[A-Za-z0-9+/]{3}=?)?")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Json = Any
"""What json.loads returns, numbers with a point or an exponent as Decimal."""


class _Wrong(Exception):
    """A value that cannot be read; where it is becomes known on the way out."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.where = ""

    def __str__(self) -> str:
        return f"{self.where.lstrip('.') or 'request'}: {self.args[0]}"


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message."""

    name: str
    read: Callable[[Json, int], Any]
    """From JSON, at this depth; raises _Wrong."""
    write: Callable[[Any], Json]
    """To JSON."""


def decode_json(data: bytes, *, peer: str, limits: RequestLimits = RequestLimits()) -> Decoded:  # noqa: B008 - frozen
    """Decode an OTLP/JSON ExportTraceServiceRequest that came from this address.

    Names may be written in camelCase or as in the .proto, 64-bit integers as text or number, enums as number or name;
    null counts as absent, and unknown names are ignored. A body without content is an empty request, as it is in
    protobuf. An id is an even number of hex digits; one of a wrong length costs what it costs in protobuf: an ordinary
    span, or nothing. Raises InvalidData, which says what is wrong and where, and TooLarge for a request that has more
    than the limits allow.
    """
    limits.check_json(len(data))
    request = _parse(data)
    limits.check_spans(_count_spans(request))
    try:
        message = ExportTraceServiceRequest(**_read_message(ExportTraceServiceRequest.DESCRIPTOR, request, 0))
    except _Wrong as exc:
        raise InvalidData(str(exc)) from exc
    body = message.SerializeToString()
    return decoded(scan_request(body, limits), peer=peer, limits=limits, request_bytes=len(body), path=_PATH)


def encode_json(request: bytes) -> bytes:
    """A serialized ExportTraceServiceRequest as one JSON object without a newline, as the Collector's file exporter
    writes it: hex ids, camelCase, enums as numbers, 64-bit integers as text. Fields that have their default are left
    out. Raises InvalidData for bytes that are no such request."""
    try:
        message = ExportTraceServiceRequest.FromString(request)
    except DecodeError as exc:
        raise InvalidData(what_is_wrong(request)) from exc
    text = json.dumps(_write_message(message), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _parse(data: bytes) -> Json:
    if not data.strip(_BLANK):
        return {}
    try:
        return json.loads(data.decode(), parse_float=Decimal)
    except UnicodeDecodeError as exc:
        raise InvalidData(f"request: no UTF-8 at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise InvalidData(f"request: no JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidData("request: nested too deep") from exc
    except (ValueError, ArithmeticError) as exc:  # a number with more digits or a larger exponent than Python takes
        raise InvalidData("request: a number that is too long") from exc


def _count_spans(request: Json) -> int:
    """How many spans a request has, as far as it has the form of one."""
    level = [request]
    for names in (("resourceSpans", "resource_spans"), ("scopeSpans", "scope_spans")):
        level = [item for message in level for item in _listed(message, names)]
    return sum(len(_listed(scope, ("spans",))) for scope in level)


def _listed(message: Json, names: tuple[str, ...]) -> list[Json]:
    found = [message[name] for name in names if name in message] if isinstance(message, dict) else []
    return found[-1] if found and isinstance(found[-1], list) else []


@cache
def _fields(descriptor: Descriptor) -> dict[str, _Field]:
    """The fields of a message by each name they may have in JSON."""
    fields: dict[str, _Field] = {}
    for field in descriptor.fields:
        fields[field.json_name] = fields[field.name] = _field(field)
    return fields


@cache
def _writers(descriptor: Descriptor) -> dict[int, tuple[str, Callable[[Any], Json]]]:
    """By the number of a field what it is called in JSON and how its value is written."""
    return {field.number: (field.json_name, _fields(descriptor)[field.name].write) for field in descriptor.fields}


def _field(field: FieldDescriptor) -> _Field:
    read, write = _codec(field)
    if field.is_repeated:
        return _Field(field.name, partial(_read_list, read), lambda values: [write(value) for value in values])
    return _Field(field.name, read, write)


def _codec(field: FieldDescriptor) -> tuple[Callable[[Json, int], Any], Callable[[Any], Json]]:
    if field.message_type is not None:
        return partial(_read_span if field.message_type is Span.DESCRIPTOR else _read_message, field.message_type), (
            _write_message
        )
    if field.enum_type is not None:
        return partial(_read_enum, field.enum_type), int
    if field.cpp_type in _INTEGERS:
        low, high = _INTEGERS[field.cpp_type]
        return partial(_read_integer, low, high), int if high < 2**32 else str
    if field.type == FieldDescriptor.TYPE_BYTES:
        return (_read_hex, bytes.hex) if field.name in _IDS else (_read_base64, _write_base64)
    return _SCALARS[field.cpp_type]


def _read_message(descriptor: Descriptor, value: Json, depth: int) -> dict[str, Any]:
    """What the message's constructor is to be given."""
    if not isinstance(value, dict):
        raise _Wrong(f"want an object, got {_told(value)}")
    if depth > MAX_DEPTH:
        raise _Wrong(f"nested deeper than {MAX_DEPTH} messages")
    fields = _fields(descriptor)
    found: dict[str, Any] = {}
    for key, item in value.items():
        field = fields.get(key)
        if field is None or item is None:
            continue
        try:
            found[field.name] = field.read(item, depth + 1)
        except _Wrong as exc:
            exc.where = f".{key}{exc.where}"
            raise
    return found


def _read_span(descriptor: Descriptor, value: Json, depth: int) -> Span:
    """The message itself, which takes a tenth of the memory of what it is read from."""
    return Span(**_read_message(descriptor, value, depth))


def _read_list(read: Callable[[Json, int], Any], value: Json, depth: int) -> list[Any]:
    """The list, its items replaced one by one by what is read, so that both are never there as a whole."""
    if not isinstance(value, list):
        raise _Wrong(f"want an array, got {_told(value)}")
    for i, item in enumerate(value):
        try:
            value[i] = read(item, depth)
        except _Wrong as exc:
            exc.where = f"[{i}]{exc.where}"
            raise
    return value


def _read_text(value: Json, _: int) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"want text, got {_told(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Wrong("half of a surrogate pair, which is no text") from None
    return value


def _read_bool(value: Json, _: int) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"want true or false, got {_told(value)}")
    return value


def _read_integer(low: int, high: int, value: Json, _: int) -> int:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise _Wrong(f"want an integer, got {_told(value)}")
    if not low <= value <= high:
        raise _Wrong(f"want an integer from {low} to {high}, got {_told(value)}")
    if int(value) != value:
        raise _Wrong(f"want an integer, got {_told(value)}")
    return int(value)


def _read_enum(descriptor: EnumDescriptor, value: Json, depth: int) -> int:
    if isinstance(value, str):
        if value not in descriptor.values_by_name:
            raise _Wrong(f"{_told(value)} is none of {', '.join(descriptor.values_by_name)}")
        return int(descriptor.values_by_name[value].number)
    return _read_integer(-(2**31), 2**31 - 1, value, depth)


def _read_double(value: Json, _: int) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, float):  # NaN, Infinity: no JSON, but some write them
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _Wrong(f"want a number, got {_told(value)}")
    return number


def _write_double(value: float) -> Json:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _read_hex(value: Json, _: int) -> bytes:
    try:
        return a2b_hex(value if isinstance(value, str) else "?")
    except ValueError:
        raise _Wrong(f"want pairs of hex digits, got {_told(value)}") from None


def _read_base64(value: Json, _: int) -> bytes:
    """Standard or URL-safe, with padding or without."""
    text = value.translate(_URL_SAFE) if isinstance(value, str) else "?"
    if not _BASE64.fullmatch(text):
        raise _Wrong(f"want base64, got {_told(value)}")
    return a2b_base64(text + "=" * (-len(text) % 4))


def _write_base64(value: bytes) -> str:
    return b64encode(value).decode()


def _write_message(message: Any) -> dict[str, Json]:
    writers = _writers(message.DESCRIPTOR)
    found = {}
    for field, value in message.ListFields():
        name, write = writers[field.number]
        found[name] = write(value)
    return found


def _told(value: Json) -> str:
    """A value as an error names it: short, whatever was sent."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, Decimal)) and not -(2**99) < value < 2**99:
        return "a huge number"
    text = json.dumps(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 64 else f"{text[:60]}..."


_INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_SCALARS: Final[dict[int, tuple[Callable[[Json, int], Any], Callable[[Any], Json]]]] = {
    FieldDescriptor.CPPTYPE_STRING: (_read_text, str),
    FieldDescriptor.CPPTYPE_BOOL: (_read_bool, bool),
    FieldDescriptor.CPPTYPE_DOUBLE: (_read_double, _write_double),
    FieldDescriptor.CPPTYPE_FLOAT: (_read_double, _write_double),
}
