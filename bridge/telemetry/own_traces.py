"""Traces of the bridge's own work: a request, a tick, a delivery, each a root span with its stages one after another.

Off, nothing is made: `Tracer` hands out one object that does nothing. Decided against: the SDK's tracer. Variables of
the environment change what it samples and keeps, its context would be carried into every task, and its spans cannot
be sent from an ingest process to the one that sends them on.
"""

import os
import random
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias

from bridge.telemetry.tally import Tally

MAX_KEPT: Final = 8192
"""Spans that wait to be sent; further ones are dropped and counted."""
MAX_REMEMBERED: Final = 1024
INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of spans, as OTLP numbers them."""

Context: TypeAlias = tuple[bytes, bytes]
"""Trace id and span id."""


@dataclass(frozen=True, slots=True)
class OwnSpan:
    """A span that has ended."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    """Empty for a root."""
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: tuple[tuple[str, str | int], ...] = ()
    links: tuple[Context, ...] = ()
    error: str = ""
    """What it failed with, "" where it did not."""


class Trace:
    """One that is not recorded: does nothing. A context manager; leaving it ends the root span."""

    __slots__ = ()

    def mark(self, stage: str) -> None:
        """Say that what was done since the last mark, or since the start, was this stage."""

    def note(self, **attributes: str | int) -> None:
        """Give the root span attributes."""

    def discard(self) -> None:
        """Keep nothing of it: there was nothing to be done."""

    def name_tick(self, number: int) -> None:
        """Say that this is the trace of a tick, for deliveries that follow."""

    def end(self, error: str = "") -> None:
        """End the root span, and keep the trace; a second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # not its text, which may hold what a sender wrote
        self.end(kind.__name__ if kind else "")


UNTRACED: Final = Trace()


class Tracer:
    """Decides which work is traced, and keeps traces until they are taken. For one event loop."""

    def __init__(self, sampling_rate: float = 0.0, dropped: Tally | None = None) -> None:
        """dropped: counts spans that there was no room for."""
        self._rate, self._dropped = sampling_rate, dropped
        self._spans: list[OwnSpan] = []
        self._ticks: OrderedDict[int, Context] = OrderedDict()
        """Of the latest ticks that are traced, by number."""

    def begin(self, name: str, kind: int = INTERNAL, **attributes: str | int) -> Trace:
        """A trace that begins now; most are not recorded."""
        if not self._rate or random.random() >= self._rate:  # noqa: S311 -- sampling
            return UNTRACED
        return RecordedTrace(self, name, kind, attributes)

    def follow(self, tick: int, name: str, kind: int = INTERNAL, **attributes: str | int) -> Trace:
        """A trace that begins now and links to that of a tick; it is recorded where that is."""
        context = self._ticks.get(tick) if self._ticks else None
        if context is None:
            return UNTRACED
        return RecordedTrace(self, name, kind, {"tick": tick, **attributes}, (context,))

    def name_tick(self, number: int, context: Context) -> None:
        """Have what follows this tick link to its trace."""
        self._ticks[number] = context
        if len(self._ticks) > MAX_REMEMBERED:
            self._ticks.popitem(last=False)

    def add(self, spans: "list[OwnSpan] | tuple[OwnSpan, ...]") -> None:
        """Keep spans that have ended, here or in another process; traces are kept whole or not at all."""
        if len(self._spans) + len(spans) <= MAX_KEPT:
            self._spans += spans
        elif self._dropped is not None:
            self._dropped.add(len(spans), {"reason": "too_many"})

    def take(self) -> list[OwnSpan]:
        """What was kept since the last call."""
        spans, self._spans = self._spans, []
        return spans


class RecordedTrace(Trace):
    """One that is recorded; made by its tracer. See `Trace`."""

    __slots__ = (
        "_attributes",
        "_began",
        "_context",
        "_kind",
        "_links",
        "_marked",
        "_name",
        "_stages",
        "_start_ns",
        "_tracer",
    )

    def __init__(
        self, tracer: Tracer, name: str, kind: int, attributes: dict[str, str | int], links: tuple[Context, ...] = ()
    ) -> None:
        self._tracer: Tracer | None = tracer
        self._name, self._kind, self._attributes, self._links = name, kind, attributes, links
        self._context: Context = (os.urandom(16), os.urandom(8))
        # the wall clock is read once: what follows goes by a clock that nobody sets
        self._start_ns, self._began = time.time_ns(), time.perf_counter_ns()
        self._marked = self._start_ns
        self._stages: list[tuple[str, int, int]] = []

    def mark(self, stage: str) -> None:
        """See `Trace.mark`."""
        now = self._now_ns()
        self._stages.append((stage, self._marked, now))
        self._marked = now

    def note(self, **attributes: str | int) -> None:
        """See `Trace.note`."""
        self._attributes |= attributes

    def discard(self) -> None:
        """See `Trace.discard`."""
        self._tracer = None

    def name_tick(self, number: int) -> None:
        """See `Trace.name_tick`."""
        self.note(tick=number)
        if self._tracer is not None:
            self._tracer.name_tick(number, self._context)

    def end(self, error: str = "") -> None:
        """See `Trace.end`."""
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            tracer.add(list(self._spans(error)))

    def _now_ns(self) -> int:
        return self._start_ns + time.perf_counter_ns() - self._began

    def _spans(self, error: str) -> Iterator[OwnSpan]:
        trace_id, root_id = self._context
        yield OwnSpan(
            trace_id=trace_id,
            span_id=root_id,
            parent_id=b"",
            name=self._name,
            kind=self._kind,
            start_ns=self._start_ns,
            end_ns=self._now_ns(),
            attributes=tuple(self._attributes.items()),
            links=self._links,
            error=error,
        )
        for stage, start_ns, end_ns in self._stages:
            yield OwnSpan(trace_id, os.urandom(8), root_id, stage, INTERNAL, start_ns, end_ns)
