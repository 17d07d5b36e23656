"""A real Jaeger: OTLP in, and its query API for what it made of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from tests.interop.peers import HERE
from tests.interop.processes import free_port, program
from tests.support.received import Received

CONFIG = HERE / "jaeger" / "config.yaml"
EVERYTHING = {"start": "0", "end": str(2**62 // 1000), "limit": "10000"}
INDEXED_S = 60.0
LOOK_AGAIN_S = 0.2


@dataclass(frozen=True)
class Jaeger:
    """A Jaeger that runs."""

    grpc: int
    http: int
    query: int
    session: aiohttp.ClientSession

    async def get(self, path: str, **query: str) -> Any:
        """`data` of an answer of its query API."""
        async with self.session.get(f"http://127.0.0.1:{self.query}{path}", params=query) as answer:
            assert answer.status == 200, await answer.text()
            return (await answer.json())["data"]

    async def spans(self) -> list[Received]:
        """Every span it has, found by service."""
        found: dict[tuple[str, str], Received] = {}
        for service in await self.get("/api/services") or ():
            for trace in await self.get("/api/traces", service=service, **EVERYTHING):
                found |= {(s["traceID"], s["spanID"]): _received(s) for s in trace["spans"]}
        return list(found.values())

    async def spans_once(self, count: int) -> list[Received]:
        """Every span, once it has so many."""
        found: list[Received] = []
        with anyio.move_on_after(INDEXED_S):
            while True:
                if len(found := await self.spans()) >= count:
                    return found
                await anyio.sleep(LOOK_AGAIN_S)
        raise AssertionError(f"Jaeger has {len(found)} spans after {INDEXED_S:g} s, {count} were expected")


def _received(span: dict[str, Any]) -> Received:
    parents = [
        r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF" and r["traceID"] == span["traceID"]
    ]
    method = next((tag["value"] for tag in span["tags"] if tag["key"] == "espan.link.method"), "")
    return Received(span["spanID"], parents[0] if parents else "", span["traceID"], method, b"")


@asynccontextmanager
async def running_jaeger(binary: Path, folder: Path) -> AsyncIterator[Jaeger]:
    """Run a Jaeger while the context is open; it listens."""
    grpc, http, query, query_grpc = (free_port() for _ in range(4))
    ports = {"OTLP_GRPC_PORT": grpc, "OTLP_HTTP_PORT": http, "QUERY_PORT": query, "QUERY_GRPC_PORT": query_grpc}
    variables = {name: str(port) for name, port in ports.items()}
    command = (binary, "--config", CONFIG)
    async with (
        program(*command, log=folder / "jaeger.log", variables=variables) as running,
        aiohttp.ClientSession() as session,
    ):
        await running.listens(grpc, http, query)
        yield Jaeger(grpc, http, query, session)
