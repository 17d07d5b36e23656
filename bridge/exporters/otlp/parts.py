"""Requests that are too large for a backend, sent in parts."""

import logging
from collections.abc import Awaitable, Callable, Iterator, MutableSequence
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.exporters.failures import Refused
from bridge.exporters.repeats import Repeats

logger = logging.getLogger(__name__)


class Parts:
    """Sends requests, halved and halved again where the backend says that one is too large for it."""

    def __init__(
        self,
        exporter: str,
        send: Callable[[bytes], Awaitable[None]],
        split: Callable[[bytes], Iterator[tuple[bytes, int]]],
    ) -> None:
        """send: takes a request as it is sent; raises Refused with `too_large` where it is. split: as `halves`."""
        self._exporter, self._send, self._split = exporter, send, split
        self._warnings = Repeats()

    async def deliver(self, request: bytes, spans: int) -> None:
        """Send all of it. Raises Refused for the spans that were not taken, a span that is too large by itself among
        them, and what `send` raises: of a request that is to be sent again, parts may have been taken."""
        try:
            await self._send(request)
        except Refused as exc:
            if not exc.too_large or spans < 2:
                raise
            self._warn(len(request))
        else:
            return
        refused: Refused | None = None
        for part, count in self._split(request):
            try:
                await self.deliver(part, count)
            except Refused as exc:
                lost = count if exc.spans is None else exc.spans
                before = refused.spans or 0 if refused else 0
                refused = Refused(str(exc), reason=exc.reason, spans=before + lost)
        if refused:
            raise refused

    def _warn(self, size: int) -> None:
        if self._warnings.worth_logging(""):
            logger.warning(
                "requests are too large for the backend and are sent in parts: lower max_batch_bytes",
                extra={"exporter": self._exporter, "bytes": size},
            )


def halves(request: bytes) -> Iterator[tuple[bytes, int]]:
    """Two requests with the first and the second half of the spans, each with how many; empty ones are left out.

    Resources and scopes are in both where they have spans in both.
    """
    spans = sum(len(scope.spans) for group in ExportTraceServiceRequest.FromString(request).resource_spans
                for scope in group.scope_spans)  # fmt: skip
    for begin, end in ((0, spans // 2), (spans // 2, spans)):
        if begin < end:
            yield _cut(ExportTraceServiceRequest.FromString(request), begin, end), end - begin


def _cut(message: ExportTraceServiceRequest, begin: int, end: int) -> bytes:
    """The request with its spans from `begin` to before `end` alone."""
    at = 0
    for group in message.resource_spans:
        for scope in group.scope_spans:
            count = len(scope.spans)
            del scope.spans[max(0, min(end - at, count)) :]
            del scope.spans[: max(0, min(begin - at, count))]
            at += count
    for group in message.resource_spans:
        _drop(group.scope_spans, [not scope.spans for scope in group.scope_spans])
    _drop(message.resource_spans, [not group.scope_spans for group in message.resource_spans])
    return message.SerializeToString()


def _drop(parts: MutableSequence[Any], empty: list[bool]) -> None:
    for index in reversed(range(len(empty))):
        if empty[index]:
            del parts[index]
