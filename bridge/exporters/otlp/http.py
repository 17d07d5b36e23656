"""OTLP over HTTP, in protobuf."""

import gzip
import logging
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
from bridge.exporters.answers import (
    BAD_REQUEST,
    CONTENT_TOO_LARGE,
    first_bytes,
    retry_after_s,
    secrets_of,
    settings_refusal,
    shown,
    url_secrets,
)
from bridge.exporters.connection import USER_AGENT, checked_headers, watched
from bridge.exporters.failures import Answer, NotTaken, Refused
from bridge.exporters.otlp.answers import check_partial_success
from bridge.exporters.otlp.cutting import cut_request
from bridge.exporters.parts import Parts
from bridge.exporters.protocols import http_remedy
from bridge.exporters.repeats import Repeats
from bridge.exporters.resolver import Resolver
from bridge.security import ClientTls, FileWatch
from bridge.spans import LinkedSpans

PROTOBUF, JSON = "application/x-protobuf", "application/json"
TRACES_PATH = "v1/traces"
RETRYABLE = frozenset({408, 429, 502, 503, 504})
"""Those of OTLP, and 408: nobody read the body."""

logger = logging.getLogger(__name__)


class OtlpHttpExporter:
    """POSTs ExportTraceServiceRequests to `endpoint`.

    With `base` the endpoint is that of a whole OTLP backend and v1/traces is appended; otherwise it is used as it is
    (OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT differ in that). Redirects are not followed.
    With a `watch` TLS files are read again when they change: new connections are made with what they say then.
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
        watch: FileWatch | None = None,
        max_spans: int = 8192,
        max_bytes: int = 4_000_000,
    ) -> None:
        self.name = name
        self._url, self._shown_url = traces_url(endpoint, base=base)
        self._tls = watched(name, tls, watch) if self._url.startswith("https:") else None
        self._gzip = compression == "gzip"
        checked = checked_headers(name, headers or {})
        self._secrets = (*secrets_of(checked.values()), *url_secrets(self._url))
        encoding = {"content-encoding": "gzip"} if self._gzip else {}
        self._headers = {"user-agent": USER_AGENT, **checked, "content-type": PROTOBUF, **encoding}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._max_spans, self._max_bytes = max_spans, max_bytes
        self._session: aiohttp.ClientSession | None = None
        self._parts, self._warnings = Parts(name, self._send, self._cut), Repeats()

    def __repr__(self) -> str:
        return f"OtlpHttpExporter({self.name!r}, {self._shown_url!r})"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold a session. Raises ConfigError where a TLS file cannot be used; connects when something is delivered."""
        if self._tls:
            self._tls.start()
        connector = aiohttp.TCPConnector(limit=0, resolver=Resolver(self.name), use_dns_cache=False)
        async with aiohttp.ClientSession(
            connector=connector, headers=self._headers, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            self._session = session
            try:
                yield
            finally:
                self._session = None

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        """Serialized requests, compressed already: a body is compressed once, however often it is sent."""
        from bridge.codec.otlp_encode import encode_requests

        for request, spans in encode_requests(linked, max_spans=self._max_spans, max_bytes=self._max_bytes):
            yield Body(self._packed(request), spans)

    async def deliver(self, body: Body) -> None:
        """Send one request within `timeout_s`. Raises NotTaken or Refused as OTLP tells the status codes apart.

        One that is too large for the backend is sent in parts, each within that time.
        """
        await self._parts.deliver(body.data, body.spans)

    def _packed(self, request: bytes) -> bytes:
        return igzip.compress(request, 1, mtime=0) if self._gzip else request

    def _cut(self, packed: bytes, begin: int, end: int) -> bytes:
        return self._packed(cut_request(gzip.decompress(packed) if self._gzip else packed, begin, end))

    async def post(self, path: str, request: bytes, *, as_json: bool) -> bytes:
        """The answer to one request of another signal, within `timeout_s`; `path` stands where v1/traces does.

        Raises NotTaken or Refused, the latter also where the endpoint is that of traces alone (traces_endpoint). An
        answer of another kind than the request says nothing but that it was taken.
        """
        if not urlsplit(self._url).path.endswith(TRACES_PATH):
            raise Refused(f"{self._shown_url}: an address of traces alone", reason="no_address")
        kind = JSON if as_json else PROTOBUF
        other, shown_url = (_beside(url, path) for url in (self._url, self._shown_url))
        response, answer = await self._post(other, shown_url, self._packed(request), {"content-type": kind})
        self._check(response, answer, shown_url)
        return answer if response.content_type == kind else b"{}" if as_json else b""

    async def _send(self, packed: bytes, _spans: int) -> None:
        response, answer = await self._post(self._url, self._shown_url, packed, {})
        self._check(response, answer, self._shown_url)
        warning = check_partial_success(answer, self._secrets) if response.content_type == PROTOBUF else ""
        if warning and self._warnings.worth_logging(warning):
            logger.warning("backend took spans with a warning", extra={"exporter": self.name, "warning": warning})

    async def _post(
        self, url: str, shown_url: str, packed: bytes, headers: Mapping[str, str]
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        if self._session is None:
            raise RuntimeError(f"{self!r} is not running")
        try:
            tls = self._tls.value.context if self._tls else True  # connections are kept by it: another is for new ones
            async with self._session.post(
                url, data=packed, headers=headers, allow_redirects=False, ssl=tls
            ) as response:
                return response, await first_bytes(response.content)
        except TimeoutError:
            raise NotTaken(f"{shown_url}: no answer in {self._timeout.total} s", reason="timeout") from None
        except (aiohttp.ClientError, OSError) as exc:
            error = f"{type(exc).__name__}: {exc}"
            text, remedy = f"{shown_url}: {shown(error, self._secrets)}", http_remedy(error)
            text = f"{text}; {remedy}" if remedy else text
            # its own text would hold the URL unmasked
            raise NotTaken(text, reason="connection", settings=bool(remedy)) from None

    def _check(self, response: aiohttp.ClientResponse, said: bytes, shown_url: str) -> None:
        """Raise NotTaken or Refused unless the answer says that the backend took the request."""
        status = response.status
        if 200 <= status < 300:
            return
        text = f"{shown_url}: {status} {shown(_message(response, said), self._secrets)}"
        reason, answer = f"http_{status}", Answer(status, text)
        wait_s = retry_after_s(response.headers.get("retry-after", ""), datetime.now(UTC))
        if status in RETRYABLE:
            raise NotTaken(text, reason=reason, retry_after_s=wait_s, answer=answer)
        remedy = settings_refusal(status, response.headers.get("location", ""))
        if remedy := remedy or http_remedy(said.decode(errors="replace") if status == BAD_REQUEST else ""):
            text = f"{text}; {remedy}"
            raise NotTaken(text, reason=reason, retry_after_s=wait_s, settings=True, answer=answer)
        raise Refused(text, reason=reason, too_large=status == CONTENT_TOO_LARGE, answer=answer)


def _beside(url: str, path: str) -> str:
    """The address with this path where v1/traces stands."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.removesuffix(TRACES_PATH) + path))


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
        url = url._replace(path=f"{url.path.rstrip('/')}/{TRACES_PATH}")
    host = url.netloc.rpartition("@")[2]
    return urlunsplit(url), urlunsplit((url.scheme, host, url.path, "", ""))
