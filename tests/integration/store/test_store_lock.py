"""One bridge owns a folder."""

import subprocess

import anyio
import pytest

from bridge.errors import ConfigError
from bridge.store import SqliteStore
from tests.integration.store.conftest import MakeStore, StartChild
from tests.support.stored import random_batch


def await_ready(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"


async def test_second_bridge_waits_then_names_the_first(make_store: MakeStore, start_child: StartChild) -> None:
    """A folder that stays in use is a ConfigError with the pid of who uses it and how long was waited."""
    with start_child("hold") as child:
        await_ready(child)
        for wait_s in (0, 0.05):
            with pytest.raises(ConfigError, match=rf"db_path.*pid {child.pid}\); waited {wait_s:g} s"):
                async with make_store(lock_wait_s=wait_s).running():
                    pass


async def test_successor_gets_in_when_the_holder_is_killed(make_store: MakeStore, start_child: StartChild) -> None:
    """Whoever waits gets the folder as soon as its owner dies, however it dies, and although others gave up before."""
    successor = make_store(lock_wait_s=30)
    started = anyio.Event()

    async def succeed(store: SqliteStore) -> None:
        async with store.running():
            started.set()
            assert await store.append(random_batch(1, 1), 0) == 1

    with start_child("hold") as child:
        await_ready(child)
        with pytest.raises(ConfigError):
            async with make_store(lock_wait_s=0.01).running():
                pass
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(succeed, successor)
            await anyio.wait_all_tasks_blocked()
            assert not started.is_set()
            child.kill()
            with anyio.fail_after(20):
                await started.wait()


async def test_cancelled_waiter_does_not_keep_the_folder(make_store: MakeStore) -> None:
    """Giving up the wait gives up the lock too, also when it is granted later."""
    async with make_store().running():
        with anyio.move_on_after(0.02) as scope:
            async with make_store(lock_wait_s=30).running():
                pass
        assert scope.cancelled_caught
    async with make_store(lock_wait_s=20).running():
        pass


async def test_folder_is_free_after_an_error(make_store: MakeStore) -> None:
    """An error lets go of the folder, and one of the body's own is not taken for one of the lock."""
    with pytest.RaisesGroup(OSError):
        async with make_store().running():
            raise OSError("of the body")
    async with make_store().running():
        pass
