"""Posts points as a DataKit agent does: no compression, one path, and only 200 counts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from bridge.component import Body
from bridge.errors import PermanentError, RetryableError

PATH = "/v1/bpftracing?input=ebpf-net%2Fbpftracing"
CONTENT_TYPE = "application/protobuf; proto=com.guance.Point"
TIMEOUT_S = 120.0
"""An agent has none; but who simulates one wants to hear of it."""


class Agent:
    """Sends bodies of points to a linker at `endpoint`."""

    def __init__(self, name: str, endpoint: str) -> None:
        self.name = name
        self._url = endpoint.rstrip("/") + PATH
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold connections while the context is open."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, headers={"Content-Type": CONTENT_TYPE}) as session:
            self._session = session
            yield

    async def deliver(self, body: Body) -> None:
        """Raises PermanentError for any answer but 200: an agent does not send again; RetryableError without one."""
        if self._session is None:
            raise RuntimeError("the agent is not running")
        try:
            async with self._session.post(self._url, data=body.data) as response:
                answer = await response.text(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise RetryableError(f"{type(exc).__name__}: {exc}") from exc
        if response.status != 200:
            raise PermanentError(f"{response.status} {answer[:300]}")
