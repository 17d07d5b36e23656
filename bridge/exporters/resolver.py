"""Looks up the names of backends, with a thread for each exporter.

The event loop's own threads are few, and a name server that does not answer would hold all of them: no other exporter
could look up a name then.
"""

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from bridge.exporters.thread import OneThread

LOOK_UP_S = 60.0
"""Above what resolvers take at most; the exporter's own deadline is shorter."""


class Resolver(AbstractResolver):
    """What the system knows of a name, asked anew each time: a name may move to another address at any moment."""

    def __init__(self, exporter: str) -> None:
        self._thread = OneThread(f"resolver of {exporter}")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of the host. Raises OSError, of which TimeoutError is one."""
        found = await self._thread.run(_look_up, host, port, family, timeout_s=LOOK_UP_S)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=of, proto=proto, flags=flags)
            for of, proto, address in found
        ]

    async def close(self) -> None:
        """Holds nothing."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[tuple[int, int, str]]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [(of, proto, str(address[0])) for of, _, proto, _, address in found]
