"""What memory is made of: how much there may be, how much is resident, and what each part may take of it.

`memory_limit` is the one number an operator sets. What the parts are bounded by follows from it (`within_memory`):
each bound of their own in the settings is kept where it is lower. Estimates are of what a thing costs at its worst
moment, as measured; docs/limits.md has the table. What no estimate foresees is `MemoryGuard`'s.
"""

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bridge.config import DatakitReceiverSettings, Settings
from bridge.config.exporters import NETWORK_EXPORTERS
from bridge.config.limits import HttpReceiverLimits
from bridge.errors import ConfigError

MIB = 1 << 20
DEFAULT_LIMIT = 2 << 30
CGROUP_SHARE = 0.8
"""Of the memory a container may have: the rest is for the kernel's caches of the database, which count as well."""
UNLIMITED = 1 << 60
"""Version 1 of cgroups says "no limit" with a number near 2^63."""

PROGRAM_BYTES, WORKER_BYTES = 160 * MIB, 125 * MIB
"""The bridge's process, and each ingest process, once they have done everything once; 110 and 105 before."""
BODY_COPIES = 2
"""Of a body on its way to a backend: as it was encoded, and as it is sent."""
BODIES_SHARE, ROWS_SHARE, TICKS_SHARE, PAGE_SHARE = 0.28, 0.45, 0.12, 0.04
"""What of the rest requests, rows, ticks and the page's traces may take; a tenth is left for what nobody foresaw."""
BODY_COST = 4
"""A request's memory at its peak, in its own size: received, put together, read into columns, packed."""
SPAN_COST = 400
"""Bytes of a span's columns while its request is read, whatever its size."""
JSON_COST = 13
"""What BODY_COST is for JSON as senders write it."""
REQUEST_COST = 40 * 1024
"""Of a request that waits for its commit, its body apart."""
WAITING_COST, LEFT_COST = 200, 170
"""Bytes of a row that waits, and of one that left and is remembered: columns, and the index of what relates to it."""
SHARED_TICKS = 4
"""Ticks that are kept for the other exporters, where there are several."""
HELD_COST = 256 * 1024
"""Of an agent's request that is held before its body was read: what came in one piece with its head."""
PAGE_BYTES = 64 * MIB
"""The most that traces kept for the page may take, however much memory there is."""
LEAST_BYTES = 48 * MIB
"""Less than this for all but the programs is no bridge."""


@dataclass(frozen=True, slots=True)
class MemoryBounds:
    """What the parts may take, all processes together."""

    limit_bytes: int
    in_flight_bytes: int
    """Bodies of requests being handled, over all listeners."""
    waiting_spans: int
    remembered_spans: int
    tick_bytes: int
    """Rows that leave in one tick, with their payload."""
    held_requests: int
    page_bytes: int
    """Traces that are kept for the page."""

    @property
    def request_bytes(self) -> int:
        """The largest request: one is let in alone whatever its size, on each listener."""
        return self.in_flight_bytes // 2

    @property
    def request_spans(self) -> int:
        """The most spans a request may have."""
        return BODY_COST * self.request_bytes // SPAN_COST

    @property
    def json_bytes(self) -> int:
        """The largest request in JSON."""
        return BODY_COST * self.request_bytes // JSON_COST

    @property
    def requests(self) -> int:
        """The most requests at once, of each listener."""
        return BODY_COST * self.in_flight_bytes // REQUEST_COST


def memory_bounds(settings: Settings) -> MemoryBounds:
    """The bounds that follow from `memory_limit`. Raises ConfigError where it is too little to run in."""
    fixed = PROGRAM_BYTES + (settings.workers * WORKER_BYTES if settings.workers > 1 else 0)
    for exporter in settings.exporters.values():
        if isinstance(exporter, NETWORK_EXPORTERS):
            fixed += BODY_COPIES * exporter.in_flight * exporter.max_batch_bytes
    limit, least = settings.memory_limit_bytes, fixed + LEAST_BYTES
    if limit is None:
        limit = max(default_limit(), least)
    if limit < least:
        raise ConfigError(
            f"memory_limit = {limit}: too little for these exporters and {settings.workers} workers; "
            f'allowed: "{-(-least // MIB)}MiB" or more'
        )
    free = limit - fixed
    exporters = len(settings.exporters)
    ticks = 1 + exporters + (SHARED_TICKS if exporters > 1 else 0)
    rows = int(ROWS_SHARE * free) // (WAITING_COST + LEFT_COST)
    return MemoryBounds(
        limit_bytes=limit,
        in_flight_bytes=int(BODIES_SHARE * free) // BODY_COST,
        waiting_spans=rows,
        remembered_spans=rows,
        tick_bytes=int(TICKS_SHARE * free) // ticks,
        held_requests=int(BODIES_SHARE / 2 * free) // HELD_COST,
        page_bytes=min(PAGE_BYTES, int(PAGE_SHARE * free)),
    )


def within_memory(settings: Settings) -> Settings:
    """The settings with `memory_limit` worked out, and bounds lowered to what it allows. Raises ConfigError.

    `linker.max_waiting_spans` stays: the guard has the lower one, and tells senders which of them it is.
    """
    bounds = memory_bounds(settings)
    linker, store = settings.linker, settings.store
    waiting = min(linker.max_waiting_spans, bounds.waiting_spans)
    retained = min(linker.max_retained_spans, waiting + bounds.remembered_spans)
    return settings.model_copy(
        update={
            "memory_limit_bytes": bounds.limit_bytes,
            "receivers": settings.receivers.model_copy(update=_receivers(settings, bounds)),
            "linker": linker.model_copy(update={"max_retained_spans": retained}),
            "store": store.model_copy(
                update={
                    "queue_bytes": min(store.queue_bytes, bounds.in_flight_bytes),
                    "payload_cache_bytes": min(store.payload_cache_bytes, bounds.tick_bytes),
                }
            ),
        }
    )


def _receivers(settings: Settings, bounds: MemoryBounds) -> dict[str, object]:
    receivers = dict[str, object]()
    for name, listener in settings.receivers.listeners.items():
        update: dict[str, object] = {
            "max_request_bytes": min(listener.max_request_bytes, bounds.request_bytes),
            "max_in_flight_bytes": min(listener.max_in_flight_bytes, bounds.in_flight_bytes),
            "max_request_spans": min(listener.max_request_spans, bounds.request_spans),
            "max_concurrent_requests": min(listener.max_concurrent_requests, bounds.requests),
        }
        if isinstance(listener, HttpReceiverLimits):
            update["max_json_bytes"] = min(listener.max_json_bytes, bounds.json_bytes)
        if isinstance(listener, DatakitReceiverSettings):
            update["max_held_requests"] = min(listener.max_held_requests, bounds.held_requests)
        receivers[name] = listener.model_copy(update=update)
    return receivers


def default_limit(root: Path = Path("/")) -> int:
    """What `memory_limit` is when it is left out: most of what a container may have, DEFAULT_LIMIT without one."""
    limit = cgroup_limit(root)
    return DEFAULT_LIMIT if limit is None else int(CGROUP_SHARE * limit)


def cgroup_limit(root: Path = Path("/")) -> int | None:
    """The least memory that any control group this process is in allows, None where there is no such limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            limits += _limits(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(limits, default=None)


def _limits(mount: Path, path: str, name: str) -> list[int]:
    """Limits of the group at this path and of those above it; in a container only its own may be seen, at the mount."""
    found = []
    inside = Path(path.lstrip("/"))
    for group in (inside, *inside.parents):
        try:
            text = (mount / group / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < UNLIMITED:
            found.append(int(text))
    return found


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process, 0 where the system does not tell or the process is gone."""
    if pid == "self":
        return _own_bytes(os.getpid())
    try:
        descriptor = os.open(f"/proc/{pid}/statm", os.O_RDONLY)
    except OSError:
        return 0
    try:
        return int(os.read(descriptor, 100).split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0
    finally:
        os.close(descriptor)


def _own_bytes(pid: int) -> int:
    descriptor = _own_statm(pid)
    return int(os.pread(descriptor, 100, 0).split(b" ", 2)[1]) * _PAGE_BYTES if descriptor >= 0 else 0


@cache
def _own_statm(_: int) -> int:
    """An open descriptor of this process's memory, kept as long as it lives: it is read many times a second."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return -1


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def trim() -> None:
    """Give back what the C library keeps of freed memory between blocks in use; does nothing where it cannot."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
