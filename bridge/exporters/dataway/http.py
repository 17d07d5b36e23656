"""POST /v1/write/tracing of a Dataway."""

import gzip
import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import aiohttp
import anyio
from isal import igzip, isal_zlib
from yarl import URL

from bridge.component import Body
from bridge.errors import ConfigError
from bridge.exporters.answers import (
    BAD_REQUEST,
    CONTENT_TOO_LARGE,
    first_bytes,
    retry_after_s,
    settings_refusal,
    shown,
    url_secrets,
)
from bridge.exporters.connection import HEADER_TEXT, USER_AGENT, checked_headers, watched
from bridge.exporters.dataway.cutting import cut_points
from bridge.exporters.failures import NotTaken, Refused
from bridge.exporters.parts import Parts
from bridge.exporters.protocols import http_remedy
from bridge.exporters.resolver import Resolver
from bridge.security import ClientTls, FileWatch
from bridge.spans import LinkedSpans

logger = logging.getLogger(__name__)

WRITE_PATH = "/v1/write/tracing"
CHECK_PATH = "/v1/check/token/"
CONTENT_TYPES: Mapping[str, str] = {
    "protobuf": "application/protobuf; proto=com.guance.Point",
    "line_protocol": "application/line-protocol",
}
TRY_AGAIN = frozenset({408, 429})
"""Statuses below 500 that say nothing against the body; DataKit itself drops these too."""
QUOTA_USED_UP = "beyondDataUsage"
CHECK_TIMEOUT_S = 10.0


class DatawayExporter:
    """POSTs points to the Dataway of `url`, https://HOST?token=TOKEN. Redirects are not followed.

    `global_tags` are set on points that lack them; with `sinker` they are sent as X-Global-Tags, too,
    in UTF-8 as DataKit does. `proxy`: URL of
    an HTTP proxy. With a `watch` TLS files are read again when they change.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        form: Literal["protobuf", "line_protocol"] = "protobuf",
        compression: Literal["none", "gzip"] = "gzip",
        timeout_s: float = 30.0,
        max_bytes: int = 1 << 20,
        global_tags: Mapping[str, str] | None = None,
        sinker: bool = False,
        proxy: str | None = None,
        tls: ClientTls | None = None,
        watch: FileWatch | None = None,
    ) -> None:
        self.name = name
        self._address = DatawayUrl(url)
        self._form: Literal["protobuf", "line_protocol"] = form
        self._gzip, self._max_bytes = compression == "gzip", max_bytes
        self._global_tags = dict(global_tags or {})
        self._proxy = proxy
        self._tls = watched(name, tls, watch) if self._address.secure else None
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._secrets = (*self._address.secrets, *(url_secrets(proxy) if proxy else ()))
        headers = {"user-agent": USER_AGENT, "content-type": CONTENT_TYPES[form]}
        if self._gzip:
            headers["content-encoding"] = "gzip"
        if sinker and self._global_tags:
            headers["x-global-tags"] = ",".join(f"{key}={self._global_tags[key]}" for key in sorted(self._global_tags))
        self._headers = checked_headers(name, headers, allowed=HEADER_TEXT)
        self._parts = Parts(name, self._send, self._cut)
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"DatawayExporter({self.name!r}, {self._address})"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold a session, and have the token checked beside it; what comes of that is only logged.

        Raises ConfigError where a TLS file cannot be used; connects when something is delivered.
        """
        if self._tls:
            self._tls.start()
        connector = aiohttp.TCPConnector(limit=0, resolver=Resolver(self.name), use_dns_cache=False)
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            anyio.create_task_group() as checking,
        ):
            checking.start_soon(self._check_token, session)
            self._session = session
            try:
                yield
            finally:
                self._session = None
                checking.cancel_scope.cancel()

    def _ssl(self) -> ssl.SSLContext | bool:
        """For the next request; connections are kept by it, so that another is for new ones."""
        return self._tls.value.context if self._tls else True

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        """Points in bodies of at most `max_bytes`, compressed already: once, however often one is sent."""
        from bridge.codec.points.encode import encode_points

        bodies = encode_points(linked, max_bytes=self._max_bytes, form=self._form, global_tags=self._global_tags)
        for data, points in bodies:
            yield Body(igzip.compress(data, 1, mtime=0) if self._gzip else data, points)

    async def deliver(self, body: Body) -> None:
        """Send one body within `timeout_s`. Raises NotTaken or Refused.

        Final are 4xx that are about the body: not 408 and 429, and not those about settings or the account. A body of
        protobuf is sent in parts then, each within that time: a Dataway refuses all of it for one point.
        """
        await self._parts.deliver(body.data, body.spans)

    def _cut(self, packed: bytes, begin: int, end: int) -> bytes:
        points = cut_points(gzip.decompress(packed) if self._gzip else packed, begin, end)
        return igzip.compress(points, 1, mtime=0) if self._gzip else points

    async def _send(self, packed: bytes, points: int) -> None:
        if self._session is None:
            raise RuntimeError(f"{self!r} is not running")
        headers = {**self._headers, "x-points": str(points), "x-pkg-id": _package_id(packed)}
        try:
            async with self._session.post(
                self._address.write,
                data=packed,
                headers=headers,
                proxy=self._proxy,
                allow_redirects=False,
                ssl=self._ssl(),
            ) as response:
                answer = await first_bytes(response.content)
        except TimeoutError:
            raise NotTaken(f"{self._address}: no answer in {self._timeout.total} s", reason="timeout") from None
        except (aiohttp.ClientError, OSError) as exc:
            error = f"{type(exc).__name__}: {exc}"
            text, remedy = f"{self._address}: {shown(error, self._secrets)}", http_remedy(error)
            text = f"{text}; {remedy}" if remedy else text
            # its own text would hold the URL unmasked
            raise NotTaken(text, reason="connection", settings=bool(remedy)) from None
        if not 200 <= response.status < 300:
            raise self._failure(response, answer.decode(errors="replace"))

    def _failure(self, response: aiohttp.ClientResponse, answer: str) -> NotTaken | Refused:
        status = response.status
        text = f"{self._address}: {status} {shown(answer or response.reason or '', self._secrets)}"
        wait_s = retry_after_s(response.headers.get("retry-after", ""), datetime.now(UTC))
        if QUOTA_USED_UP in answer:
            text = f"the workspace's data quota is used up: {text}"
            return NotTaken(text, reason="beyond_data_usage", retry_after_s=wait_s, settings=True)
        remedy = settings_refusal(status, response.headers.get("location", ""))
        if remedy := remedy or http_remedy(answer if status == BAD_REQUEST else ""):
            return NotTaken(f"{text}; {remedy}", reason=f"http_{status}", retry_after_s=wait_s, settings=True)
        if 400 <= status < 500 and status not in TRY_AGAIN:
            some = self._form == "protobuf"  # lines cannot be told apart: a text may have line ends in it
            return Refused(text, reason=f"http_{status}", too_large=some and status == CONTENT_TOO_LARGE, some=some)
        return NotTaken(text, reason=f"http_{status}", retry_after_s=wait_s)

    async def _check_token(self, session: aiohttp.ClientSession) -> None:
        fields = {"exporter": self.name, "dataway": str(self._address)}
        if not self._address.check:
            logger.warning("the Dataway's url has no token", extra=fields)
            return
        timeout = aiohttp.ClientTimeout(total=CHECK_TIMEOUT_S)
        try:
            async with session.get(
                self._address.check, proxy=self._proxy, timeout=timeout, ssl=self._ssl()
            ) as response:
                answer = await first_bytes(response.content)
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            error = shown(f"{type(exc).__name__}: {exc}", self._secrets)
            logger.warning("the Dataway's token could not be checked", extra={**fields, "error": error})
            return
        if response.status >= 400:
            error = f"{response.status} {shown(answer.decode(errors='replace'), self._secrets)}"
            logger.warning("the Dataway does not know the token", extra={**fields, "error": error})


def _package_id(data: bytes) -> str:
    """The same for the same body, whenever it is sent. It names an upload and guards nothing: two sums tell enough."""
    return f"dk_{isal_zlib.crc32(data):08x}{isal_zlib.adler32(data):08x}{len(data):x}"


class DatawayUrl:
    """Where things are at a Dataway, made from the URL users have; its text is the address without anything secret."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError for what is no URL of a Dataway."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("url: want https://HOST?token=TOKEN")
        token = parse_qs(parts.query).get("token", [""])[0]
        self.secure = parts.scheme == "https"
        # as they stand, not normalized: the query is the Dataway's own
        self.write = URL(urlunsplit((parts.scheme, parts.netloc, WRITE_PATH, parts.query, "")), encoded=True)
        check = urlunsplit((parts.scheme, parts.netloc, CHECK_PATH + quote(token, safe=""), "", ""))
        self.check = URL(check, encoded=True) if token else None
        secrets = {token, *url_secrets(url)} - {""}
        self.secrets = tuple(sorted(secrets, key=len, reverse=True))
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def __str__(self) -> str:
        return self._shown
