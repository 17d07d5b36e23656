"""Backends of three protocols in one process that misbehave as they are told, and keep what they were sent, and when.

    python -m tests.torture.faulty_backend CAPACITY whole|ids [FOLDER]

CAPACITY: spans a second that each takes, one body after the other. `ids` reads nothing but the ids of spans, which
takes a tenth of the time; the other columns are 0 then. With a FOLDER of good.pem, good.key, expired.pem and
expired.key gRPC and Dataway are behind TLS. Prints a line of JSON with the ports, then obeys standard input: `fault
grpc=hang http=refuse` has these faults and no others from then on, `count` tells the spans that came, `save
FILE` writes what came (see `Taken.arrays`). Ends with its input.
"""

import asyncio
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from aiohttp import web
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from isal import isal_zlib
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.bench import dataway_sink
from tests.support.sink import span_ids
from tests.torture.backend import BODY_BYTES, COLUMNS, GZIP_BITS, MAX_BYTES, SERVICE, otlp_rows, point_rows
from tests.torture.front import CONNECTION_FAULTS, Front

PROTOCOLS = ("grpc", "http", "dataway")
RETRY_AFTER_S = 1
PROTOBUF = "application/x-protobuf"
STATUS = {"unavailable": 503, "throttled": 429, "unauthenticated": 401}
GRPC_STATUS = {
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "throttled": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
}
ANSWER_FAULTS = (*STATUS, "partial")


U64 = NDArray[np.uint64]


def rows_of(body: bytes, *, points: bool, whole: bool) -> U64:
    """The spans of a body, or the points, as `backend.COLUMNS`."""
    if whole:
        return np.array(list((point_rows if points else otlp_rows)(body)), np.uint64).reshape(-1, len(COLUMNS))
    ids = (dataway_sink.span_ids if points else span_ids)(body)
    rows = np.zeros((ids.size, len(COLUMNS)), np.uint64)
    rows[:, 0] = ids
    return rows


class Taken:
    """What one backend took, one body after the other at the speed it has."""

    def __init__(self, capacity: float) -> None:
        self._capacity = capacity
        self._turn = asyncio.Lock()
        self._rows: list[U64] = []
        self._arrived_s: list[float] = []
        self._ids: set[int] = set()
        self.fault = ""
        self.refused = 0
        self.partly = 0
        """Spans it took and said it had not."""

    async def take(self, made: U64) -> None:
        """One body."""
        async with self._turn:
            await asyncio.sleep(len(made) / self._capacity)
            self._rows.append(made)
            self._arrived_s.append(time.time())
            self._ids.update(made[:, 0].tolist())

    def response(self) -> bytes:
        """What OTLP answers to what was taken."""
        if self.fault != "partial":
            return b""
        self.partly += 1
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = 1
        response.partial_success.error_message = "one too many"
        return response.SerializeToString()

    def count(self) -> dict[str, int]:
        return {"distinct": len(self._ids), "refused": self.refused, "partly": self.partly}

    def arrays(self) -> tuple[U64, NDArray[np.float64]]:
        """Rows of `backend.COLUMNS`, copies included, and when each arrived, in seconds since the epoch."""
        counts = [len(rows) for rows in self._rows]
        return np.concatenate([np.zeros((0, len(COLUMNS)), np.uint64), *self._rows]), np.repeat(self._arrived_s, counts)


class Backends:
    """The three of them, each behind its front."""

    def __init__(self, capacity: float, whole: bool, folder: Path | None) -> None:
        self._whole = whole
        self.taken = {protocol: Taken(capacity) for protocol in PROTOCOLS}
        self._folder = folder
        self.fronts: dict[str, Front] = {}

    async def export(self, body: bytes, context: Any) -> bytes:
        """OTLP/gRPC."""
        taken = self.taken["grpc"]
        if taken.fault in GRPC_STATUS:
            taken.refused += 1
            code = GRPC_STATUS[taken.fault]
            if taken.fault != "unauthenticated":
                status, info, packed = Status(code=code.value[0]), RetryInfo(), AnyMessage()
                info.retry_delay.seconds = RETRY_AFTER_S
                packed.Pack(info)
                status.details.append(packed)
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            await context.abort(code, taken.fault)
        await taken.take(rows_of(body, points=False, whole=self._whole))
        return taken.response()

    async def post(self, request: web.Request) -> web.Response:
        """OTLP/HTTP."""
        taken = self.taken["http"]
        body = await request.read()
        if (refusal := self._refusal(taken)) is not None:
            return refusal
        await taken.take(rows_of(body, points=False, whole=self._whole))
        return web.Response(body=taken.response(), content_type=PROTOBUF)

    async def write(self, request: web.Request) -> web.Response:
        """Dataway."""
        taken = self.taken["dataway"]
        body = await request.read()
        if (refusal := self._refusal(taken)) is not None:
            return refusal
        if request.headers.get("Content-Encoding") == "gzip":
            body = isal_zlib.decompress(body, GZIP_BITS, BODY_BYTES)
        await taken.take(rows_of(body, points=True, whole=self._whole))
        return web.Response()

    def _refusal(self, taken: Taken) -> web.Response | None:
        status = STATUS.get(taken.fault)
        if status is None:
            return None
        taken.refused += 1
        named = {} if taken.fault == "unauthenticated" else {"retry-after": str(RETRY_AFTER_S)}
        return web.Response(status=status, text=taken.fault, headers=named)

    async def start(self) -> dict[str, int]:
        """Listen; the port of each front."""
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_BYTES), ("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(self.export)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),))
        targets = {"grpc": server.add_insecure_port("127.0.0.1:0")}
        await server.start()
        for protocol, path, handle in (("http", "/v1/traces", self.post), ("dataway", "/v1/write/tracing", self.write)):
            app = web.Application(client_max_size=MAX_BYTES)
            app.add_routes([web.post(path, handle), web.get("/v1/check/token/{token}", self._check_token)])
            runner = web.AppRunner(app, access_log=None, auto_decompress=False)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            targets[protocol] = runner.addresses[0][1]
        for protocol, port in targets.items():
            self.fronts[protocol] = front = Front(port, *self._tls(protocol))
            await front.start()
        self._server = server
        return {protocol: front.port for protocol, front in self.fronts.items()}

    async def _check_token(self, _: web.Request) -> web.Response:
        return web.json_response({})

    def _tls(self, protocol: str) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
        if self._folder is None or protocol == "http":
            return None, None
        return tls_of(self._folder, "good"), tls_of(self._folder, "expired")

    async def obey(self, command: str) -> object:
        """What a line says."""
        what, *words = command.split()
        if what == "fault":
            faults = dict(word.split("=") for word in words)
            for protocol in PROTOCOLS:
                fault = faults.get(protocol, "")
                assert fault in ("", *CONNECTION_FAULTS, *ANSWER_FAULTS), fault
                self.taken[protocol].fault = fault if fault in ANSWER_FAULTS else ""
                await self.fronts[protocol].set(fault if fault in CONNECTION_FAULTS else "")
        elif what == "save":
            arrays = {}
            for protocol, taken in self.taken.items():
                arrays[f"{protocol}_rows"], arrays[f"{protocol}_arrived"] = taken.arrays()
            np.savez(words[0], **arrays)
        return {protocol: taken.count() for protocol, taken in self.taken.items()}


def tls_of(folder: Path, name: str) -> ssl.SSLContext:
    """For a listener of HTTP/2 and HTTP/1.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def read_commands(loop: asyncio.AbstractEventLoop, take: Callable[[str], None]) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(take, line)
    loop.call_soon_threadsafe(take, "")


async def serve(capacity: float, whole: bool, folder: Path | None) -> None:
    backends = Backends(capacity, whole, folder)
    print(json.dumps(await backends.start()), flush=True)
    commands: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    threading.Thread(target=read_commands, args=(loop, commands.put_nowait), daemon=True).start()
    while command := await commands.get():
        print(json.dumps(await backends.obey(command)), flush=True)


if __name__ == "__main__":
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    asyncio.run(serve(float(sys.argv[1]), sys.argv[2] == "whole", folder))
