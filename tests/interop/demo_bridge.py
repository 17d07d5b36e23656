"""A bridge through which the demo's traces went."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio

from tests.interop.sending import post
from tests.support.bridge_process import Setup, running
from tests.support.received import read_truth
from tests.support.senders import BOUTIQUE, recorded_lines
from tests.support.sink import running_sink

TRACES = len({origin.trace for origin in read_truth(BOUTIQUE / "truth.csv").values()})
WAIT_S = 30.0
LOOK_AGAIN_S = 0.1


@asynccontextmanager
async def bridge_with_traces(folder: Path, *, web: str = "", workers: int = 1) -> AsyncIterator[str]:
    """Address of its page. web: further settings of [web]."""
    setup = Setup(folder, window="2s", workers=workers, web_settings=web)
    async with running_sink() as sink:
        setup.export_to("one", "otlp_grpc", sink.grpc_port)
        async with running(setup) as bridge:
            await post(recorded_lines("agent"), f"http://{bridge.address('otlp_http')}")
            yield bridge.address("web")


async def kept(address: str, traces: int = TRACES) -> None:
    """Return once the page has so many traces to show."""
    with anyio.fail_after(WAIT_S):
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{address}/api/status") as answer:
                    if (await answer.json())["kept_traces"] >= traces:
                        return
                await anyio.sleep(LOOK_AGAIN_S)
