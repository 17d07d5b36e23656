"""Plain senders for the interoperability tests."""

from collections.abc import Iterable

import aiohttp

HEADERS = {"content-type": "application/json"}


async def post(lines: Iterable[bytes], address: str) -> None:
    """Send OTLP/JSON requests, one after the other, to http://HOST:PORT."""
    async with aiohttp.ClientSession() as session:
        for line in lines:
            async with session.post(f"{address}/v1/traces", data=line, headers=HEADERS) as response:
                assert response.status == 200, await response.text()
