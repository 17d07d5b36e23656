"""A Dataway for load: takes everything, counts points, reads nothing but their ids.

    python -m tests.bench.dataway_sink

Prints a line of JSON with its URL, then obeys standard input (tests.bench.arrivals), and ends with it.
"""

import asyncio
import json
import re

import numpy as np
from aiohttp import web
from isal import isal_zlib

from tests.bench.arrivals import U64, Arrivals, answer_commands

TOKEN = "tkn_0123456789abcdef0123456789abcdef"  # noqa: S105 -- of a workspace that does not exist
MAX_BYTES = 64 << 20
GZIP_BITS, BODY_BYTES = 31, 2 << 20
_SPAN_ID = re.compile(rb"\x0a\x07span_id\x5a\x10([0-9a-f]{16})")
"""A field `span_id` with its 16 digits as protobuf writes it."""


def span_ids(body: bytes) -> U64:
    """Ids of a PBPoints' points, found by their field's bytes."""
    return np.frombuffer(bytes.fromhex(b"".join(_SPAN_ID.findall(body)).decode()), ">u8").astype(np.uint64)


class Backend:
    """Answers the two requests the bridge makes of a Dataway."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals

    async def write(self, request: web.Request) -> web.Response:
        """Take one body, or refuse it while the backend is closed; 400 where X-Points says another number."""
        body = await request.read()
        if self._arrivals.refuses():
            return web.Response(status=503)
        if request.headers.get("Content-Encoding") == "gzip":
            body = isal_zlib.decompress(body, GZIP_BITS, BODY_BYTES)
        ids = span_ids(body)
        if ids.size != int(request.headers["X-Points"]):
            return web.json_response({"error_code": "bench.points", "message": f"{ids.size} found"}, status=400)
        self._arrivals.add(ids)
        return web.Response()

    async def check_token(self, _: web.Request) -> web.Response:
        """Any token will do."""
        return web.json_response({})


async def serve() -> None:
    arrivals = Arrivals()
    backend = Backend(arrivals)
    app = web.Application(client_max_size=MAX_BYTES)
    app.add_routes(
        [web.post("/v1/write/tracing", backend.write), web.get("/v1/check/token/{token}", backend.check_token)]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    print(json.dumps({"endpoint": f"http://127.0.0.1:{port}?token={TOKEN}"}), flush=True)
    try:
        await asyncio.to_thread(answer_commands, arrivals)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
