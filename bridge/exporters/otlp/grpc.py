"""OTLP over gRPC."""

import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal, cast
from urllib.parse import urlsplit

import anyio
import grpc
import grpc.aio

from bridge.component import Body
from bridge.errors import ConfigError
from bridge.exporters.answers import CONTENT_TOO_LARGE, secrets_of, settings_refusal, shown
from bridge.exporters.connection import USER_AGENT, checked_headers, watched
from bridge.exporters.failures import Answer, NotTaken, Refused
from bridge.exporters.otlp.answers import check_partial_success, retry_delay_s
from bridge.exporters.otlp.channel import EXPORT, RenewedChannel
from bridge.exporters.otlp.cutting import cut_request
from bridge.exporters.parts import Parts
from bridge.exporters.protocols import grpc_remedy, http2_status
from bridge.exporters.repeats import Repeats
from bridge.security import ClientTls, FileWatch, Identity, Reloaded
from bridge.spans import LinkedSpans

logger = logging.getLogger(__name__)

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
SETTINGS: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAUTHENTICATED: "check the token in headers",
    grpc.StatusCode.PERMISSION_DENIED: "check the token in headers, and what it may do",
    grpc.StatusCode.UNIMPLEMENTED: "check the endpoint: what listens there takes no traces",
}
"""These say nothing against the spans (docs/decisions/0006)."""
LARGER = (
    "message larger than max",
    "message exceeds maximum size",
    "message exceeds the maximum configured message size",
)
"""What gRPC's servers say of a request over their limit: in C and Go, in Java, in .NET."""
OURS = "client:"
"""So begins what our own side says of an answer."""
MAX_ANSWER_BYTES = 16 << 20
LONG_METADATA = "received metadata size exceeds"
"""What our own side of gRPC says in place of an answer with more text than it reads."""
OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.primary_user_agent", USER_AGENT),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    # an error may bring a stack trace along; with less room its code would not be seen
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 256 << 10),
    # a connection that died without a word is noticed; pings only while a call waits, as servers demand
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # retries are Delivery's, and each has a new channel; this is for one that lost its connection while it was idle
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # one exporter's connection is its own, also to a backend that another exporter uses
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_send_message_length", -1),
)


class OtlpGrpcExporter:
    """Sends ExportTraceServiceRequests to `endpoint`: host:port, or a URL whose scheme (http, https) decides on TLS.

    Without a scheme TLS is used unless `insecure`. With a `watch` TLS files are read again when they change; calls
    under way finish with what they began with. `max_bytes` is below the 4 MiB that gRPC servers take by default.
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
        watch: FileWatch | None = None,
        max_spans: int = 8192,
        max_bytes: int = 4_000_000,
    ) -> None:
        self.name = name
        self._target, secure = grpc_target(endpoint, insecure=insecure)
        self._tls = watched(name, tls, watch) if secure else None
        checked = checked_headers(name, headers or {})
        self._metadata = tuple(checked.items())
        self._secrets = secrets_of(checked.values())
        self._compression = grpc.Compression.Gzip if compression == "gzip" else grpc.Compression.NoCompression
        self._timeout_s, self._max_spans, self._max_bytes = timeout_s, max_spans, max_bytes
        self._channel = RenewedChannel()
        self._parts, self._warnings = Parts(name, self._send, cut_request), Repeats()

    def __repr__(self) -> str:
        return f"OtlpGrpcExporter({self.name!r}, {self._target!r})"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold a channel. Raises ConfigError where a TLS file cannot be used; connects when something is delivered."""
        if self._tls:
            self._tls.start()
        async with self._channel.running(self._connect), anyio.create_task_group() as watching:
            if self._tls:
                watching.start_soon(self._renew_with, self._tls)
            try:
                yield
            finally:
                watching.cancel_scope.cancel()

    def _connect(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._target, OPTIONS, self._compression)
        files = self._tls.value
        credentials = grpc.ssl_channel_credentials(files.ca, files.key, files.cert)
        return grpc.aio.secure_channel(self._target, credentials, OPTIONS, self._compression)

    async def _renew_with(self, tls: Reloaded[Identity]) -> None:
        while True:
            await tls.changed()
            self._channel.renew()

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        """Serialized requests."""
        from bridge.codec.otlp_encode import encode_requests

        for request, spans in encode_requests(linked, max_spans=self._max_spans, max_bytes=self._max_bytes):
            yield Body(request, spans)

    async def deliver(self, body: Body) -> None:
        """Send one request within `timeout_s`. Raises NotTaken or Refused as OTLP tells the status codes apart.

        One that is too large for the backend is sent in parts, each within that time.
        """
        await self._parts.deliver(body.data, body.spans)

    async def call(self, method: str, request: bytes) -> bytes:
        """The answer to one request, of whatever signal, within `timeout_s`. Raises NotTaken or Refused."""
        try:
            return await self._channel.call(request, timeout_s=self._timeout_s, metadata=self._metadata, method=method)
        except grpc.aio.AioRpcError as exc:
            raise self._failure(exc) from None  # its repr would hold the backend's text unmasked

    async def _send(self, request: bytes, _spans: int) -> None:
        response = await self.call(EXPORT, request)
        warning = check_partial_success(response, self._secrets)
        if warning and self._warnings.worth_logging(warning):
            logger.warning("backend took spans with a warning", extra={"exporter": self.name, "warning": warning})

    def _failure(self, exc: grpc.aio.AioRpcError) -> NotTaken | Refused:
        code = exc.code()
        reason = code.name.lower()
        text = f"{self._target}: {code.name}: {shown(exc.details() or 'no details', self._secrets)}"
        answer = Answer(code.value[0], text)
        # the stubs take what is a multi-dict for a tuple
        trailers = dict(cast(Iterable[tuple[str, str | bytes]], exc.trailing_metadata()))
        details = trailers.get("grpc-status-details-bin")
        wait_s = retry_delay_s(details) if isinstance(details, bytes) else None
        said = (exc.details() or "").lower()
        proxy = http2_status(exc.details() or "")
        by_proxy = settings_refusal(proxy, "") if proxy else ""
        if remedy := grpc_remedy(exc.details() or "") or by_proxy or SETTINGS.get(code, ""):
            text = f"{text}; {remedy}"
            return NotTaken(text, reason=reason, retry_after_s=wait_s, settings=True, answer=answer)
        if proxy == CONTENT_TOO_LARGE:
            return Refused(text, reason=reason, too_large=True, answer=answer)
        # a proxy that answers by itself says nothing of the spans; nor do we who cannot read what was answered
        if code in RETRYABLE or proxy or LONG_METADATA in said:
            return NotTaken(text, reason=reason, retry_after_s=wait_s, answer=answer)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait_s is not None:
            return NotTaken(text, reason=reason, retry_after_s=wait_s, answer=answer)
        too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(words in said for words in LARGER)
        return Refused(text, reason=reason, too_large=too_large and not said.startswith(OURS), answer=answer)


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
