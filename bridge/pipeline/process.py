"""What the process asks of the C library, the kernel and the event loop."""

import asyncio
import ctypes
import logging
import os
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
OPTIONS = {M_ARENA_MAX: 1, M_TRIM_THRESHOLD: 64 << 20, M_MMAP_THRESHOLD: 4 << 20}
"""glibc's own defaults grow while a program runs: an arena a thread, and blocks of up to 32 MiB kept for later. Columns
are big, short-lived, and made by several threads in turn: with the defaults a quarter of the memory in use is such
leftovers. Limits as low as 1 MiB and 512 KiB save 10 to 25 MB more, but then bodies and columns are mapped anew each
time, and the kernel clears every page of them: that is up to a quarter of all CPU time. What ticks and bodies take for
a moment is to stay: some 25 MB at 16,667 spans/s; at 75,000 a trim threshold of 48 MiB was enough and one of 32 was
not. The memory guard gives it back when memory is short."""
LOG_AGAIN_S = 60.0


def give_memory_back() -> None:
    """Let freed memory go back to the system. Does nothing where MALLOC_* variables or another C library decide.

    To be called before another thread is there: each has an arena by then, and keeps it.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return
    for option, value in OPTIONS.items():
        mallopt(option, value)


def let_others_finish() -> None:
    """Have a thread that wakes wait until the one that runs pauses, be it of this process or another; for good.

    A bridge hands work between a dozen threads, and mostly the one that gives it pauses a moment later: each time it
    was interrupted instead, the core changed threads once more than it had to. To be called before another thread is
    there: threads and processes begin as the one that makes them. A policy that somebody chose stays, and so it does
    where the system knows no other.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    with suppress(OSError):  # not permitted, or a C library (musl) that does not ask the kernel
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def cpu_seconds(children: Iterable[int]) -> float:
    """CPU time of this process, of its children that have ended, and of those that run, given their ids."""
    return sum(os.times()[:4]) + sum(map(_cpu_of, children))


def _cpu_of(pid: int) -> float:
    """User and system time of a process, 0 where the system does not tell or the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def raise_descriptor_limit() -> int:
    """Allow as many open files as an administrator permits, and say how many; every idle sender holds one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def quiet_grpc() -> None:
    """Have gRPC's core say nothing on its own; for before it is imported. Does nothing where GRPC_VERBOSITY decides.

    It writes a line for each handshake that fails, past our log: whoever reaches a port could fill a disk.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def keep_no_core_dumps() -> None:
    """Have no image of the memory written when the process crashes: tokens and keys are in it.

    `prlimit --core=unlimited --pid PID` allows it again.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """What went wrong, without the task groups it went through."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


class LoopErrors:
    """The event loop's handler of errors that nobody waits for: each text is logged once a minute.

    A loop that has run out of descriptors reports every connection it cannot accept, hundreds of times a second, with
    a traceback; what it could not accept it tries again by itself.
    """

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log it, unless it was logged within the last minute."""
        text, error, now = str(context.get("message")), context.get("exception"), time.monotonic()
        self._logged = {known: until for known, until in self._logged.items() if until > now}
        if text in self._logged:
            return
        self._logged[text] = now + LOG_AGAIN_S
        where = None if isinstance(error, OSError) else error
        logger.error("the event loop met an error", exc_info=where, extra={"reason": text, "error": str(error or "")})
