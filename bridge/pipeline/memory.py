"""What the process asks of the C library's allocator."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
OPTIONS = {M_ARENA_MAX: 1, M_TRIM_THRESHOLD: 128 << 10, M_MMAP_THRESHOLD: 128 << 10}
"""glibc's own defaults grow while a program runs: an arena a thread, and blocks of up to 32 MiB kept for later. Columns
are big, short-lived, and made by several threads in turn: with the defaults a quarter of the memory in use is such
leftovers."""


def give_memory_back() -> None:
    """Let freed memory go back to the system. Does nothing where MALLOC_* variables or another C library decide."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return
    for option, value in OPTIONS.items():
        mallopt(option, value)
