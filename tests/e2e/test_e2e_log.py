"""What an operator reads: one line for each event that matters, and none for traffic or for time that passes."""

import time
from pathlib import Path

import aiohttp
import pytest

from bridge import __version__
from tests.support.bridge_process import Setup, started
from tests.support.sink import running_sink
from tests.support.steady_load import SteadyLoad

AGENTS = '\n[receivers.datakit]\nhost = "127.0.0.1"\nport = 0\n'
SECONDS = 4.0
"""With ticks of 50 ms these are as many as in forty seconds."""


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_log_of_a_normal_run_is_its_start_and_its_stop(tmp_path: Path, workers: int) -> None:
    """Whatever is sent meanwhile: what was started, with what, where it listens, and at the end what came of it."""
    async with running_sink() as sink:
        setup = Setup(tmp_path, workers=workers).export_to("backend", "otlp_grpc", sink.grpc_port)
        setup.exporters += AGENTS
        config = setup.write()
        async with started(config) as bridge:
            await bridge.ready()
            load, began = SteadyLoad(), time.monotonic()
            async with load.sending(bridge.address("otlp_grpc"), bridge.address("datakit")):
                while time.monotonic() - began < SECONDS / workers:
                    await load.more(100)
                    async with aiohttp.ClientSession() as session:
                        for path in ("readyz", "metrics"):
                            async with session.get(f"http://{bridge.address('web')}/{path}") as answer:
                                assert answer.status == 200
            lost = await load.delivered(sink, 60.0)
            before = bridge.messages()
            assert await bridge.stop() == 0
    assert lost == 0
    assert bridge.text.strip() == "", "not everything it says is an event"
    start = [
        "starting",
        "opening the store",
        *["an ingest process has started"] * (workers if workers > 1 else 0),
        "ready",
    ]
    assert before == start
    stop = "stopped; what is not delivered leaves after the next start"
    assert bridge.messages()[len(before) :] == ["stopping", stop]
    assert {event["level"] for event in bridge.log} == {"info"}
    events = {event["message"]: event for event in bridge.log}
    assert events["starting"]["version"] == __version__
    assert events["starting"]["config"] == [str(config)]
    assert events["ready"]["exporters"] == ["backend"]
    assert {"otlp_grpc", "otlp_http", "datakit", "web", "recovered_spans"} <= events["ready"].keys()
    ended = events[stop]
    assert ended["accepted_spans"] == load.acknowledged
    assert ended["sent_spans"] + ended["waiting_spans"] >= load.acknowledged > 0
    assert (ended["refused_spans"], ended["lost_spans"], ended["undelivered_ticks"]) == (0, 0, {"backend": 0})
