"""Scripted but real peers of a receiver: consumers that collect, block, refuse or own a writer; a small decoder."""

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bridge.errors import InvalidData
from bridge.receivers.gathering import Joint
from bridge.spans import Context, PayloadBlock, PayloadFormat, SpanBatch, SpanColumns
from bridge.telemetry import Instruments


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def make_batch(payloads: list[bytes]) -> SpanBatch:
    """A batch of these spans; its columns are all absent."""
    offsets = np.cumsum([0, *map(len, payloads)], dtype=np.int64)
    context = np.zeros(len(payloads), np.uint32)
    block = PayloadBlock(PayloadFormat.OTLP_SPAN, b"".join(payloads), offsets, (Context(),), context)
    return SpanBatch(SpanColumns.zeros(len(payloads)), block)


@dataclass
class Decoded:
    batch: SpanBatch
    rejected: int = 0
    rejection: str = ""
    oversized: int = 0
    faulty: dict[str, int] = field(default_factory=dict)


@dataclass
class DecodedTogether:
    batch: SpanBatch
    faulty: dict[str, int]

    def part(self, first: int, end: int) -> "DecodedTogether":
        return DecodedTogether(self.batch.part(first, end), {})


class SmallDecoder:
    """Reads requests with the stock messages; spans named "reject" are rejected, those named "fault" are faulty."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    def __call__(self, data: bytes, *, peer: str) -> Decoded:
        self.peers.append(peer)
        try:
            request = ExportTraceServiceRequest.FromString(data)
        except DecodeError as exc:
            raise InvalidData("resource_spans[0]: truncated at byte 7") from exc
        spans = [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
        good = [s for s in spans if s.name != "reject"]
        faulty = sum(s.name == "fault" for s in spans)
        return Decoded(
            make_batch([s.SerializeToString() for s in good]),
            len(spans) - len(good),
            "spans[0]: no trace id" if len(good) < len(spans) else "",
            0,
            {"req_seq": faulty} if faulty else {},
        )

    @property
    def both(self) -> dict[str, Any]:
        """Options of a receiver that decodes so, requests that are put together too."""
        return {"decode": self, "joint": Joint(self._count, self._together)}

    def _count(self, data: bytes) -> int:
        try:
            request = ExportTraceServiceRequest.FromString(data)
        except DecodeError:
            return -1
        return sum(len(scope.spans) for r in request.resource_spans for scope in r.scope_spans)

    def _together(self, requests: Sequence[tuple[bytes, str, int]]) -> "DecodedTogether | None":
        each = [SmallDecoder()(data, peer=peer) for data, peer, _ in requests]
        if any(decoded.rejected for decoded in each):
            return None
        self.peers += [peer for _, peer, _ in requests]
        faulty = sum((Counter(decoded.faulty) for decoded in each), Counter[str]())
        return DecodedTogether(SpanBatch.concatenate([decoded.batch for decoded in each]), dict(faulty))


class ScriptedConsumer:
    """Takes batches over; while `gate` is closed it blocks, and it raises `errors` one after another first."""

    def __init__(self) -> None:
        self.batches: list[SpanBatch] = []
        self.errors: deque[Exception] = deque()
        self.gate = anyio.Event()
        self.gate.set()
        self.entered = anyio.Event()

    async def consume(self, batch: SpanBatch) -> None:
        self.entered.set()
        if self.errors:
            raise self.errors.popleft()
        await self.gate.wait()
        self.batches.append(batch)

    @property
    def spans(self) -> int:
        return sum(map(len, self.batches))


class LingeringConsumer:
    """Blocks until it is cancelled, and then takes its time to end."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.cancelled = anyio.Event()
        self.release = anyio.Event()
        self.ended = False

    async def consume(self, _batch: SpanBatch) -> None:
        self.entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()
            with anyio.CancelScope(shield=True):
                await self.release.wait()
            self.ended = True

    async def release_after_cancelled(self) -> None:
        """End when a receiver that does not wait for it would have stopped long since."""
        await self.cancelled.wait()
        await anyio.sleep(0.2)
        self.release.set()


class OwningConsumer:
    """As the contract wants it: one writer task owns the writing, callers wait for its verdict."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.writers = 0
        self.most_writers = 0
        self.gate = anyio.Event()
        self.writing = anyio.Event()
        self.written = anyio.Event()

    async def consume(self, batch: SpanBatch) -> None:
        done = anyio.Event()
        await self._send.send((batch, done))
        await done.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OwningConsumer"]:
        self._send, self._receive = anyio.create_memory_object_stream[tuple[SpanBatch, anyio.Event]](8)
        async with anyio.create_task_group() as group:
            group.start_soon(self._write)
            try:
                yield self
            finally:
                self._send.close()

    async def _write(self) -> None:
        async with self._receive:
            async for batch, done in self._receive:
                self.writers += 1
                self.most_writers = max(self.most_writers, self.writers)
                self.writing.set()
                for row in range(len(batch)):
                    self.rows.append(batch.payload.span(row))
                    await self.gate.wait()
                self.writers -= 1
                done.set()
                self.written.set()


class Meter:
    """Instruments that can be read."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader])
        self.instruments = Instruments(self._provider.get_meter("test"))

    def close(self) -> None:
        self._provider.shutdown()

    def read(self, name: str) -> dict[tuple[str, ...], int]:
        """Sum of each set of attribute values that is not 0, in the order of the attributes' names."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            tuple(str(value) for _, value in sorted(point.attributes.items())): point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if point.value
        }


@pytest.fixture
def consumer(anyio_backend: str) -> ScriptedConsumer:
    return ScriptedConsumer()


@pytest.fixture
def lingering_consumer(anyio_backend: str) -> LingeringConsumer:
    return LingeringConsumer()


@pytest.fixture
def decoder() -> SmallDecoder:
    return SmallDecoder()


@pytest.fixture
def meter() -> Iterator[Meter]:
    meter = Meter()
    yield meter
    meter.close()


@pytest.fixture
async def owning_consumer() -> AsyncIterator[OwningConsumer]:
    async with OwningConsumer().running() as consumer:
        yield consumer


@pytest.fixture
def request_of() -> Callable[..., bytes]:
    """request_of("a", "b") is a serialized request with spans of these names."""

    def build(*names: str) -> bytes:
        request = ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        for number, name in enumerate(names, 1):
            scope.spans.add(name=name, trace_id=bytes(15) + b"\x01", span_id=number.to_bytes(8, "big"))
        return request.SerializeToString()

    return build
