"""All parts of one bridge in this process: start, stop, and what ends it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from bridge.config import load
from bridge.linker import Assembler, Departed, LinkOptions, WindowOptions
from bridge.pipeline import run
from bridge.pipeline.run import Bridge
from bridge.telemetry.metrics import running_metrics
from tests.support.bridge_parts import START_NS
from tests.support.received import score, spans_of
from tests.support.senders import simulated, stock_stub
from tests.support.sink import running_sink

CONFIG = """
shutdown_grace = "{grace}"
[[inputs.ebpftrace]]
db_path = "{folder}/store"
window = "{window}"
sampling_rate = 1.0
[linker]
tick = "10ms"
max_trace_age = "1h"
[receivers.otlp_grpc]
port = 0
[receivers.otlp_http]
port = 0
[web]
port = 0
[store]
flush_on_stop = {flush}
[exporters.backend]
type = "otlp_grpc"
endpoint = "http://127.0.0.1:{sink}"
retry = {{ initial = "10ms", max = "10ms" }}
"""


@asynccontextmanager
async def running_bridge(
    folder: Path, sink: int, *, flush: bool = False, window: str = "1h", grace: str = "5s"
) -> AsyncIterator[str]:
    """A bridge; yields where it takes OTLP/gRPC."""
    path = folder / "bridge.toml"
    path.write_text(CONFIG.format(folder=folder, sink=sink, flush=str(flush).lower(), window=window, grace=grace))
    with running_metrics("0") as metrics:
        async with Bridge(load(path, {}).settings, metrics).running() as addresses:
            yield addresses["otlp_grpc"]


async def test_flush_on_stop_lets_open_traces_leave(tmp_path: Path) -> None:
    """They are delivered before the stop is over."""
    requests, truth = simulated(0, 20, START_NS)
    async with running_sink() as sink:
        async with running_bridge(tmp_path, sink.grpc_port, flush=True) as address, stock_stub(address) as stub:
            for request in requests:
                await stub.Export(request)
            assert sink.totals().spans == 0
        result = score(truth, spans_of(sink.bodies))
    assert (result.recall, result.whole_traces) == (1.0, 1.0)


async def test_a_stop_keeps_open_traces_for_the_next_start(tmp_path: Path) -> None:
    """Nothing leaves by force; the next bridge has every span."""
    requests, truth = simulated(0, 20, START_NS)
    async with running_sink() as sink:
        async with running_bridge(tmp_path, sink.grpc_port) as address, stock_stub(address) as stub:
            for request in requests:
                await stub.Export(request)
        assert sink.totals().spans == 0
        async with running_bridge(tmp_path, sink.grpc_port, flush=True):
            pass
        assert score(truth, spans_of(sink.bodies)).whole_traces == 1.0


async def test_a_backend_that_is_away_holds_a_stop_up_for_the_grace_only(tmp_path: Path) -> None:
    """What it did not take is delivered after the next start."""
    requests, truth = simulated(0, 5, START_NS)
    async with running_sink(always="unavailable") as sink:
        with anyio.fail_after(5):
            async with (
                running_bridge(tmp_path, sink.grpc_port, flush=True, grace="200ms") as address,
                stock_stub(address) as stub,
            ):
                for request in requests:
                    await stub.Export(request)
        assert sink.totals().spans == 0
        sink.always("ok")
        async with running_bridge(tmp_path, sink.grpc_port):
            while sink.totals().distinct < len(truth):
                sink.arrived.clear()
                await sink.arrived.wait()


class Defect(Exception):
    """What should never happen."""


class BrokenAssembler(Assembler):
    """Fails once there is something to link."""

    def tick(self, now_ns: int, *, leave: bool = True, force: bool = False, most: int | None = None) -> Departed:
        if self.waiting:
            raise Defect
        return super().tick(now_ns, leave=leave, force=force, most=most)


async def test_a_defect_of_the_linker_ends_the_bridge_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not go on answering while nothing leaves; what it acknowledged is there when the defect is mended."""
    requests, truth = simulated(0, 5, START_NS)
    acknowledged = 0
    async with running_sink() as sink:
        broken = BrokenAssembler(LinkOptions(), WindowOptions(window_ns=10**9))
        monkeypatch.setattr(run, "build_assembler", lambda _: broken)
        with pytest.RaisesGroup(Defect, flatten_subgroups=True):
            async with running_bridge(tmp_path, sink.grpc_port) as address, stock_stub(address) as stub:
                for request in requests:
                    await stub.Export(request)
                    acknowledged += 1
                await anyio.sleep_forever()
        monkeypatch.undo()
        assert acknowledged
        async with running_bridge(tmp_path, sink.grpc_port, flush=True):
            pass
        assert sink.totals().distinct >= acknowledged
    assert len(truth) == 45
