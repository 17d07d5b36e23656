"""What operators meet: two bridges on one store, backends that are away, settings and ports that cannot be used."""

import resource
import signal
import socket
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

import aiohttp
import anyio
import grpc
import psutil
import pytest

from tests.e2e.conftest import Delivered
from tests.support.bridge_process import Setup, running, started
from tests.support.received import score
from tests.support.senders import simulated, stock_stub
from tests.support.sink import running_sink


def two_on_one_store(folder: Path) -> tuple[Setup, Setup]:
    """Settings of two bridges that differ in everything but the store."""
    setups = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        setup = Setup(folder / name, db_path=folder / "store")
        setups.append(setup.export_to_file(folder / name / "out.jsonl"))
    return setups[0], setups[1]


async def test_a_second_bridge_on_one_store_waits_and_then_says_who_owns_it(tmp_path: Path) -> None:
    """Exit code 2, the folder and the owner's pid; the first one is not touched."""
    first, second = two_on_one_store(tmp_path)
    second.lock_wait = "300ms"
    async with running(first) as owner, started(second.write()) as other:
        assert await other.ended() == 2
        assert f"{tmp_path / 'store'} is in use by another bridge (pid {owner.pid}); waited 0.3 s for it" in other.text
        assert "Traceback" not in other.text
        assert await owner.stop() == 0


async def test_the_next_bridge_gets_the_store_when_the_first_lets_go(tmp_path: Path) -> None:
    """A rolling restart: the new one waits as long as lock_wait allows."""
    first, second = two_on_one_store(tmp_path)
    async with running(first) as owner, started(second.write()) as other:
        assert await owner.stop() == 0
        await other.ready()
        assert await other.stop() == 0


async def test_an_exporter_that_is_down_delays_no_other_and_loses_nothing(tmp_path: Path, delivered: Delivered) -> None:
    """One backend refuses for a while; the other has everything long before, and the first catches up."""
    requests, truth = simulated(0, 50, time.time_ns())
    async with running_sink(always="unavailable") as down, running_sink() as up:
        setup = (
            Setup(tmp_path).export_to("down", "otlp_grpc", down.grpc_port).export_to("up", "otlp_http", up.http_port)
        )
        async with running(setup) as bridge:
            async with stock_stub(bridge.address("otlp_grpc")) as stub:
                for request in requests:
                    await stub.Export(request)
            assert score(truth, await delivered(up, len(truth))).whole_traces == 1.0
            while down.totals().requests < 2:
                down.arrived.clear()
                await down.arrived.wait()
            assert down.totals().spans == 0
            metrics = await get(bridge.address("web"), "/metrics")
            assert 'exporter_queue_size{exporter="down"} 0.0' not in metrics
            assert 'exporter_retries_total{exporter="down",reason="unavailable"}' in metrics
            down.always("ok")
            assert score(truth, await delivered(down, len(truth))).whole_traces == 1.0
            assert await bridge.stop() == 0


async def get(address: str, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        assert response.status == 200
        return await response.text()


async def test_metrics_say_what_left_and_how_it_was_linked(tmp_path: Path, delivered: Delivered) -> None:
    """Counts of spans, edges by method and traces by verdict are those of what was sent."""
    requests, truth = simulated(0, 10, time.time_ns())
    async with running_sink() as sink, running(Setup(tmp_path).export_to("a", "otlp_grpc", sink.grpc_port)) as bridge:
        async with stock_stub(bridge.address("otlp_grpc")) as stub:
            for request in requests:
                await stub.Export(request)
        await delivered(sink, len(truth))
        metrics = await get(bridge.address("web"), "/metrics")
        assert await get(bridge.address("web"), "/readyz") == "ready\n"
        assert await bridge.stop() == 0
    for line in (
        'receiver_accepted_spans_total{receiver="otlp_grpc"} 90.0',
        'linker_left_spans_total{outcome="export"} 90.0',
        'linker_edges_total{method="none"} 10.0',
        'linker_edges_total{method="seq"} 40.0',
        'linker_edges_total{method="thread"} 40.0',
        'linker_left_traces_total{verdict="kept"} 10.0',
        'linker_left_groups_total{reason="quiet"} 10.0',
    ):
        assert line in metrics.splitlines()


async def test_a_mistake_in_the_settings_ends_the_start_with_2_and_its_path(tmp_path: Path) -> None:
    """Every mistake, with the nearest known key."""
    setup = Setup(tmp_path, window="soon").export_to_file(tmp_path / "out")
    setup.exporters += '[exporters.x]\ntype = "otlp_grpc"\nendpont = "http://localhost:1"\n'
    async with started(setup.write()) as bridge:
        assert await bridge.ended() == 2
    assert 'inputs.ebpftrace.window = "soon"' in bridge.text
    assert "exporters.x.endpont" in bridge.text
    assert "did you mean" in bridge.text
    assert "Traceback" not in bridge.text


@pytest.mark.parametrize("name", ["grpc", "http", "web"])
async def test_a_port_in_use_ends_the_start_with_2_and_the_address(tmp_path: Path, name: str) -> None:
    """Whichever listener it is; nothing hangs, nothing is left running."""
    setup = Setup(tmp_path).export_to_file(tmp_path / "out")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        setup.ports[name] = port = taken.getsockname()[1]
        async with started(setup.write()) as bridge:
            assert await bridge.ended() == 2
    assert str(port) in bridge.text
    assert "in use" in bridge.text
    assert "Traceback" not in bridge.text


async def test_an_exporter_that_cannot_start_ends_the_start_with_2(tmp_path: Path) -> None:
    """Before anybody was told that the bridge is ready."""
    (tmp_path / "taken").write_text("a file where a folder would have to be")
    setup = Setup(tmp_path).export_to_file(tmp_path / "taken" / "out.jsonl")
    async with started(setup.write()) as bridge:
        assert await bridge.ended() == 2
    assert f"exporters.lines.path = '{tmp_path / 'taken' / 'out.jsonl'}': cannot be written: " in bridge.text
    assert "ready" not in bridge.messages()
    assert "Traceback" not in bridge.text


async def test_a_signal_while_another_bridge_is_waited_for_ends_the_start(tmp_path: Path) -> None:
    """Ctrl-C works at any time."""
    first, second = two_on_one_store(tmp_path)
    async with running(first) as owner, started(second.write()) as other:
        await other.logged("opening the store")
        other.signal(signal.SIGINT)
        assert await other.ended() == 0
        assert await owner.stop() == 0


async def test_a_bridge_without_descriptors_says_so_once_and_goes_on_afterwards(tmp_path: Path) -> None:
    """Connections it cannot accept are told once, not again and again; it serves when there is room again."""
    setup = Setup(tmp_path).export_to_file(tmp_path / "out.jsonl")
    async with running(setup) as bridge:
        _, hard = resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE)
        few = psutil.Process(bridge.pid).num_fds() + 4
        resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE, (few, hard))
        host, port = bridge.address("otlp_http").rsplit(":", 1)
        async with AsyncExitStack() as connections:
            for _ in range(60):
                await connections.enter_async_context(await anyio.connect_tcp(host, int(port)))
            await bridge.logged("the event loop met an error")
        resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE, (hard, hard))
        url = f"http://{host}:{port}/v1/traces"
        async with aiohttp.ClientSession() as session, session.post(url, json={}) as answer:
            assert answer.status == 200
        assert bridge.messages().count("the event loop met an error") == 1
        assert "Traceback" not in bridge.text
        assert await bridge.stop() == 0


async def test_a_bridge_asks_for_as_many_descriptors_as_it_may_have(tmp_path: Path) -> None:
    """Every idle sender holds one, and the usual soft limit is 1,024."""
    async with running(Setup(tmp_path).export_to_file(tmp_path / "out.jsonl")) as bridge:
        soft, hard = resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE)
        assert soft == hard


async def test_not_ready_while_the_store_cannot_commit(tmp_path: Path) -> None:
    """Also when no span waits: senders are told to try again, the log says why once, and readiness comes back."""
    requests, _ = simulated(0, 3, time.time_ns())
    setup = Setup(tmp_path).export_to_file(tmp_path / "out.jsonl")
    async with running(setup) as bridge, aiohttp.ClientSession() as session:
        ready = f"http://{bridge.address('web')}/readyz"
        other = sqlite3.connect(setup.folder / "store" / "espan.db", isolation_level=None)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            async with stock_stub(bridge.address("otlp_grpc")) as stub:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Export(requests[0])
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            async with session.get(ready) as answer:
                assert answer.status == 503
                assert "locked" in await answer.text()
        async with stock_stub(bridge.address("otlp_grpc")) as stub:
            await stub.Export(requests[0])
        async with session.get(ready) as answer:
            assert answer.status == 200
        assert bridge.messages().count("nothing can be committed; senders are told to try again") == 1
        assert await bridge.stop() == 0


async def test_what_a_removed_exporter_had_not_delivered_is_told(tmp_path: Path) -> None:
    """By name, with the number of spans, in the log and in the counter of spans that are lost."""
    requests, truth = simulated(0, 4, time.time_ns())
    setup = Setup(tmp_path).export_to_file(tmp_path / "out.jsonl")
    alone = setup.exporters
    async with running_sink(always="unavailable") as down:
        setup.export_to("down", "otlp_grpc", down.grpc_port)
        async with running(setup) as bridge:
            async with stock_stub(bridge.address("otlp_grpc")) as stub:
                for request in requests:
                    await stub.Export(request)
            while not down.totals().requests:  # noqa: ASYNC110 -- of another process's doing
                await anyio.sleep(0.02)
            await bridge.kill()
    setup.exporters = alone
    async with running(setup) as bridge, aiohttp.ClientSession() as session:
        told = next(event for event in bridge.log if event["message"].startswith("an exporter is gone"))
        assert (told["exporter"], told["level"]) == ("down", "error")
        assert 0 < told["spans"] <= len(truth)
        async with session.get(f"http://{bridge.address('web')}/metrics") as answer:
            lost = f'{{exporter="down",reason="exporter_removed"}} {told["spans"]:.1f}'
            assert f"exporter_send_failed_spans_total{lost}" in await answer.text()
        assert await bridge.stop() == 0
