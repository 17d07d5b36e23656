"""The bytes of simulated spans: a row copied from a template, in which each field that differs has a fixed width.

Numbers are drawn from the range of one varint length, so that they can be patched in whole columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.cli.call_tree import SERVICES, Role
from bridge.codec.points.point_pb2 import PBPoint

U64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

MIN_ATTRIBUTES = 4
"""What makes an eSpan: kind, direction and both sequence numbers."""
_SPAN_ID, _START, _END, _PORT = 0x1122334455667788, 0x0102030405060708, 0x1112131415161718, b"54321"
_NUMBERS: Mapping[str, int] = MappingProxyType(  # values of the right varint length
    {
        "req_seq": 0xF1234567,
        "resp_seq": 0xF7654321,
        "thread_trace_id": 0x7123456789ABCDEF,
        "tid": 0x1FEDCB,
        "ktime": 0x4_1234_5678_9ABC,
        "start": 0x6_CBA9_8765_4321,
        "duration": 0x3ABC,
    }
)
LONGEST_US = 1 << 14
"""A duration of two bytes is shorter."""
_WIDE_DURATION = 0x1ABCDE
_KEPT_FIRST = (
    "ebpf_span_type", "direction", "req_seq", "resp_seq", "thread_trace_id", "pid", "tid", "ktime",
    "src_ip", "src_port", "dst_ip", "dst_port", "duration", "start",
)  # fmt: skip
"""Attributes that are left out last."""
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_LOW_BITS = np.uint64(0x7F)

Put = Callable[["Rows", int, U64], None]
"""Writes a column of values into rows, from a position on; bytes behind it may become the template's again."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Copies of one template's bytes, to be patched from left to right."""

    template: Bytes
    block: Bytes
    """Shape (n, bytes of the template)."""

    @classmethod
    def of(cls, template: Bytes, n: int) -> "Rows":
        return cls(template, np.tile(template, (n, 1)))

    def put_words(self, at: int, words: U64, width: int) -> None:
        """Write the lowest `width` (8 at most) bytes of each word, little-endian."""
        behind = self.template[at + width : at + 8]
        if width + behind.size < 8:  # too near to the next row to write whole words
            self.block[:, at : at + width] = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
            return
        rest = int.from_bytes(bytes(width) + behind.tobytes(), "little")
        n, length = self.block.shape
        column: U64 = np.ndarray((n,), "<u8", self.block.data, at, (length,))
        np.bitwise_or(words, np.uint64(rest), out=column)


@dataclass(frozen=True, slots=True, eq=False)
class SpanTemplate:
    """The bytes of one role's span, as a repeated field, and where its changing fields lie, from left to right."""

    row: Bytes
    places: tuple[tuple[str, int, Put], ...]

    @classmethod
    def of_otlp(cls, role: Role, *, attributes: int | None = None, longest_us: int = 0) -> "SpanTemplate":
        """A span of a ScopeSpans."""
        words = {
            "span_id": (_SPAN_ID.to_bytes(8, "big"), _put_big),
            "start_ns": (_START.to_bytes(8, "little"), _put_little),
            "end_ns": (_END.to_bytes(8, "little"), _put_little),
        }
        values = _values(role, attributes, longest_us)
        return cls._of(b"\x12", _otlp_span(role, values).SerializeToString(), words, values)

    @classmethod
    def of_points(
        cls, role: Role, *, attributes: int | None = None, longest_us: int = 0, with_span_id: bool
    ) -> "SpanTemplate":
        """A point as an agent sends it, a field of PBPoints; times of this century have nine bytes as ns."""
        words: dict[str, tuple[bytes, Put]] = {"start_ns": (_varint(_SPAN_ID), _put_varint(9))}
        point, values = PBPoint(name="dketrace", time=_SPAN_ID), _values(role, attributes, longest_us)
        if with_span_id:
            values["span_id"] = f"{_END:016x}"
            words["span_id"] = (f"{_END:016x}".encode(), _put_hex)
        for key, value in values.items():
            if isinstance(value, str):
                point.fields.add(key=key, s=value)
            else:
                point.fields.add(key=key, i=value)
        return cls._of(b"\x0a", point.SerializeToString(), words, values)

    @classmethod
    def _of(
        cls, tag: bytes, span: bytes, words: Mapping[str, tuple[bytes, Put]], values: Mapping[str, str | int]
    ) -> "SpanTemplate":
        """`words`: what stands in the span for each value, and how to write the value over it."""
        data = tag + _varint(len(span)) + span
        numbers = {key: _varint(value) for key in _NUMBERS if isinstance(value := values.get(key), int)}
        all_words = {key: (word, _put_varint(len(word))) for key, word in numbers.items()} | dict(words)
        if _PORT.decode() in values.values():
            all_words["port"] = _PORT, _put_decimal
        places = ((key, data.index(word), put) for key, (word, put) in all_words.items())
        return cls(np.frombuffer(data, np.uint8), tuple(sorted(places, key=lambda place: place[1])))

    def fill(self, n: int, values: Callable[[str], U64]) -> Bytes:
        """n spans one after another; `values` gives the n values of a place."""
        rows = Rows.of(self.row, n)
        for key, at, put in self.places:
            put(rows, at, values(key))
        return rows.block.reshape(-1)


def _put_varint(width: int) -> Put:
    last = min(width, 8)
    more = np.uint64(sum(0x80 << 8 * i for i in range(min(width - 1, 8))))

    def put(rows: Rows, at: int, values: U64) -> None:
        words = np.full(values.size, more)
        for i in range(last):  # seven bits of the value into each byte
            words |= (values << np.uint64(i)) & (_LOW_BITS << np.uint64(8 * i))
        rows.put_words(at, words, last)
        if width > last:
            rows.block[:, at + last] = (values >> np.uint64(56)).astype(np.uint8) & np.uint8(0x7F)

    return put


def _put_little(rows: Rows, at: int, values: U64) -> None:
    rows.put_words(at, values, 8)


def _put_big(rows: Rows, at: int, values: U64) -> None:
    rows.put_words(at, values.byteswap(), 8)


_FIVE_DIGITS: U64 = np.array([int.from_bytes(f"{n:05d}".encode(), "little") for n in range(1 << 16)], np.uint64)


def _put_decimal(rows: Rows, at: int, values: U64) -> None:
    rows.put_words(at, _FIVE_DIGITS[values], 5)


def _put_hex(rows: Rows, at: int, values: U64) -> None:
    nibbles = values[:, None] >> np.arange(60, -1, -4, dtype=np.uint64) & np.uint64(15)
    rows.block[:, at : at + 16] = _HEX_DIGITS[nibbles]


def _values(role: Role, attributes: int | None, longest_us: int) -> dict[str, str | int]:
    """What a span says, by key: 26 keys, or as many as asked for."""
    index = SERVICES.index(role.service)
    http = role.route.startswith("/")
    kind = "entry" if role.entry else "exit"
    own, port = f"10.0.{index}.7", _PORT.decode()
    near, far = ("8080", port) if role.entry else (port, "8080")
    operation = "HTTP" if http else ("Redis" if role.route == "HGETALL" else "PostgreSQL")
    values: dict[str, str | int] = {
        "ebpf_span_type": kind,
        "direction": "incoming" if role.entry else "outgoing",
        "src_ip": own, "src_port": near, "dst_ip": _other_ip(role), "dst_port": far,
        "pid": str(1000 + index), "process_name": role.service, "thread_name": "worker", "service": role.service,
        "source_type": "ebpf", "span_type": kind, "operation": operation, "status": "ok",
        "http_method": "POST" if http else "", "http_route": role.route, "http_status_code": "200",
        "resource": f"POST {role.route}" if http else role.route,
    }  # fmt: skip
    values |= _NUMBERS
    values["bytes_read"] = 512
    if longest_us >= LONGEST_US:
        values["duration"] = _WIDE_DURATION
    if attributes is None:
        return values
    values |= {f"extra_{i}": f"attribute {i}" for i in range(len(values), attributes)}
    order = dict.fromkeys((*_KEPT_FIRST, *values))
    kept = set(list(order)[:attributes])
    return {key: value for key, value in values.items() if key in kept}


def _other_ip(role: Role) -> str:
    if not role.entry:
        return f"10.96.0.{role.address}"
    return "203.0.113.9" if role.parent < 0 else f"10.0.{SERVICES.index(role.caller)}.7"


def _otlp_span(role: Role, values: Mapping[str, str | int]) -> Span:
    kind = Span.SPAN_KIND_SERVER if role.entry else Span.SPAN_KIND_CLIENT
    span = Span(name=str(values.get("resource", role.route)), kind=kind)
    span.span_id = _SPAN_ID.to_bytes(8, "big")
    span.start_time_unix_nano, span.end_time_unix_nano = _START, _END
    for key in sorted(values):
        value, pair = values[key], KeyValue(key=key)
        if isinstance(value, str):
            pair.value.string_value = value
        else:
            pair.value.int_value = value
        span.attributes.append(pair)
    return span


@dataclass(frozen=True, slots=True)
class Head:
    """What is around the spans of one service: a Resource field and a Scope field."""

    resource: bytes
    scope: bytes

    @classmethod
    def of(cls, service: str) -> "Head":
        resource = Resource()
        for key, value in (("service.name", service), ("host.name", f"node-{SERVICES.index(service)}")):
            pair = KeyValue(key=key)
            pair.value.string_value = value
            resource.attributes.append(pair)
        scope = InstrumentationScope(name="ebpf").SerializeToString()
        return cls(_tag(1, len(data := resource.SerializeToString())) + data, _tag(1, len(scope)) + scope)

    def before(self, span_bytes: int) -> bytes:
        """Everything before the spans in a request that holds so many bytes of them."""
        scope_spans = _tag(2, len(self.scope) + span_bytes) + self.scope
        whole = len(self.resource) + len(scope_spans) + span_bytes
        return _tag(1, whole) + self.resource + scope_spans


def _tag(number: int, length: int) -> bytes:
    """The start of a delimited field."""
    return bytes([number << 3 | 2]) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
