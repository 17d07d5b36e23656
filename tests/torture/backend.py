"""A backend that outlives every bridge, and keeps for each span it is sent the ids it had and a digest of its bytes.

    python -m tests.torture.backend otlp|dataway

Prints a line of JSON with its endpoint, then obeys standard input: `count` says how many spans came and how many
different ones, `save FILE` writes what came as an array of the shape (spans, 5), see `COLUMNS`; `silent` makes it take
nothing and say nothing, until `answering`. Ends with its input.
"""

import asyncio
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import Any

import grpc
import numpy as np
from aiohttp import web
from isal import isal_zlib
from numpy.typing import NDArray
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.dataway import TOKEN, PBPoints
from tests.support.received import span_bytes

COLUMNS = ("span", "trace_high", "trace_low", "parent", "digest")
"""Of what is saved, uint64 each; parent 0 at a root."""
SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
MAX_BYTES = 64 << 20
GZIP_BITS, BODY_BYTES = 31, 2 << 20
LOW = (1 << 64) - 1
THREADS = 4
ANSWER_S = 0.05
"""How long after it has the spans it says so: time to be killed in for a bridge before it notes that."""

Row = tuple[int, int, int, int, int]


class Seen:
    """The spans that came, copies included, in order of arrival."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint64]] = []
        self._ids: set[int] = set()
        self._spans = 0
        self.answers = Event()
        """Whether anything is taken; who asks meanwhile is neither answered nor counted."""
        self.answers.set()

    def add(self, rows: Iterator[Row]) -> int:
        """Take one body; how many spans it had."""
        part = np.array(list(rows), np.uint64).reshape(-1, len(COLUMNS))
        self._parts.append(part)
        self._ids.update(part[:, 0].tolist())
        self._spans += len(part)
        return len(part)

    def answer(self, command: str) -> object:
        """Do what a line says."""
        what, _, path = command.partition(" ")
        if what == "silent":
            self.answers.clear()
        if what == "answering":
            self.answers.set()
        if what == "save":
            np.save(Path(path), np.concatenate([np.zeros((0, len(COLUMNS)), np.uint64), *self._parts]))
        return {"spans": self._spans, "distinct": len(self._ids)}


def otlp_rows(body: bytes) -> Iterator[Row]:
    """Of an ExportTraceServiceRequest."""
    for data in span_bytes(body):
        span = Span.FromString(data)
        trace = int.from_bytes(span.trace_id)
        ids = int.from_bytes(span.span_id), trace >> 64, trace & LOW, int.from_bytes(span.parent_span_id)
        yield (*ids, _digest(data))


def point_rows(body: bytes) -> Iterator[Row]:
    """Of a PBPoints."""
    for point in PBPoints.FromString(body).arr:
        texts = {each.key: each.s for each in point.fields if each.key in ("span_id", "trace_id", "parent_id")}
        span, trace, parent = (int(texts[key], 16) for key in ("span_id", "trace_id", "parent_id"))
        yield span, trace >> 64, trace & LOW, parent, _digest(point.SerializeToString(deterministic=True))


def _digest(data: bytes) -> int:
    return zlib.crc32(data) << 32 | zlib.adler32(data)


def serve_otlp(seen: Seen) -> None:
    """gRPC, until standard input ends."""

    alone = Lock()

    def export(body: bytes, _: grpc.ServicerContext) -> bytes:
        seen.answers.wait()
        with alone:
            seen.add(otlp_rows(body))
        time.sleep(ANSWER_S)
        return b""

    options = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(THREADS), options=options)
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    obey(f"http://127.0.0.1:{port}", seen.answer)
    server.stop(0)


async def serve_dataway(seen: Seen) -> None:
    """HTTP, until standard input ends."""

    async def write(request: web.Request) -> web.Response:
        body = await request.read()
        await asyncio.to_thread(seen.answers.wait)
        if request.headers.get("Content-Encoding") == "gzip":
            body = isal_zlib.decompress(body, GZIP_BITS, BODY_BYTES)
        if seen.add(point_rows(body)) != int(request.headers["X-Points"]):
            return web.json_response({"error_code": "torture.points", "message": "another number"}, status=400)
        await asyncio.sleep(ANSWER_S)
        return web.Response()

    async def check_token(_: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application(client_max_size=MAX_BYTES)
    app.add_routes([web.post("/v1/write/tracing", write), web.get("/v1/check/token/{token}", check_token)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    loop = asyncio.get_running_loop()

    def answer(command: str) -> object:
        async def on_the_loop() -> object:
            return seen.answer(command)

        return asyncio.run_coroutine_threadsafe(on_the_loop(), loop).result()

    try:
        await asyncio.to_thread(obey, f"http://127.0.0.1:{runner.addresses[0][1]}?token={TOKEN}", answer)
    finally:
        await runner.cleanup()


def obey(endpoint: str, answer: Callable[[str], object]) -> None:
    """Say where it listens, then answer each line on standard input with one line of JSON."""
    print(json.dumps({"endpoint": endpoint}), flush=True)
    for line in sys.stdin:
        reply: Any = answer(line.strip())
        print(json.dumps(reply), flush=True)


def main() -> None:
    if sys.argv[1] == "otlp":
        serve_otlp(Seen())
    else:
        asyncio.run(serve_dataway(Seen()))


if __name__ == "__main__":
    main()
