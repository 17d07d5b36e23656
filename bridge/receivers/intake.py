"""The way of one request that all protocols share: admit, decode, hand over, count."""

import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import anyio
from anyio.to_thread import run_sync

from bridge.codec.limits import SPAN_TOO_LARGE
from bridge.component import Signal, SignalForwarder, SpanConsumer
from bridge.errors import PermanentError
from bridge.receivers.admission import UNBOUNDED, Admission, Memory
from bridge.receivers.gathering import DecodedTogether, Gathering, Joint
from bridge.receivers.refusals import Refusal, refusal_of
from bridge.spans import SpanBatch
from bridge.telemetry import Instruments
from bridge.telemetry.levels import Level
from bridge.telemetry.own_traces import SERVER, UNTRACED, Trace

log = logging.getLogger(__name__)

MIB = 1024 * 1024
MAX_REQUEST_BYTES = 64 * MIB
MAX_IN_FLIGHT_BYTES = 256 * MIB
DRAIN_S = 5.0
INLINE_BYTES = 512 * 1024
"""Up to this size a body is decoded on the event loop: a hop to a thread and back costs more than it frees."""
_DECODING_THREADS = 2
_LOG_AGAIN_S = 60.0
_MAX_LOGGED = 20
"""So many kinds of errors are told apart within a minute; a text may hold what a sender wrote."""

T = TypeVar("T")


class Decoded(Protocol):
    """What a decoder made of a request."""

    @property
    def batch(self) -> SpanBatch: ...
    @property
    def rejected(self) -> int:
        """Spans of the request that are not in the batch."""
        ...

    @property
    def rejection(self) -> str:
        """Why, for the sender; empty when none was rejected."""
        ...

    @property
    def oversized(self) -> int:
        """How many of the rejected ones are larger than a span may be."""
        ...

    @property
    def faulty(self) -> Mapping[str, int]:
        """eSpans in the batch with a missing or unreadable key, by key."""
        ...


class Decoder(Protocol):
    """Reads a request; raises InvalidData, whose text says what is wrong and where."""

    def __call__(self, data: bytes, *, peer: str) -> Decoded: ...


@dataclass(frozen=True, slots=True)
class Rejection:
    """Spans of a request that was taken otherwise."""

    rejected: int = 0
    rejection: str = ""
    """Why, for the sender."""


NOTHING_REJECTED = Rejection()


class Intake:
    """What one receiver does with every request, and the counters it keeps while doing so."""

    def __init__(
        self,
        *,
        receiver: str,
        consumer: SpanConsumer,
        instruments: Instruments,
        max_in_flight_bytes: int,
        memory: Memory = UNBOUNDED,
        max_requests: int = sys.maxsize,
        joint: Joint | None = None,
    ) -> None:
        """joint: how small requests are decoded together; without it each is decoded by itself."""
        self.admission = Admission(max_in_flight_bytes, memory, max_requests=max_requests)
        self._receiver = receiver
        self._attributes = {"receiver": receiver}
        self._consumer = consumer
        self._instruments = instruments
        self._threads = anyio.CapacityLimiter(_DECODING_THREADS)
        self._gathering = Gathering(joint, self._run_joint, self._commit_joint) if joint else None
        # of its own: small requests do not wait behind large ones
        self._joint_thread = anyio.CapacityLimiter(1)
        self._logged: dict[str, float] = {}
        # a counter that appears with its first event hides that event from whoever watches for an increase
        instruments.accepted_spans.add(0, self._attributes)
        instruments.levels.watch(receiver, self._level)
        instruments.refused_spans.add(0, {**self._attributes, "reason": "invalid"})

    async def run(self, function: Callable[[], T], size: int) -> T:
        """The function's value; worked out in a thread when it has more than INLINE_BYTES to read."""
        return await _run(function, size, self._threads)

    async def _run_joint(self, function: Callable[[], T], size: int) -> T:
        try:
            return await _run(function, size, self._joint_thread)
        except Exception as exc:  # ours: a bad request is none. Each is decoded by itself then
            self._log(exc)
            raise

    def count_bytes(self, size: int) -> None:
        """Count a body as it came in."""
        self._instruments.received_bytes.add(size, self._attributes)

    def traced(self) -> Trace:
        """A trace of a request's way, nearly always one that is not recorded."""
        return self._instruments.tracer.begin("request", SERVER, receiver=self._receiver)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Put requests together while the context is open. Leave it when none is inside any more."""
        if self._gathering is None:
            yield
            return
        async with self._gathering.running():
            yield

    async def take(
        self, data: bytes, decode: Decoder, *, peer: str, joint: bool = False, trace: Trace = UNTRACED
    ) -> Rejection:
        """Decode a request and return once its spans are committed; a request without spans needs no commit.

        joint: whether it may be decoded together with others.

        Raises what the decoder and the consumer raise. If cancelled, the spans are committed all or not at all.
        """
        if joint and await self._took_joint(data, peer, trace):
            return NOTHING_REJECTED
        try:
            decoded = await self.run(partial(decode, data, peer=peer), len(data))
        except PermanentError:
            self.set_apart(peer)
            raise
        trace.mark("decode")
        if decoded.rejected:
            self._count_rejected(decoded)
            self.set_apart(peer)
        if len(decoded.batch):
            try:
                await self.commit(decoded.batch)
            except Exception as exc:
                self.count_refused_spans(len(decoded.batch), refusal_of(exc).reason)
                raise
            trace.mark("commit")
            trace.note(spans=len(decoded.batch))
            self.count_accepted(len(decoded.batch), decoded.faulty)
        return Rejection(decoded.rejected, decoded.rejection) if decoded.rejected else NOTHING_REJECTED

    async def _took_joint(self, data: bytes, peer: str, trace: Trace) -> bool:
        try:
            spans = await self.take_joint(data, peer, trace)
        except Exception as exc:
            self.count_refused_spans(self.spans_of(data), refusal_of(exc).reason)
            raise
        return spans > 0

    async def take_joint(self, data: bytes, peer: str, trace: Trace) -> int:
        """Spans of a request that was committed together with others; 0 where it has to be decoded by itself.

        Raises what the consumer raises; then nothing is counted.
        """
        spans = await self._gathering.take(data, peer, trace) if self._gathering else 0
        if spans:
            trace.mark("commit")
            trace.note(spans=spans)
        return spans

    def spans_of(self, data: bytes) -> int:
        """Spans of a request that was to be committed together with others."""
        return self._gathering.count(data) if self._gathering else 0

    def set_apart(self, peer: str) -> None:
        """Something this sender sent is not taken: have its requests decoded by themselves for a while."""
        if self._gathering:
            self._gathering.set_apart(peer)

    async def _commit_joint(self, decoded: DecodedTogether) -> None:
        await self.commit(decoded.batch)
        self.count_accepted(len(decoded.batch), decoded.faulty)

    def _level(self) -> Level:
        return Level(self.admission.requests, self.admission.in_flight_bytes)

    async def forward(self, forwarder: SignalForwarder, signal: Signal, data: bytes, *, as_json: bool = False) -> bytes:
        """The backend's answer to a request of another signal, which is counted. Raises what the forwarder raises."""
        answer = await forwarder.forward(signal, data, as_json=as_json)
        self._instruments.passed_requests.add(1, {**self._attributes, "signal": signal})
        return answer

    def _count_rejected(self, decoded: Decoded) -> None:
        if decoded.oversized:
            self.count_refused_spans(decoded.oversized, SPAN_TOO_LARGE)
        if decoded.rejected > decoded.oversized:
            self.count_refused_spans(decoded.rejected - decoded.oversized, "invalid")

    async def commit(self, batch: SpanBatch) -> None:
        """Return once the spans are committed. Raises what the consumer raises; counts nothing."""
        await self._consumer.consume(batch)

    def count_accepted(self, spans: int, faulty: Mapping[str, int]) -> None:
        """Count spans that were committed, and those among them that lack a key."""
        self._instruments.accepted_spans.add(spans, self._attributes)
        for key, count in faulty.items():
            self._instruments.faulty_espans.add(count, {"key": key})

    def count_refused_spans(self, spans: int, reason: str) -> None:
        """Count spans of a readable request that are not kept."""
        self._instruments.refused_spans.add(spans, {**self._attributes, "reason": reason})

    def refuse(self, error: Exception) -> Refusal:
        """Count the request as refused and say what to answer; log the error if it is none we raise on purpose."""
        refusal = refusal_of(error)
        self._instruments.refused_requests.add(1, {**self._attributes, "reason": refusal.reason})
        if refusal.reason == "internal":
            self._log(error)
        return refusal

    def _log(self, error: Exception) -> None:
        """Log it, with its traceback, unless one of its kind was logged within the last minute: all are counted."""
        kind, now = f"{type(error).__name__} {error}"[:200], time.monotonic()
        self._logged = {known: until for known, until in self._logged.items() if until > now}
        if kind not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged[kind] = now + _LOG_AGAIN_S
            log.error("request failed", exc_info=error, extra={"receiver": self._receiver})


async def _run(function: Callable[[], T], size: int, threads: anyio.CapacityLimiter) -> T:
    return function() if size <= INLINE_BYTES else await run_sync(function, limiter=threads)
