"""OTLP over gRPC."""

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal, cast
from urllib.parse import urlsplit

import grpc
import grpc.aio

from bridge.component import Body
from bridge.errors import ConfigError
from bridge.exporters.answers import secrets_of, shown
from bridge.exporters.connection import USER_AGENT, ClientTls, checked_headers
from bridge.exporters.failures import NotTaken, Refused
from bridge.exporters.otlp.answers import check_partial_success, retry_delay_s
from bridge.spans import LinkedSpans

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
RETRYABLE = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.primary_user_agent", USER_AGENT),
    # a connection that died without a word is noticed; pings only while a call waits, as servers demand
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # retries are Delivery's; the channel only has to reconnect soon enough for them
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # one exporter's connection is its own, also to a backend that another exporter uses
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_send_message_length", -1),
)


class OtlpGrpcExporter:
    """Sends ExportTraceServiceRequests to `endpoint`: host:port, or a URL whose scheme (http, https) decides on TLS.

    Without a scheme TLS is used unless `insecure`. `max_bytes` is below the 4 MiB that gRPC servers take by default.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        *,
        headers: Mapping[str, str] | None = None,
        compression: Literal["none", "gzip"] = "none",
        timeout_s: float = 10.0,
        insecure: bool = False,
        tls: ClientTls | None = None,
        max_spans: int = 8192,
        max_bytes: int = 4_000_000,
    ) -> None:
        self.name = name
        self._target, secure = grpc_target(endpoint, insecure=insecure)
        self._tls = (tls or ClientTls()) if secure else None
        checked = checked_headers(name, headers or {})
        self._metadata = tuple(checked.items())
        self._secrets = secrets_of(checked.values())
        self._compression = grpc.Compression.Gzip if compression == "gzip" else grpc.Compression.NoCompression
        self._timeout_s, self._max_spans, self._max_bytes = timeout_s, max_spans, max_bytes
        self._export: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"OtlpGrpcExporter({self.name!r}, {self._target!r})"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold a channel. Raises ConfigError where a TLS file cannot be read; connects when something is delivered."""
        async with self._channel() as channel:
            self._export = channel.unary_unary(EXPORT, None, None)
            try:
                yield
            finally:
                self._export = None

    def _channel(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._target, OPTIONS, self._compression)
        ca, cert, key = self._tls.read()
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        return grpc.aio.secure_channel(self._target, credentials, OPTIONS, self._compression)

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        """Serialized requests."""
        from bridge.codec.otlp_encode import encode_requests

        for request, spans in encode_requests(linked, max_spans=self._max_spans, max_bytes=self._max_bytes):
            yield Body(request, spans)

    async def deliver(self, body: Body) -> None:
        """Send one request within `timeout_s`. Raises NotTaken or Refused as OTLP tells the status codes apart."""
        if self._export is None:
            raise RuntimeError(f"{self!r} is not running")
        try:
            response = await self._export(body.data, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as exc:
            raise self._failure(exc) from None  # its repr would hold the backend's text unmasked
        check_partial_success(response, self._secrets)

    def _failure(self, exc: grpc.aio.AioRpcError) -> NotTaken | Refused:
        code = exc.code()
        reason = code.name.lower()
        text = f"{self._target}: {code.name}: {shown(exc.details() or 'no details', self._secrets)}"
        # the stubs take what is a multi-dict for a tuple
        trailers = dict(cast(Iterable[tuple[str, str | bytes]], exc.trailing_metadata()))
        details = trailers.get("grpc-status-details-bin")
        wait_s = retry_delay_s(details) if isinstance(details, bytes) else None
        if code in RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait_s is not None):
            return NotTaken(text, reason=reason, retry_after_s=wait_s)
        return Refused(text, reason=reason)


def grpc_target(endpoint: str, *, insecure: bool) -> tuple[str, bool]:
    """What to dial, and whether with TLS. Raises ConfigError for what is no endpoint of gRPC."""
    if "://" not in endpoint:
        target, secure = endpoint, not insecure
    else:
        url = urlsplit(endpoint)
        if url.scheme not in ("http", "https"):
            raise ConfigError(f"endpoint: scheme {url.scheme!r} is not known; allowed: http, https, or host:port alone")
        target, secure = url.netloc.rpartition("@")[2], url.scheme == "https"
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):\d{1,5}", target):
        raise ConfigError(f"endpoint: {target!r} is not host:port")
    return target, secure
