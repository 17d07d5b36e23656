"""A made-up system whose eSpans have known parents: nine spans a trace over five services on five hosts.

Other lengths of traces, and other numbers of attributes, show how cost grows. Fast enough to load the bridge: values
are drawn in columns, and written into copies of a template's bytes (bridge.cli.span_template).
Spans are made as OTLP, or as points of one DataKit agent, on whose host all five services run then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from bridge.cli.call_tree import SERVICES, SHOP, Role
from bridge.cli.span_template import U64, Head, SpanTemplate
from bridge.spans.ids import mix

THREADS = ("exact", "agent")
ROLES = SHOP
SPANS_PER_TRACE = len(ROLES)
_STRETCH = 0.5, 1.3
"""A trace takes between these times what its roles say."""


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


@dataclass(frozen=True)
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
    roles: tuple[Role, ...] = ROLES
    """What happens in a trace."""
    attributes: int | None = None
    """Attributes a span; 26 if left out."""

    @property
    def longest_s(self) -> float:
        """Upper bound of a trace's duration."""
        return self.roles[0].end_us * _STRETCH[1] / 1e6

    @property
    def busy_threads(self) -> int:
        """How many threads of one service a trace needs at once, at most."""
        return int(self._rank.max()) + 1

    @property
    def fewest(self) -> int:
        """Spans of a trace in the group that has fewest; a request is of one group."""
        return min(int(sum(roles.size for _, roles in blocks)) for blocks in self._groups.values())

    def traces(self, first: int, start_ns: U64) -> Traces:
        """Traces number first, first + 1, ... that start at these times (ns since the epoch)."""
        roles, n = self.roles, start_ns.size
        number = np.arange(first, first + n, dtype=np.uint64)
        low, high = _STRETCH
        stretch = low + (high - low) * self._uniform(number, 1)
        begin = np.array([[r.start_us] for r in roles]) * stretch
        end = np.array([[r.end_us] for r in roles]) * stretch
        calls = np.array([r.call for r in roles], np.uint64)[:, None]
        served = np.array([i if r.entry else r.parent for i, r in enumerate(roles)], np.uint64)[:, None]
        thread = self._draw(number, self._salt(1) + served, 1 << 56, 1 << 63)
        each = np.arange(len(roles), dtype=np.uint64)[:, None]
        if self.threads == "agent":  # what current agents send: a random id on every exit
            exits = np.array([not r.entry for r in roles])[:, None]
            thread = np.where(exits, self._draw(number, self._salt(4) + each, 1 << 56, 1 << 63), thread)
        start = start_ns + (begin * 1000).astype(np.uint64) // np.uint64(1000) * np.uint64(1000)
        hosts = [0 if self.points else SERVICES.index(r.service) for r in roles]
        boot = np.array([1 << 50 | host << 40 for host in hosts], np.uint64)[:, None]
        on_thread = number * np.uint64(self.busy_threads) + self._rank[served[:, 0], None]
        return Traces(
            span_id=self._hash(number, self._salt(8) + each),
            start_ns=start,
            end_ns=start + ((end - begin).astype(np.uint64)) * np.uint64(1000),
            ktime=start % np.uint64(1 << 49) + boot,
            req_seq=self._draw(number, self._salt(2) + calls, 1 << 28, 1 << 32),
            resp_seq=self._draw(number, self._salt(3) + calls, 1 << 28, 1 << 32),
            thread_trace_id=thread,
            tid=np.uint64(1 << 14) + on_thread % np.uint64(self.thread_count),
            client_port=self._draw(number, self._salt(5) + calls, 10_000, 61_000),
        )

    def requests(self, traces: Traces, batch: int) -> Iterator[Request]:
        """The traces' spans as requests of at most `batch` spans; those of OTLP are of one service each."""
        for service, blocks in self._groups.items():
            rows = [_Block(template, traces, roles) for template, roles in blocks]
            for parts, spans in _cut(rows, traces.span_id.shape[1], batch):
                head = b"" if self.points else self._heads[service].before(sum(map(len, parts)))
                yield Request(b"".join([head, *parts]), spans)

    def truth(self, traces: Traces) -> Iterator[str]:
        """CSV lines span_id,parent_span_id,trace_id,kind of the traces, without a header."""
        for column in traces.span_id.T.tolist():
            for role, span_id in zip(self.roles, column, strict=True):
                parent = f"{column[role.parent]:016x}" if role.parent >= 0 else ""
                yield f"{span_id:016x},{parent},{column[0]:032x},{'entry' if role.entry else 'exit'}"

    def _hash(self, number: U64, salt: U64) -> U64:
        """Distinct for distinct (number, salt) while number < 2**(64 - _salt_bits): `mix` is one to one."""
        return mix(mix(np.array([self.seed], np.uint64)) ^ (number << np.uint64(self._salt_bits) | salt))

    def _uniform(self, number: U64, salt: int) -> NDArray[np.float64]:
        return self._hash(number, np.array([salt], np.uint64)) / 2.0**64

    def _draw(self, number: U64, salt: U64, low: int, high: int) -> U64:
        return np.uint64(low) + self._hash(number, salt) % np.uint64(high - low)

    @cached_property
    def _salt_bits(self) -> int:
        """Sixteen ranges of salts, each with room for every role."""
        return 4 + max(4, (len(self.roles) - 1).bit_length())

    def _salt(self, number: int) -> np.uint64:
        """The start of a range."""
        return np.uint64(number << self._salt_bits - 4)

    @cached_property
    def _rank(self) -> U64:
        """How many entries of its service come before each entry in a trace: they keep to different threads."""
        seen: dict[str, int] = {}
        rank = np.zeros(len(self.roles), np.uint64)
        for i, role in enumerate(self.roles):
            if role.entry:
                rank[i] = seen.get(role.service, 0)
                seen[role.service] = int(rank[i]) + 1
        return rank

    @cached_property
    def _heads(self) -> Mapping[str, Head]:
        return {service: Head.of(service) for service in SERVICES}

    @cached_property
    def _groups(self) -> Mapping[str, Sequence[tuple[SpanTemplate, NDArray[np.int64]]]]:
        """What a request is made of, by service (points: of all): templates, and the roles written with each."""
        make = partial(SpanTemplate.of_points, with_span_id=self.with_span_ids) if self.points else SpanTemplate.of_otlp
        longest_us = int(self.longest_s * 1e6)
        alike: dict[Role, list[int]] = {}
        for i, role in enumerate(self.roles):
            alike.setdefault(replace(role, parent=min(role.parent, 0), call=0, start_us=0, end_us=0), []).append(i)
        groups: dict[str, list[tuple[SpanTemplate, NDArray[np.int64]]]] = {}
        for role, positions in alike.items():
            template = make(role, attributes=self.attributes, longest_us=longest_us)
            groups.setdefault("" if self.points else role.service, []).append((template, np.array(positions)))
        order = ("", *SERVICES)
        return {service: groups[service] for service in sorted(groups, key=order.index)}


class _Block:
    """The spans of all traces that one template is written with, trace by trace."""

    def __init__(self, template: SpanTemplate, traces: Traces, roles: NDArray[np.int64]) -> None:
        def values(key: str) -> U64:
            return _values(traces, key, roles)

        n = traces.span_id.shape[1] * roles.size
        self.per_trace = roles.size
        self.spans = n
        self._data = template.fill(n, values).data
        self._row_bytes = len(self._data) // n

    def part(self, first: int, end: int) -> memoryview:
        """The bytes of spans first to end."""
        return self._data[first * self._row_bytes : end * self._row_bytes]


def _values(traces: Traces, key: str, roles: NDArray[np.int64]) -> U64:
    """One value a span, of all traces and these roles, trace by trace."""
    if key == "start":
        return _values(traces, "start_ns", roles) // np.uint64(1000)
    if key == "duration":
        return (_values(traces, "end_ns", roles) - _values(traces, "start_ns", roles)) // np.uint64(1000)
    column: U64 = getattr(traces, "client_port" if key == "port" else key)
    return column[roles].T.reshape(-1)


def _cut(blocks: Sequence[_Block], traces: int, batch: int) -> Iterator[tuple[list[memoryview], int]]:
    """Parts of the blocks that make requests of at most `batch` spans, whole traces where that is enough for one."""
    per_trace = sum(block.per_trace for block in blocks)
    if per_trace > batch:
        for block in blocks:
            for at in range(0, block.spans, batch):
                end = min(at + batch, block.spans)
                yield [block.part(at, end)], end - at
        return
    step = batch // per_trace
    for at in range(0, traces, step):
        end = min(at + step, traces)
        yield [b.part(at * b.per_trace, end * b.per_trace) for b in blocks], (end - at) * per_trace
