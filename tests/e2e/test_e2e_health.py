"""grpc.health.v1 and /readyz while the store cannot commit, after that, and at a stop."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.bridge_process import Bridge, Setup, started
from tests.support.faults import NoCompiler, faults
from tests.support.small_disk import NotPermitted, small_disk
from tests.support.steady_load import SteadyLoad

SERVICES = ("", "opentelemetry.proto.collector.trace.v1.TraceService")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WAIT_S = 60.0


class Watcher:
    """A client that watches the health of all services over one connection."""

    def __init__(self, stub: health_pb2_grpc.HealthStub) -> None:
        self._stub = stub
        self._calls = [stub.Watch(health_pb2.HealthCheckRequest(service=service)) for service in SERVICES]

    async def hears(self, status: int) -> None:
        """Return once each was told this next; asking says the same."""
        with anyio.fail_after(WAIT_S):
            told = [(await call.read()).status for call in self._calls]
        assert told == [status] * len(SERVICES)

    async def asked(self) -> set[int]:
        """What a check says of each."""
        checks = [self._stub.Check(health_pb2.HealthCheckRequest(service=service)) for service in SERVICES]
        return {(await check).status for check in checks}


@asynccontextmanager
async def watching(bridge: Bridge) -> AsyncIterator[Watcher]:
    async with grpc.aio.insecure_channel(bridge.address("otlp_grpc")) as channel:
        yield Watcher(health_pb2_grpc.HealthStub(channel))


async def readiness(bridge: Bridge, status: int) -> None:
    """Return once /readyz answers this."""
    with anyio.fail_after(WAIT_S):
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{bridge.address('web')}/readyz") as answer:
                    if answer.status == status:
                        return
                await anyio.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
async def test_health_is_not_serving_while_the_disk_is_read_only(tmp_path: Path, workers: int) -> None:
    """Watchers hear of it, and of the end of it, with several ingest processes too; and that the bridge stops."""
    setup = Setup(tmp_path, workers=workers).export_to_file(tmp_path / "out.jsonl")
    try:
        with faults(tmp_path, tmp_path / "store") as shim:
            async with started(setup.write(), variables=shim.variables) as bridge:
                await bridge.ready()
                load = SteadyLoad()
                async with watching(bridge) as watcher:
                    await watcher.hears(SERVING)
                    async with load.sending(bridge.address("otlp_grpc"), senders=4):
                        shim.set(write_errno=errno.EROFS, open_errno=errno.EROFS)
                        await watcher.hears(NOT_SERVING)
                        assert await watcher.asked() == {NOT_SERVING}
                        await readiness(bridge, 503)
                        shim.set(write_errno=0, open_errno=0)
                        await watcher.hears(SERVING)
                        await readiness(bridge, 200)
                    assert load.acknowledged > 0, "spans are taken again"
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(watcher.hears, NOT_SERVING)
                        assert await bridge.stop() == 0
    except NoCompiler as exc:
        pytest.skip(str(exc))


async def test_health_is_not_serving_while_the_disk_is_full(tmp_path: Path) -> None:
    """Before anything was acknowledged that could not be kept."""
    try:
        with small_disk(tmp_path / "disk", 48) as disk:
            setup = Setup(tmp_path, db_path=disk.path / "store").export_to_file(tmp_path / "out.jsonl")
            async with started(setup.write()) as bridge:
                await bridge.ready()
                load = SteadyLoad()
                async with watching(bridge) as watcher, load.sending(bridge.address("otlp_grpc")):
                    await watcher.hears(SERVING)
                    disk.fill()
                    await watcher.hears(NOT_SERVING)
                    await readiness(bridge, 503)
                    disk.make_room()
                    await watcher.hears(SERVING)
                    await readiness(bridge, 200)
                assert await bridge.stop() == 0
    except NotPermitted as exc:
        pytest.skip(str(exc))
