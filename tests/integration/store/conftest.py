"""A folder, stores over it, and other processes that use it."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from bridge.store import SqliteStore
from bridge.telemetry import Instruments

ROOT = Path(__file__).parents[3]

StartChild = Callable[[str], AbstractContextManager[subprocess.Popen[str]]]
MakeStore = Callable[..., SqliteStore]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Threads of connections end with their store; others' are anyio's, which wait for work, and those of a lock."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith(("AnyIO worker thread", "store lock")):
            thread.join(timeout=5)
            assert not thread.is_alive(), f"{thread.name} is left"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store keeps its file; not there yet."""
    return tmp_path / "data"


@pytest.fixture
def make_store(folder: Path) -> MakeStore:
    """A store in the folder; keywords as for `SqliteStore`."""
    return lambda **options: SqliteStore(folder, **{"instruments": Instruments(), "lock_wait_s": 0, **options})


@pytest.fixture
def start_child(folder: Path) -> StartChild:
    """Starts tests.support.store_child in a mode; it is killed, and what it said is read, when the context ends."""

    @contextmanager
    def start(mode: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "tests.support.store_child", mode, str(folder)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            try:
                yield child
            finally:
                child.kill()

    return start
