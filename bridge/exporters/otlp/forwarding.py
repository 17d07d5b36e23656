"""Other signals than traces, passed on to the backend of an OTLP exporter: same address, headers, TLS and deadline."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from google.rpc.code_pb2 import Code

from bridge.component.forwarding import NotForwarded, Signal
from bridge.errors import PermanentError
from bridge.exporters.failures import NotTaken, Refused
from bridge.exporters.otlp.grpc import OtlpGrpcExporter
from bridge.exporters.otlp.http import OtlpHttpExporter

METHODS: dict[Signal, str] = {
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
PATHS: dict[Signal, str] = {"metrics": "v1/metrics", "logs": "v1/logs"}
COME_AGAIN_S = 1.0
"""When a sender may come again where the backend did not say."""
_AWAY = (Code.UNAVAILABLE, 503)
_SLOW_DOWN = (Code.RESOURCE_EXHAUSTED, 429)
_TOO_LARGE = (Code.RESOURCE_EXHAUSTED, 413)
"""Without RetryInfo OTLP's senders give up at the code, too."""
_BY_CODE: Mapping[int, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.UNIMPLEMENTED: 501,
}
"""Statuses of HTTP for codes of gRPC, as google/rpc/code.proto has them; for others 500."""
_BY_STATUS: Mapping[int, int] = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    405: Code.UNIMPLEMENTED,
    501: Code.UNIMPLEMENTED,
}
"""Codes of gRPC for statuses of HTTP, as gRPC's own mapping has them."""
_RETRIED_CODES = frozenset(
    {Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.OUT_OF_RANGE, Code.UNAVAILABLE, Code.DATA_LOSS}
)
_RETRIED_STATUSES = frozenset({408, 502, 503, 504})
"""408 as well: nobody read the body."""


_Told: TypeAlias = tuple[int, int, bool]
"""What a sender is told: a code of gRPC, a status of HTTP, and whether it may come again."""


def _of_grpc(code: int, wait_s: float | None) -> _Told:
    """What a gRPC backend's answer comes to."""
    if code in _RETRIED_CODES:
        return code, 503, True
    if code == Code.RESOURCE_EXHAUSTED:
        return (*(_TOO_LARGE if wait_s is None else _SLOW_DOWN), wait_s is not None)
    return code, _BY_CODE.get(code, 500), False


def _of_http(status: int, _wait_s: float | None) -> _Told:
    """The same of an HTTP backend's. A redirect, which is not followed, is for who runs the bridge to mend."""
    if status in _RETRIED_STATUSES or 300 <= status < 400:
        return (*_AWAY, True)
    for told in (_SLOW_DOWN, _TOO_LARGE):
        if status == told[1]:
            return (*told, told is _SLOW_DOWN)
    return _BY_STATUS.get(status, Code.INVALID_ARGUMENT if 400 <= status < 500 else Code.INTERNAL), status, False


def _not_forwarded(failure: NotTaken | Refused, of_answer: Callable[[int, float | None], _Told]) -> NotForwarded:
    """What the sender is told. Where there was no answer it may come again, unless there is nobody to ask."""
    wait_s = failure.retry_after_s if isinstance(failure, NotTaken) else None
    if failure.answer is not None:
        text, (code, http_status, again) = failure.answer.text, of_answer(failure.answer.status, wait_s)
    else:
        again = isinstance(failure, NotTaken)
        text, (code, http_status) = str(failure), _AWAY if again else (Code.UNIMPLEMENTED, 501)
    retry_after_s = (COME_AGAIN_S if wait_s is None else wait_s) if again else None
    return NotForwarded(text, code=code, http_status=http_status, retry_after_s=retry_after_s)


class GrpcForwarder:
    """See `bridge.component.forwarding.SignalForwarder`; over gRPC, which knows no JSON."""

    def __init__(self, exporter: OtlpGrpcExporter) -> None:
        """exporter: one of its own, that delivers nothing else."""
        self._exporter = exporter

    def running(self) -> AbstractAsyncContextManager[None]:
        """Hold a channel while the context is open."""
        return self._exporter.running()

    async def forward(self, signal: Signal, request: bytes, *, as_json: bool) -> bytes:
        """See `SignalForwarder.forward`."""
        if as_json:
            raise PermanentError(
                f"{signal} in JSON cannot be forwarded over gRPC: send protobuf, or let the first OTLP exporter be "
                "one of type otlp_http"
            )
        try:
            return await self._exporter.call(METHODS[signal], request)
        except (NotTaken, Refused) as exc:
            raise _not_forwarded(exc, _of_grpc) from exc


class HttpForwarder:
    """See `bridge.component.forwarding.SignalForwarder`; over HTTP."""

    def __init__(self, exporter: OtlpHttpExporter) -> None:
        """exporter: one of its own, that delivers nothing else."""
        self._exporter = exporter

    def running(self) -> AbstractAsyncContextManager[None]:
        """Hold a session while the context is open."""
        return self._exporter.running()

    async def forward(self, signal: Signal, request: bytes, *, as_json: bool) -> bytes:
        """See `SignalForwarder.forward`."""
        try:
            return await self._exporter.post(PATHS[signal], request, as_json=as_json)
        except (NotTaken, Refused) as exc:
            raise _not_forwarded(exc, _of_http) from exc
