"""Traces that left a short while ago, kept to be looked at: a bounded ring, and what is searched in it.

One thread adds at a time, others read meanwhile: they work on a list of what was there when they began.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.codec.otlp_encode import TraceSpans
from bridge.web.span_views import SpanView, span_views

MAX_SPANS = 5_000
"""Of one trace; what is beyond is counted."""
TRACE_SHARE = 0.25
"""Of all the memory, which one trace may take."""
_LEVEL = 0
"""Of isal: a quarter of the bytes, in some 6 us a trace of nine spans."""
SPAN_COST, TRACE_COST = 512, 1024
"""Bytes of memory that a span and a trace take besides their OTLP, as measured; a test measures again."""


class Unpacking:
    """CPU time of unpacking traces for those who look at them, which several threads may do at once."""

    def __init__(self) -> None:
        self._lock, self._seconds = Lock(), 0.0

    def add(self, seconds: float) -> None:
        """Count time in."""
        with self._lock:
            self._seconds += seconds

    def taken(self) -> float:
        """Seconds since this was called last."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a request, compressed where that makes them fewer: most traces are never looked at."""

    kept: bytes
    size: int
    """Of what they were made of."""

    @classmethod
    def of(cls, request: bytes) -> "Part":
        packed: bytes = isal_zlib.compress(request, _LEVEL)
        return cls(packed if len(packed) < len(request) else request, len(request))

    def raw(self) -> bytes:
        """What they were made of."""
        return self.kept if len(self.kept) == self.size else isal_zlib.decompress(self.kept)


@dataclass(frozen=True, eq=False)  # without slots: what is made when somebody looks at it is kept in the instance
class KeptTrace:
    """One trace as far as it left, as an OTLP request; its spans are unpacked once somebody looks at them."""

    trace_id: str
    parts: tuple[Part, ...]
    """Of the request, one after another."""
    request_bytes: int
    """Of all parts, not compressed."""
    span_count: int
    hidden_spans: int
    """How many further ones there were, that were not kept."""
    left_s: float
    """When the last of it left, seconds since the epoch."""
    _unpacking: Unpacking = field(repr=False)

    @property
    def request(self) -> bytes:
        """The OTLP request, unpacked anew each time."""
        return b"".join([part.raw() for part in self.parts])

    @property
    def cost(self) -> int:
        """Bytes of memory it takes once it was looked at, at most; mostly a part of them before."""
        return self.request_bytes + SPAN_COST * self.span_count + TRACE_COST

    @cached_property
    def spans(self) -> tuple[SpanView, ...]:
        """In order of start."""
        began_s = time.thread_time()
        spans = sorted(span_views(self._read()), key=lambda span: span.start_ns)
        self._unpacking.add(time.thread_time() - began_s)
        return tuple(spans)

    @cached_property
    def end_ns(self) -> int:
        """The last end, 0 where none is known; found without unpacking more."""
        began_s = time.thread_time()
        scopes = [scope for group in self._read().resource_spans for scope in group.scope_spans]
        end_ns = max(span.end_time_unix_nano for scope in scopes for span in scope.spans)
        self._unpacking.add(time.thread_time() - began_s)
        return end_ns

    def _read(self) -> ExportTraceServiceRequest:
        return ExportTraceServiceRequest.FromString(self.request)

    @property
    def root(self) -> SpanView:
        """The first span without a parent here, else the first."""
        ids = {span.span_id for span in self.spans}
        return next((span for span in self.spans if span.parent_id not in ids), self.spans[0])

    @property
    def duration_ns(self) -> int:
        """From the first start to the last end, 0 where one of them is not known."""
        return max(0, self.end_ns - self.start_ns) if self.start_ns else 0

    @property
    def start_ns(self) -> int:
        """The first start, 0 where none is known."""
        return next((span.start_ns for span in self.spans if span.start_ns), 0)

    @property
    def error(self) -> bool:
        """Whether any span failed."""
        return any(span.error for span in self.spans)

    @property
    def services(self) -> list[str]:
        """Names of the services in it."""
        return sorted({span.service for span in self.spans})

    def to_json(self) -> dict[str, Any]:
        """As lists of the API give it."""
        root = self.root
        return {
            "trace_id": self.trace_id,
            "service": root.service,
            "name": root.name,
            "start_ms": self.start_ns / 1e6,
            "duration_ms": self.duration_ns / 1e6,
            "spans": self.span_count + self.hidden_spans,
            "services": self.services,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; a field that is left out lets everything pass. Texts match parts, whatever their case."""

    service: str = ""
    resource: str = ""
    """In names of spans."""
    trace_id: str = ""
    """How the trace's id begins."""
    min_duration_ms: float = 0.0
    error: bool = False

    def fits(self, trace: KeptTrace) -> bool:
        """Whether the trace is one of those."""
        if not trace.trace_id.startswith(self.trace_id.lower()) or (self.error and not trace.error):
            return False
        if self.min_duration_ms and trace.duration_ns < self.min_duration_ms * 1e6:
            return False
        service, resource = self.service.casefold(), self.resource.casefold()
        if not service and not resource:
            return True
        return any(service in s.service.casefold() and resource in s.name.casefold() for s in trace.spans)


class RecentTraces:
    """The last `keep` traces, fewer where they are large. What comes later of one that is there joins it."""

    def __init__(self, keep: int, max_bytes: int) -> None:
        """max_bytes: memory of all of them."""
        self._keep, self._max_bytes, self._trace_bytes = keep, max_bytes, int(TRACE_SHARE * max_bytes)
        self._traces: OrderedDict[str, KeptTrace] = OrderedDict()
        self._changing = Lock()
        """Held for moments, once a trace."""
        self.unpacking = Unpacking()
        self.bytes = 0
        """Memory they take once all of them were looked at."""

    def __len__(self) -> int:
        return len(self._traces)

    def __iter__(self) -> Iterator[KeptTrace]:
        return iter(list(self._traces.values()))

    def add(self, spans: TraceSpans, left_s: float) -> None:
        """Keep spans of one trace, which left at this time; what there is no room for is counted.

        Raises DecodeError, and keeps nothing of them, where they are not read: a text in them may be no UTF-8.
        """
        known = self._traces.get(spans.trace_id)
        count = self._room(known, spans.sizes)
        request = spans.request(count) if count else b""
        ExportTraceServiceRequest.FromString(request)
        part = Part.of(request)
        with self._changing:
            self._join(spans.trace_id, part, count, spans.sizes.size - count, left_s)

    def _room(self, known: KeptTrace | None, sizes: NDArray[np.int64]) -> int:
        """How many of these spans may be kept of a trace of which this much is; of any size may be its first."""
        count, taken = (known.span_count, known.cost) if known else (0, TRACE_COST)
        fitting = int(np.searchsorted(np.cumsum(sizes + SPAN_COST), self._trace_bytes - taken, side="right"))
        return max(min(fitting, MAX_SPANS - count), 0 if known else 1)

    def _join(self, trace_id: str, part: Part, count: int, hidden: int, left_s: float) -> None:
        parts: tuple[Part, ...] = (part,)
        size = part.size
        known = self._traces.get(trace_id)
        if known is not None:
            # protobuf: messages one after another are one message, its repeated fields one after another
            # one that is full is given nothing more, however much of it comes
            parts = (*known.parts, part) if count else known.parts
            size += known.request_bytes
            count, hidden = known.span_count + count, known.hidden_spans + hidden
            self.bytes -= known.cost
        if not count:  # what was known of it was let go meanwhile
            return
        trace = self._traces[trace_id] = KeptTrace(trace_id, parts, size, count, hidden, left_s, self.unpacking)
        self._traces.move_to_end(trace_id)
        self.bytes += trace.cost
        while len(self._traces) > self._keep or (self.bytes > self._max_bytes and self._traces):
            self.bytes -= self._traces.popitem(last=False)[1].cost

    def clear(self) -> None:
        """Let all of them go; from any thread."""
        with self._changing:
            self._traces.clear()
            self.bytes = 0

    def find(self, search: Search, limit: int) -> list[KeptTrace]:
        """Traces that fit, the newest first."""
        found = []
        for trace in reversed(list(self._traces.values())):
            if search.fits(trace):
                found.append(trace)
                if len(found) == limit:
                    break
        return found

    def get(self, trace_id: str) -> KeptTrace | None:
        """The trace of this id."""
        return self._traces.get(trace_id.lower())
