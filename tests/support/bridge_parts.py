"""The pipeline in this process: real store, real linker, a clock that is set by hand."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.codec.otlp_protobuf import decode_request
from bridge.linker import Assembler, LinkOptions, WindowOptions
from bridge.pipeline.clock import Clock
from bridge.pipeline.drain import Drain
from bridge.pipeline.ingest import FixedRoom, Ingest
from bridge.spans import LinkedSpans, SpanBatch
from bridge.store import SqliteStore
from bridge.telemetry import Instruments
from tests.support.senders import simulated

S = 10**9
WINDOW_NS = 2 * S
LATE_WINDOW_NS = 6 * S
START_NS = 1_700_000_000 * S


class HandClock(Clock):
    """Stands still unless it is moved on."""

    def __init__(self) -> None:
        self.time_ns = START_NS

    def now_ns(self) -> int:
        return self.time_ns

    def move_on(self, ns: int) -> None:
        self.time_ns += ns


@dataclass
class Parts:
    """What a drain works on."""

    store: SqliteStore
    ingest: Ingest
    drain: Drain
    clock: HandClock

    async def tick_after(self, ns: int, *, force: bool = False) -> None:
        self.clock.move_on(ns)
        await self.drain.tick(force=force)

    async def ticks(self) -> list[LinkedSpans]:
        """Every tick the store has, as exporters read it."""
        found, number = [], await self.store.next_tick(0)
        while number is not None:
            found.append(await self.store.read_tick(number))
            number = await self.store.next_tick(number)
        return found

    async def left(self) -> dict[int, tuple[int, int, int]]:
        """(trace id halves, parent) of each span that left, by its id."""
        return {
            int(d.span_id[i]): (int(d.trace_hi[i]), int(d.trace_lo[i]), int(d.parent_span_id[i]))
            for d in (tick.decisions for tick in await self.ticks())
            for i in range(len(d))
        }


@asynccontextmanager
async def running_parts(
    folder: Path,
    *,
    clock: HandClock | None = None,
    store: type[SqliteStore] = SqliteStore,
    instruments: Instruments | None = None,
    max_waiting_spans: int = 10_000,
    at_once: bool = True,
    tick_bytes: int | None = None,
    timing: bool = False,
) -> AsyncIterator[Parts]:
    """Parts on the store in this folder, recovered; with `at_once` traces may leave without the wait after a start."""
    clock, instruments = clock or HandClock(), instruments or Instruments()
    kept = store(folder, instruments=instruments)
    ingest = Ingest(kept, clock, room=FixedRoom(max_waiting_spans))
    assembler = Assembler(
        LinkOptions(sampling_rate=1.0, timing=timing),
        WindowOptions(window_ns=WINDOW_NS, late_window_ns=LATE_WINDOW_NS),
    )
    drain = Drain(
        kept,
        assembler,
        ingest,
        clock,
        instruments,
        tick_s=0.01,
        late_window_ns=LATE_WINDOW_NS,
        committed=lambda: None,
        tick_bytes=tick_bytes,
    )
    async with kept.running():
        await drain.recover()
        await kept.register(["backend"])
        if at_once:
            drain.leave_from_ns = 0
        async with ingest.running():
            yield Parts(kept, ingest, drain, clock)


def espan_batches(traces: int, first: int = 0) -> list[SpanBatch]:
    """Simulated traces as they come: one batch a service."""
    return [decoded(request) for request in simulated(first, traces, START_NS)[0]]


def ordinary_batch() -> SpanBatch:
    """One span of an instrumented service."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.spans.add(trace_id=b"\x07" * 16, span_id=b"\x08" * 8, name="charge", start_time_unix_nano=time.time_ns())
    return decoded(request)


def decoded(request: ExportTraceServiceRequest) -> SpanBatch:
    return decode_request(request.SerializeToString(), peer="127.0.0.1").batch


def ids_of(batches: Sequence[SpanBatch]) -> set[int]:
    """Span ids of batches."""
    return set(np.concatenate([b.columns.span_id for b in batches]).tolist())
