"""What the process asks of the system: freed memory back, more descriptors, quiet when there are none."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
PROGRAM = """
import sys
import numpy as np
import psutil
from bridge.pipeline.process import give_memory_back

if sys.argv[1] == "ask":
    give_memory_back()
np.ones(2 << 20)  # freed at once: glibc takes it as a hint to keep blocks of this size from now on
blocks = [np.ones(1 << 20) for _ in range(20)]
full = psutil.Process().memory_info().rss
del blocks[:-1]
print(full - psutil.Process().memory_info().rss)
"""
THREADS = """
import ctypes
import sys
import threading
from bridge.pipeline.process import give_memory_back

if sys.argv[1] == "ask":
    give_memory_back()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(4)


def take():
    libc.malloc(ctypes.c_size_t(1 << 10))
    together.wait(timeout=30)


threads = [threading.Thread(target=take) for _ in range(3)]
for thread in threads:
    thread.start()
together.wait(timeout=30)
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
for thread in threads:
    thread.join()
"""
pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no such options")


def given_back(mode: str, **environ: str) -> int:
    """Bytes that a process gives back when it frees 19 of 20 blocks of 8 MiB."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], env=own | environ, capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


def test_blocks_that_are_freed_go_back_at_once() -> None:
    """Although the last one, which is still in use, lies behind them; without asking they stay."""
    assert given_back("ask") > 150 * MIB
    assert given_back("leave") < 50 * MIB


def test_what_the_environment_says_is_left_alone() -> None:
    """An operator who tunes the allocator knows better."""
    assert given_back("ask", MALLOC_ARENA_MAX="4") < 50 * MIB


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="this C library does not tell")
def test_all_threads_take_memory_from_one_arena(tmp_path: Path) -> None:
    """Without asking each has one, and what is free in one is of no use to the others."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    arenas = {}
    for mode in ("ask", "leave"):
        told = tmp_path / mode
        subprocess.run([sys.executable, "-c", THREADS, mode, str(told)], env=own, timeout=60, check=True)
        arenas[mode] = told.read_text().count("<heap nr=")
    assert arenas["ask"] == 1
    assert arenas["leave"] > 1
