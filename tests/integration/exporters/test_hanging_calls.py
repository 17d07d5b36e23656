"""Blocking calls that hang: in a file system, in a resolver. They cost one thread, and nobody else waits."""

import asyncio
import os
import socket
import threading
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from bridge.component import Body
from bridge.exporters import ConsoleExporter, FileExporter, NotTaken
from bridge.exporters.otlp import OtlpGrpcExporter, OtlpHttpExporter
from bridge.exporters.resolver import Resolver
from bridge.exporters.thread import OneThread
from tests.support.linked import body_of
from tests.support.sink import running_sink

pytestmark = pytest.mark.anyio

LINE = Body(b"x" * (1 << 20) + b"\n", 1)
"""More than a pipe holds."""


async def test_a_file_system_that_hangs_costs_one_thread(tmp_path: Path) -> None:
    """A write that does not come back is not taken in time; until it is back no other is begun; then all goes on."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    exporter = FileExporter("slow", path, timeout_s=0.2)
    async with exporter.running():
        before = threading.active_count()
        for _ in range(3):
            with pytest.raises(NotTaken, match="hangs") as caught:
                await exporter.deliver(LINE)
            assert caught.value.reason == "timeout"
        assert threading.active_count() <= before + 1
        with path.open("rb") as reader:
            assert await to_thread.run_sync(reader.read, len(LINE.data)) == LINE.data
            with anyio.fail_after(20):
                while True:
                    try:
                        await exporter.deliver(Body(b"again\n", 1))
                    except NotTaken:
                        continue
                    break
            assert await to_thread.run_sync(reader.read, 6) == b"again\n"


async def test_a_console_nobody_reads_costs_one_thread() -> None:
    """As a pipe to a pager that waits."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as stream:
        exporter = ConsoleExporter("console", stream, timeout_s=0.2)
        async with exporter.running():
            for _ in range(2):
                with pytest.raises(NotTaken, match="nobody reads"):
                    await exporter.deliver(LINE)
            await to_thread.run_sync(reader.read, len(LINE.data))


async def test_what_a_call_raises_is_raised() -> None:
    """And what it returns is returned; one call after the other."""
    thread = OneThread("test")
    assert await thread.run(divmod, 7, 3, timeout_s=20) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await thread.run(divmod, 7, 0, timeout_s=20)


async def test_a_call_that_hangs_holds_up_nothing_else() -> None:
    """It is left behind when its time is over, or when nobody waits for it any more; others have other threads."""
    release = threading.Event()
    hanging, other = OneThread("hanging"), OneThread("other")
    with pytest.raises(TimeoutError):
        await hanging.run(release.wait, timeout_s=0.05)
    with pytest.raises(TimeoutError, match="has not come back"):
        await hanging.run(release.wait, timeout_s=20)
    with anyio.move_on_after(0.05):
        await other.run(release.wait, timeout_s=20)
    assert hanging.hangs
    assert other.hangs
    assert await to_thread.run_sync(divmod, 7, 3) == (2, 1)
    release.set()
    with anyio.fail_after(20):
        while hanging.hangs or other.hangs:  # noqa: ASYNC110 -- of a thread's doing
            await anyio.sleep(0.001)
    assert await hanging.run(release.wait, timeout_s=20)


async def test_names_are_looked_up_beside_the_loops_own_threads() -> None:
    """While every thread of the event loop hangs in somebody's look-up, a name is found all the same."""
    release = threading.Event()
    loop = asyncio.get_running_loop()
    hanging = [loop.run_in_executor(None, release.wait) for _ in range(64)]
    try:
        with anyio.fail_after(20):
            found = await Resolver("x").resolve("localhost", 4318, socket.AF_INET)
            assert [(entry["host"], entry["port"], entry["hostname"]) for entry in found] == [
                ("127.0.0.1", 4318, "localhost")
            ]
            async with running_sink() as sink:
                exporter = OtlpHttpExporter("x", f"http://localhost:{sink.http_port}")
                async with exporter.running():
                    await exporter.deliver(body_of(1))
    finally:
        release.set()
        await asyncio.wait(hanging)


@pytest.mark.parametrize("build", [OtlpGrpcExporter, OtlpHttpExporter])
async def test_a_name_that_is_not_known_is_tried_again(build: type[OtlpGrpcExporter] | type[OtlpHttpExporter]) -> None:
    """A name may come back: that it is gone says nothing against the spans."""
    exporter = build("x", "http://nobody.invalid:4317", timeout_s=20.0)
    async with exporter.running():
        with pytest.raises(NotTaken, match=r"nobody\.invalid"):
            await exporter.deliver(body_of(1))
