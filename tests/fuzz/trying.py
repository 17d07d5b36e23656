"""One input, tried: within limits, and with every check of its target."""

import os
import resource
import time
from pathlib import Path

from bridge.errors import BridgeError
from tests.fuzz.targets import Target

S_PER_64_KIB = 1.0
"""CPU time that 64 KiB of input may take, and what is smaller as well."""
MEMORY_BYTES = 1 << 30
"""More than the process had when it began."""


class TooSlow(AssertionError):
    """Work that is out of proportion to the input."""


def bound_memory() -> None:
    """From now on this process raises MemoryError where it would need much more memory.

    A sanitizer, which reserves most of the address space, bounds it by itself.
    """
    if "ASAN_OPTIONS" in os.environ:
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))


def try_input(target: Target, data: bytes, *, slowness: float = 1.0) -> bool:
    """Whether the bridge takes the input. Raises whatever is a defect.

    slowness: how much slower the code runs than usual, as when it is traced.
    """
    found, taken, began_s = None, True, time.process_time()
    try:
        found = target.serve(data)
    except BridgeError:
        taken = False
    spent_s = time.process_time() - began_s
    if spent_s > slowness * S_PER_64_KIB * max(1.0, len(data) / 65536):
        raise TooSlow(f"{spent_s:.2f} s of CPU for {len(data)} bytes")
    target.compare(data, found)
    return taken
