"""A made-up system whose eSpans have known parents: nine spans a trace over five services on five hosts.

Fast enough to load the bridge: a span is a row of bytes copied from its role's template, in which every field that
differs has a fixed width (numbers are drawn from the range of one varint length) and is patched in whole columns.
Spans are made as OTLP, or as points of one DataKit agent, on whose host all five services run then.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bridge.codec.points.point_pb2 import PBPoint
from bridge.spans.ids import mix

U64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

THREADS = ("exact", "agent")
SERVICES = ("gateway", "cart", "redis", "catalog", "postgres")


@dataclass(frozen=True, slots=True)
class Role:
    """One of the nine places in a trace. Times in us from the trace's start, before the trace's own stretch."""

    service: str
    parent: int
    """Position of the parent role, -1 at the root."""
    call: int
    """Number of the call it is one side of: both sides see the same sequence numbers."""
    entry: bool
    start_us: int
    end_us: int
    route: str


ROLES = (
    Role("gateway", -1, 0, True, 0, 12_000, "/checkout"),
    Role("gateway", 0, 1, False, 500, 5_500, "/cart/items"),
    Role("cart", 1, 1, True, 700, 5_300, "/cart/items"),
    Role("cart", 2, 2, False, 1_200, 4_200, "HGETALL"),
    Role("redis", 3, 2, True, 1_400, 4_000, "HGETALL"),
    Role("gateway", 0, 3, False, 6_000, 11_000, "/catalog/prices"),
    Role("catalog", 5, 3, True, 6_200, 10_800, "/catalog/prices"),
    Role("catalog", 6, 4, False, 7_000, 10_000, "SELECT prices"),
    Role("postgres", 7, 4, True, 7_200, 9_800, "SELECT prices"),
)
SPANS_PER_TRACE = len(ROLES)
LONGEST_S = 0.016
"""Upper bound of a trace's duration."""


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """Values of n simulated traces, one row a role: shape (roles, n)."""

    span_id: U64
    start_ns: U64
    end_ns: U64
    ktime: U64
    req_seq: U64
    resp_seq: U64
    thread_trace_id: U64
    tid: U64
    client_port: U64


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One serialized ExportTraceServiceRequest, or PBPoints."""

    data: bytes
    spans: int


@dataclass(slots=True)
class Simulation:
    """Makes traces by number: the same seed and number give the same ids on every machine."""

    seed: int = 1
    threads: str = "exact"
    thread_count: int = 4096
    """Threads a service serves its requests on, in turn; more than are ever busy at once, below 2**20."""
    points: bool = False
    """Points instead of OTLP spans."""
    with_span_ids: bool = True
    """Whether points carry the span ids of the truth; an agent sends none."""
    _templates: dict[int, "_Template"] = field(default_factory=dict)

    def traces(self, first: int, start_ns: U64) -> Traces:
        """Traces number first, first + 1, ... that start at these times (ns since the epoch)."""
        n = start_ns.size
        number = np.arange(first, first + n, dtype=np.uint64)
        stretch = 0.5 + 0.8 * self._uniform(number, 1)
        begin = np.array([[r.start_us] for r in ROLES]) * stretch
        end = np.array([[r.end_us] for r in ROLES]) * stretch
        calls = np.array([r.call for r in ROLES], np.uint64)[:, None]
        request = np.array([_served_by(i) for i in range(SPANS_PER_TRACE)], np.uint64)[:, None]
        thread = self._draw(number, 16 + request, 1 << 56, 1 << 63)
        if self.threads == "agent":  # what current agents send: a random id on every exit
            exits = np.array([not r.entry for r in ROLES])[:, None]
            role = np.arange(SPANS_PER_TRACE, dtype=np.uint64)[:, None]
            thread = np.where(exits, self._draw(number, 64 + role, 1 << 56, 1 << 63), thread)
        start = start_ns + (begin * 1000).astype(np.uint64) // np.uint64(1000) * np.uint64(1000)
        hosts = [0 if self.points else SERVICES.index(r.service) for r in ROLES]
        boot = np.array([1 << 50 | host << 40 for host in hosts], np.uint64)[:, None]
        return Traces(
            span_id=self._hash(number, 128 + np.arange(SPANS_PER_TRACE, dtype=np.uint64)[:, None]),
            start_ns=start,
            end_ns=start + ((end - begin).astype(np.uint64)) * np.uint64(1000),
            ktime=start % np.uint64(1 << 49) + boot,
            req_seq=self._draw(number, 32 + calls, 1 << 28, 1 << 32),
            resp_seq=self._draw(number, 48 + calls, 1 << 28, 1 << 32),
            thread_trace_id=thread,
            tid=np.broadcast_to((1 << 14) + number % np.uint64(self.thread_count), (SPANS_PER_TRACE, n)),
            client_port=self._draw(number, 80 + calls, 10_000, 61_000),
        )

    def requests(self, traces: Traces, batch: int) -> Iterator[Request]:
        """The traces' spans as requests of at most `batch` spans; those of OTLP are of one service each."""
        if self.points:
            yield from self._requests(traces, batch, list(range(SPANS_PER_TRACE)), lambda spans: spans)
            return
        for service in SERVICES:
            head = _resource_head(service)
            roles = [i for i, r in enumerate(ROLES) if r.service == service]
            yield from self._requests(traces, batch, roles, partial(_wrap, head))

    def _requests(
        self, traces: Traces, batch: int, roles: list[int], wrap: Callable[[bytes], bytes]
    ) -> Iterator[Request]:
        per_role = max(1, batch // len(roles))
        for at in range(0, traces.span_id.shape[1], per_role):
            part = slice(at, at + per_role)
            blocks = [self._template(i).fill(traces, i, part) for i in roles]
            yield Request(wrap(b"".join(blocks)), len(roles) * traces.span_id[0, part].size)

    @staticmethod
    def truth(traces: Traces) -> Iterator[str]:
        """CSV lines span_id,parent_span_id,trace_id,kind of the traces, without a header."""
        for column in traces.span_id.T.tolist():
            for role, span_id in zip(ROLES, column, strict=True):
                parent = f"{column[role.parent]:016x}" if role.parent >= 0 else ""
                yield f"{span_id:016x},{parent},{column[0]:032x},{'entry' if role.entry else 'exit'}"

    def _hash(self, number: U64, salt: U64) -> U64:
        """Distinct for distinct (number, salt) while number < 2**56 and salt < 256: `mix` is one to one."""
        return mix(mix(np.array([self.seed], np.uint64)) ^ (number << np.uint64(8) | salt))

    def _uniform(self, number: U64, salt: int) -> NDArray[np.float64]:
        return self._hash(number, np.uint64(salt)[None]) / 2.0**64  # type: ignore[index]

    def _draw(self, number: U64, salt: U64, low: int, high: int) -> U64:
        return np.uint64(low) + self._hash(number, salt) % np.uint64(high - low)

    def _template(self, role: int) -> "_Template":
        if role not in self._templates:
            self._templates[role] = (
                _point_template(ROLES[role], with_span_id=self.with_span_ids)
                if self.points
                else _span_template(ROLES[role])
            )
        return self._templates[role]


def _served_by(role: int) -> int:
    """The entry role in whose thread a role runs: itself, or an exit's parent."""
    return role if ROLES[role].entry else ROLES[role].parent


Put = Callable[[Bytes, int, U64], None]
"""Writes a column of values into a block of rows, from a position in the row on."""


def _put_varint(width: int) -> Put:
    def put(block: Bytes, at: int, values: U64) -> None:
        for i in range(width):
            more = 0x80 if i < width - 1 else 0
            block[:, at + i] = (values >> np.uint64(7 * i) & np.uint64(0x7F) | np.uint64(more)).astype(np.uint8)

    return put


def _put_fixed(dtype: str) -> Put:
    def put(block: Bytes, at: int, values: U64) -> None:
        block[:, at : at + 8] = np.ascontiguousarray(values.astype(dtype)).view(np.uint8).reshape(-1, 8)

    return put


def _put_decimal(block: Bytes, at: int, values: U64) -> None:
    digits = values[:, None] // np.array([10000, 1000, 100, 10, 1], np.uint64)
    block[:, at : at + 5] = digits % np.uint64(10) + np.uint64(48)


def _put_hex(block: Bytes, at: int, values: U64) -> None:
    nibbles = values[:, None] >> np.arange(60, -1, -4, dtype=np.uint64) & np.uint64(15)
    block[:, at : at + 16] = _HEX_DIGITS[nibbles]


_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_NUMBERS: Mapping[str, tuple[int, int]] = MappingProxyType(  # key: (value of the right varint length, its bytes)
    {
        "req_seq": (0xF1234567, 5),
        "resp_seq": (0xF7654321, 5),
        "thread_trace_id": (0x7123456789ABCDEF, 9),
        "tid": (0x1FEDCB, 3),
        "ktime": (0x4_1234_5678_9ABC, 8),
        "start": (0x6_CBA9_8765_4321, 8),
        "duration": (0x3ABC, 2),
    }
)
_SPAN_ID, _START, _END, _PORT = 0x1122334455667788, 0x0102030405060708, 0x1112131415161718, b"54321"


@dataclass(frozen=True, slots=True, eq=False)
class _Template:
    """The bytes of one role's span, as a repeated field, and where its changing fields lie."""

    row: Bytes
    places: Mapping[str, tuple[int, Put]]

    @classmethod
    def of(cls, tag: bytes, span: bytes, words: Mapping[str, tuple[bytes, Put]]) -> "_Template":
        """`words`: what stands in the span for each value, and how to write the value over it."""
        data = tag + _varint(len(span)) + span
        numbers = {key: (_varint(value), _put_varint(width)) for key, (value, width) in _NUMBERS.items()}
        places = {key: (data.index(word), put) for key, (word, put) in {**numbers, **words}.items()}
        return cls(np.frombuffer(data, np.uint8), places)

    def fill(self, traces: Traces, role: int, part: slice) -> bytes:
        """The spans of this role in a slice of the traces, one after another."""
        block = np.tile(self.row, (traces.span_id[role, part].size, 1))
        start, end = traces.start_ns[role, part], traces.end_ns[role, part]
        values = {
            "start_ns": start,
            "end_ns": end,
            "start": start // np.uint64(1000),
            "duration": (end - start) // np.uint64(1000),
            "port": traces.client_port[role, part],
            **{
                key: getattr(traces, key)[role, part]
                for key in ("span_id", "req_seq", "resp_seq", "thread_trace_id", "tid", "ktime")
            },
        }
        for key, (at, put) in self.places.items():
            put(block, at, values[key])
        return block.tobytes()


def _span_template(role: Role) -> _Template:
    words = {
        "span_id": (_SPAN_ID.to_bytes(8, "big"), _put_fixed(">u8")),
        "start_ns": (_START.to_bytes(8, "little"), _put_fixed("<u8")),
        "end_ns": (_END.to_bytes(8, "little"), _put_fixed("<u8")),
        "port": (_PORT, _put_decimal),
    }
    return _Template.of(b"\x12", _sample_span(role).SerializeToString(), words)


def _point_template(role: Role, *, with_span_id: bool) -> _Template:
    """A point as an agent sends it, a field of PBPoints; times of this century have nine bytes as ns."""
    point = PBPoint(name="dketrace", time=_SPAN_ID)
    words: dict[str, tuple[bytes, Put]] = {
        "start_ns": (_varint(_SPAN_ID), _put_varint(9)),
        "port": (_PORT, _put_decimal),
    }
    values = _values(role)
    if with_span_id:
        values["span_id"] = f"{_END:016x}"
        words["span_id"] = (f"{_END:016x}".encode(), _put_hex)
    for key, value in values.items():
        if isinstance(value, str):
            point.fields.add(key=key, s=value)
        else:
            point.fields.add(key=key, i=value)
    return _Template.of(b"\x0a", point.SerializeToString(), words)


def _values(role: Role) -> dict[str, str | int]:
    """What a span says, by key."""
    index = SERVICES.index(role.service)
    http = role.route.startswith("/")
    kind = "entry" if role.entry else "exit"
    own, port = f"10.0.{index}.7", _PORT.decode()
    near, far = ("8080", port) if role.entry else (port, "8080")
    peer = ROLES[role.parent].service if role.entry and role.parent >= 0 else ""
    other = f"10.0.{SERVICES.index(peer)}.7" if peer else ("203.0.113.9" if role.entry else f"10.96.0.{role.call}")
    operation = "HTTP" if http else ("Redis" if role.route == "HGETALL" else "PostgreSQL")
    text = {
        "ebpf_span_type": kind,
        "direction": "incoming" if role.entry else "outgoing",
        "src_ip": own, "src_port": near, "dst_ip": other, "dst_port": far,
        "pid": str(1000 + index), "process_name": role.service, "thread_name": "worker", "service": role.service,
        "source_type": "ebpf", "span_type": kind, "operation": operation, "status": "ok",
        "http_method": "POST" if http else "", "http_route": role.route, "http_status_code": "200",
        "resource": f"POST {role.route}" if http else role.route,
    }  # fmt: skip
    return {**text, **{key: value for key, (value, _) in _NUMBERS.items()}, "bytes_read": 512}


def _sample_span(role: Role) -> Span:
    values = _values(role)
    span = Span(name=str(values["resource"]), kind=Span.SPAN_KIND_SERVER if role.entry else Span.SPAN_KIND_CLIENT)
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


def _resource_head(service: str) -> tuple[bytes, bytes]:
    """The serialized resource field of a ResourceSpans and scope field of a ScopeSpans."""
    resource = Resource()
    for key, value in (("service.name", service), ("host.name", f"node-{SERVICES.index(service)}")):
        pair = KeyValue(key=key)
        pair.value.string_value = value
        resource.attributes.append(pair)
    return _field(1, resource.SerializeToString()), _field(1, InstrumentationScope(name="ebpf").SerializeToString())


def _wrap(head: tuple[bytes, bytes], spans: bytes) -> bytes:
    return _field(1, head[0] + _field(2, head[1] + spans))


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
