"""A real Collector that sends gRPC to the bridge's port for HTTP finds out from its own log."""

from pathlib import Path

import anyio

from bridge.connections import NO_GRPC
from tests.interop.collectors import Collector
from tests.support.bridge_process import Setup, running
from tests.support.senders import simulated, stock_stub

SAID_S = 60.0
LOOK_AGAIN_S = 0.1


async def line_with(text: str, log: Path) -> str:
    """The first line of a log that has this text, once there is one."""
    with anyio.fail_after(SAID_S):
        while True:
            lines = (await anyio.Path(log).read_text()).splitlines()
            if found := [line for line in lines if text in line]:
                return found[0]
            await anyio.sleep(LOOK_AGAIN_S)


async def test_a_collector_at_the_wrong_port_logs_where_to_go(collector_program: Path, tmp_path: Path) -> None:
    """And goes on trying: nothing is lost until somebody reads it."""
    requests, _ = simulated(0, 1, 10**18)
    async with running(Setup(tmp_path).export_to_file(tmp_path / "lines")) as bridge:
        collector = Collector(tmp_path / "collector").sending("otlp_grpc", bridge.address("otlp_http"))
        async with collector.running(collector_program) as program:
            async with stock_stub(f"127.0.0.1:{collector.grpc}") as stub:
                for request in requests:
                    await stub.Export(request)
            await bridge.logged("a client sends gRPC to a port that takes HTTP")
            assert "Will retry" in await line_with(NO_GRPC, program.log)
