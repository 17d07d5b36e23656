"""OTLP over HTTP, in protobuf."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from isal import igzip

from bridge.component import Body
from bridge.errors import ConfigError
from bridge.exporters.answers import first_bytes, retry_after_s, secrets_of, shown, url_secrets
from bridge.exporters.connection import USER_AGENT, ClientTls, checked_headers
from bridge.exporters.failures import NotTaken, Refused
from bridge.exporters.otlp.answers import check_partial_success
from bridge.spans import LinkedSpans

PROTOBUF = "application/x-protobuf"
RETRYABLE = frozenset({429, 502, 503, 504})


class OtlpHttpExporter:
    """POSTs ExportTraceServiceRequests to `endpoint`.

    With `base` the endpoint is that of a whole OTLP backend and v1/traces is appended; otherwise it is used as it is
    (OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT differ in that). Redirects are not followed.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        *,
        base: bool = True,
        headers: Mapping[str, str] | None = None,
        compression: Literal["none", "gzip"] = "none",
        timeout_s: float = 10.0,
        tls: ClientTls | None = None,
        max_spans: int = 8192,
        max_bytes: int = 4_000_000,
    ) -> None:
        self.name = name
        self._url, self._shown_url = traces_url(endpoint, base=base)
        self._tls = (tls or ClientTls()) if self._url.startswith("https:") else None
        self._gzip = compression == "gzip"
        checked = checked_headers(name, headers or {})
        self._secrets = (*secrets_of(checked.values()), *url_secrets(self._url))
        encoding = {"content-encoding": "gzip"} if self._gzip else {}
        self._headers = {"user-agent": USER_AGENT, **checked, "content-type": PROTOBUF, **encoding}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._max_spans, self._max_bytes = max_spans, max_bytes
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"OtlpHttpExporter({self.name!r}, {self._shown_url!r})"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold a session. Raises ConfigError where a TLS file cannot be used; connects when something is delivered."""
        connector = aiohttp.TCPConnector(ssl=self._tls.context() if self._tls else True)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=self._timeout) as session:
            self._session = session
            try:
                yield
            finally:
                self._session = None

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        """Serialized requests, compressed already: a body is compressed once, however often it is sent."""
        from bridge.codec.otlp_encode import encode_requests

        for request, spans in encode_requests(linked, max_spans=self._max_spans, max_bytes=self._max_bytes):
            yield Body(igzip.compress(request, 1) if self._gzip else request, spans)

    async def deliver(self, body: Body) -> None:
        """Send one request within `timeout_s`. Raises NotTaken or Refused as OTLP tells the status codes apart."""
        if self._session is None:
            raise RuntimeError(f"{self!r} is not running")
        try:
            async with self._session.post(self._url, data=body.data, allow_redirects=False) as response:
                answer = await first_bytes(response.content)
        except TimeoutError:
            raise NotTaken(f"{self._shown_url}: no answer in {self._timeout.total} s", reason="timeout") from None
        except (aiohttp.ClientError, OSError) as exc:
            text = f"{self._shown_url}: {shown(f'{type(exc).__name__}: {exc}', self._secrets)}"
            raise NotTaken(text, reason="connection") from None  # its text would hold the URL unmasked
        self._check(response, answer)

    def _check(self, response: aiohttp.ClientResponse, answer: bytes) -> None:
        if 200 <= response.status < 300:
            if response.content_type == PROTOBUF:
                check_partial_success(answer, self._secrets)
            return
        text = f"{self._shown_url}: {response.status} {shown(_message(response, answer), self._secrets)}"
        reason = f"http_{response.status}"
        if response.status in RETRYABLE:
            wait_s = retry_after_s(response.headers.get("retry-after", ""), datetime.now(UTC))
            raise NotTaken(text, reason=reason, retry_after_s=wait_s)
        raise Refused(text, reason=reason)


def _message(response: aiohttp.ClientResponse, answer: bytes) -> str:
    """What the answer says: the message of its google.rpc.Status, else its text, else the reason phrase."""
    if response.content_type == PROTOBUF:
        try:
            return str(Status.FromString(answer).message)
        except DecodeError:
            return response.reason or ""
    return answer.decode(errors="replace") or response.reason or ""


def traces_url(endpoint: str, *, base: bool) -> tuple[str, str]:
    """Where traces are posted to, and the same without user, password and query, for logs. Raises ConfigError."""
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError("endpoint: want http://host:port or https://host:port, with a path or without")
    if base:
        url = url._replace(path=url.path.rstrip("/") + "/v1/traces")
    host = url.netloc.rpartition("@")[2]
    return urlunsplit(url), urlunsplit((url.scheme, host, url.path, "", ""))
