"""The bridge's side of its ingest processes: starts them, starts them again, tells them what it holds, stops them."""

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import Process

import bridge
from bridge.component import Arrival
from bridge.config import Settings
from bridge.errors import ConfigError, StoreUnavailable
from bridge.pipeline.build import drain_time_s
from bridge.pipeline.ingest import FADING, SPAN_BYTES
from bridge.pipeline.limits import share_of
from bridge.pipeline.memory import MIB, resident_bytes
from bridge.pipeline.memory_guard import MemoryGuard
from bridge.pipeline.messages import Channel, Drop, Dropped, Failed, Listen, Load, Prepared, Ready, Report, Start, Stop
from bridge.receivers.addresses import host_port, listening_hosts, reserve
from bridge.store import SqliteStore
from bridge.store.ledger import Due
from bridge.telemetry import Instruments
from bridge.telemetry.relay import add_counts

logger = logging.getLogger(__name__)

LOAD_S = 0.2
"""How often workers are told what waits in the linker."""
ORDER_S = 5.0
"""How long a worker may take to drop what it is told to."""
WAITS_S = (0.1, 0.5, 2.0, 5.0, 10.0)
"""Before a worker is started again: the longer, the more often in a row it ended soon."""
SOON_S = 30.0
SETTINGS_PREFIXES = ("ENV_", "OTEL_")
"""Variables of settings, tokens among them."""
SILENT_S = 10.0
"""A worker reports every second; one that says nothing for this long hangs, and is killed."""
PREPARE_S = 60.0
"""How long it may say nothing at first: what it imports may have to be read from a slow disk."""
ODDLY_SILENT_S = 3.0
"""From then on the bridge is not ready: senders of this worker wait for an answer."""
LOOK_S = 0.5
ANSWER_S = 2.0
"""How long a worker may take to end, besides what its receivers may."""


@dataclass(slots=True, eq=False)
class _Worker:
    """A process that runs."""

    process: Process
    channel: Channel
    prepared: bool = False
    ready: bool = False
    heard: int = 0
    """Messages it sent."""
    silent_s: float = 0.0
    unavailable: str = ""
    told: Load | None = None
    orders: dict[int, "_Order"] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Order:
    """Something to drop; it has failed until its worker says otherwise."""

    error: str = "the ingest process ended meanwhile"
    done: anyio.Event = field(default_factory=anyio.Event)


class Workers:
    """Ingest processes number 1 to `workers`, and where the linker gets what they took in (see `Arrivals`)."""

    def __init__(
        self,
        settings: Settings,
        store: SqliteStore,
        clock_offset_ns: int,
        guard: MemoryGuard,
        instruments: Instruments,
    ) -> None:
        """guard: the bridge's own; ingest processes have one each, which is told what this one knows."""
        self._settings, self._store, self._clock_offset_ns = settings, store, clock_offset_ns
        self._guard, self._instruments = guard, instruments
        self._numbers = range(1, settings.workers + 1)
        self._running: dict[int, _Worker] = {}
        self._endings: dict[int, str] = {}
        """Why a process is not running, by number."""
        self._orders = itertools.count(1)
        self._stop, self._changed = anyio.Event(), anyio.Event()
        self._opened = False
        """Whether all were ready once."""
        self._arrivals: list[Arrival] = []
        self.waiting_in_linker = 0
        self.span_bytes = SPAN_BYTES
        self.bridge_unavailable: Callable[[], str] = lambda: ""
        """Why this process cannot commit at present, "" when it can."""
        for number in self._numbers:
            instruments.worker_restarts.add(0, {"worker": str(number)})
            instruments.worker_hangs.add(0, {"worker": str(number)})

    # --- what the linker is given ----------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """See `Arrivals`; what was not collected yet is not known."""
        return self.waiting_in_linker + sum(len(arrival.columns) for arrival in self._arrivals)

    async def collect(self) -> None:
        """Read what was committed since the last call."""
        with anyio.CancelScope(shield=True):
            self._arrivals += await self._store.arrivals()

    def take(self) -> list[Arrival]:
        """See `Arrivals`: as they arrived."""
        taken, self._arrivals = self._arrivals, []
        self.waiting_in_linker += sum(len(arrival.columns) for arrival in taken)
        return taken

    def resident_bytes(self) -> int:
        """Memory of all processes that run."""
        return sum(resident_bytes(worker.process.pid) for worker in self._running.values())

    def process_ids(self) -> list[int]:
        """Of all processes that run."""
        return [worker.process.pid for worker in self._running.values()]

    # --- processes -------------------------------------------------------------------------------------------------

    def not_ready(self) -> str:
        """Why spans cannot be taken in as they should, "" when they can."""
        for number in self._numbers:
            worker = self._running.get(number)
            if worker is None or not worker.ready:
                ending = self._endings.get(number)
                return f"ingest process {number} is not running" + (f": {ending}" if ending else "")
            if worker.silent_s > ODDLY_SILENT_S:
                return f"ingest process {number} has said nothing for {worker.silent_s:g} s"
            if worker.unavailable:
                return f"the store cannot commit: {worker.unavailable}"
        return self._store.shards.unreadable

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mapping[str, str]]:
        """Receive while the context is open; yields the address of each receiver by name.

        Leaving it returns when no process is left, all that they acknowledged being committed. Raises ConfigError.
        """
        with ExitStack() as kept:
            settings, addresses = self._reserve_ports(kept)
            async with anyio.create_task_group() as tasks:
                for number in self._numbers:
                    tasks.start_soon(self._keep, number, settings)
                self._store.shards.drop_in_worker = self._drop
                try:
                    await self._all_ready()
                    tasks.start_soon(self._keep_telling)
                    yield addresses
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._end()
                tasks.cancel_scope.cancel()

    def _reserve_ports(self, kept: ExitStack) -> tuple[Settings, dict[str, str]]:
        """Settings of a worker, with ports that are kept until the stack is left, and addresses by receiver."""
        share, addresses = len(self._numbers), dict[str, str]()
        receivers = dict[str, object]()
        for name, settings in self._settings.receivers.listeners.items():
            update = share_of(settings, share)
            if settings.enabled:
                update["port"] = port = _reserved(kept, name, settings.host, settings.port)
                addresses[name] = host_port(settings.host, port)
            receivers[name] = settings.model_copy(update=update)
        store = self._settings.store
        changed = {
            "receivers": self._settings.receivers.model_copy(update=receivers),
            "store": store.model_copy(update={"queue_bytes": max(1, store.queue_bytes // share)}),
            "exporters": {},
        }
        return self._settings.model_copy(update=changed), addresses

    async def _all_ready(self) -> None:
        while not all(n in self._running and self._running[n].ready for n in self._numbers):
            await self._changed.wait()
        self._opened = True

    async def _keep(self, number: int, settings: Settings) -> None:
        """Have one process running until all are to stop."""
        soon = 0
        while not self._stop.is_set():
            started_s = anyio.current_time()
            code = await self._run(number, settings)
            if self._stop.is_set():
                return
            soon = soon + 1 if anyio.current_time() - started_s < SOON_S else 0
            wait_s = WAITS_S[min(soon, len(WAITS_S) - 1)]
            ending = _ending(code)
            self._endings.setdefault(number, f"it ended ({ending})")
            logger.error(
                "an ingest process ended; it is started again",
                extra={"worker": number, "ended": ending, "wait_s": wait_s},
            )
            self._instruments.worker_restarts.add(1, {"worker": str(number)})
            with anyio.move_on_after(wait_s):
                await self._stop.wait()

    async def _run(self, number: int, settings: Settings) -> int:
        """One process from start to end; returns its exit code."""
        async with self._started(number) as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, number, worker)
            after, offset_ns = self._store.shards.seen(number), self._clock_offset_ns
            share, guard = len(self._numbers), self._guard
            bounds = guard.max_waiting_spans, guard.in_flight_bytes // share
            await worker.channel.send(Start(number, share, settings, after, offset_ns, *bounds))
            while (message := await worker.channel.receive()) is not None:
                worker.heard, worker.silent_s = worker.heard + 1, 0.0
                await self._take_message(number, worker, message)
            code = await worker.process.wait()
            tasks.cancel_scope.cancel()
        return code

    async def _watch(self, number: int, worker: _Worker) -> None:
        """Kill the process when it hangs.

        Time in which this process did not run does not count: after a pause of both, the other's messages are to come.
        """
        heard = 0
        while worker.silent_s < (SILENT_S if worker.prepared else PREPARE_S):
            await anyio.sleep(LOOK_S)
            worker.silent_s = worker.silent_s + LOOK_S if worker.heard == heard else 0.0
            heard = worker.heard
        logger.error("an ingest process hangs; it is killed", extra={"worker": number, "silent_s": worker.silent_s})
        self._endings[number] = f"it was killed, having said nothing for {worker.silent_s:g} s"
        self._instruments.worker_hangs.add(1, {"worker": str(number)})
        worker.process.kill()

    @asynccontextmanager
    async def _started(self, number: int) -> AsyncIterator[_Worker]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-P", "-m", "bridge.pipeline.ingest_process", str(theirs.fileno()))
            process = await anyio.open_process(
                (*command, str(os.getpid())),
                stdin=subprocess.DEVNULL,
                stdout=None,
                stderr=None,
                env=_environment(),
                # it holds the lock on the folder, too: a successor waits until the last of us has ended
                pass_fds=(theirs.fileno(), self._store.lock_descriptor),
            )
        worker = self._running[number] = _Worker(process, await Channel.over(ours))
        try:
            yield worker
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
                await worker.channel.close()
            del self._running[number]
            self._instruments.levels.told(number, {})
            for order in worker.orders.values():
                order.done.set()
            self._tell_change()

    async def _take_message(self, number: int, worker: _Worker, message: object) -> None:
        match message:
            case Prepared():
                worker.prepared = True
                await self._let_listen(worker)
            case Ready():
                worker.ready = True
                self._endings.pop(number, None)
                logger.info("an ingest process has started", extra={"worker": number, "pid": worker.process.pid})
                self._tell_change()
            case Report(unavailable, damage, counts, span_bytes, pushes_back, levels, spans):
                self._instruments.levels.told(number, levels)
                self._instruments.tracer.add(spans)
                if damage:
                    self._store.declare_damaged(number, damage)
                worker.unavailable = unavailable
                self.span_bytes = max(FADING * self.span_bytes, span_bytes)
                if pushes_back:
                    self._guard.note_refusal()
                add_counts(self._instruments, counts)
            case Dropped(order, error) if order in worker.orders:
                worker.orders[order].error = error
                worker.orders[order].done.set()
            case Failed(reason) if not self._opened:
                raise ConfigError(reason)
            case Failed(reason):
                self._endings[number] = reason
                logger.error("an ingest process cannot start", extra={"worker": number, "reason": reason})

    async def _let_listen(self, worker: _Worker) -> None:
        """Have receivers opened, at the start all at once: whoever listens first would get all connections."""
        if self._opened:
            await worker.channel.send(Listen())
        elif all(n in self._running and self._running[n].prepared for n in self._numbers):
            for other in list(self._running.values()):
                await other.channel.send(Listen())

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _keep_telling(self) -> None:
        while True:
            await anyio.sleep(LOAD_S)
            for number, worker in list(self._running.items()):
                others_bytes = self._guard.bytes - resident_bytes(worker.process.pid)
                may_wait = self._guard.max_waiting_spans
                space, shards = self._store.space, self._store.shards
                seen, file = shards.seen(number), shards.space_of(number)
                load = Load(
                    seen,
                    self.waiting,
                    other_files_bytes=space.used_bytes - file.used_bytes,
                    other_files_free_bytes=space.own.free_bytes + shards.free_bytes - file.free_bytes,
                    may_wait=may_wait,
                    others_bytes=others_bytes // MIB * MIB,
                    unavailable=self.bridge_unavailable(),
                )
                if worker.ready and load != worker.told:
                    worker.told = load
                    await worker.channel.send(load)

    async def _drop(self, number: int, due: Due) -> None:
        """See `DropInWorker`."""
        worker = self._running.get(number)
        if worker is None or not worker.ready:
            raise StoreUnavailable(f"ingest process {number} is not running")
        number, order = next(self._orders), _Order()
        worker.orders[number] = order
        try:
            await worker.channel.send(Drop(number, due.payloads, due.batches))
            with anyio.move_on_after(ORDER_S):
                await order.done.wait()
        finally:
            worker.orders.pop(number)
        if order.error:
            raise StoreUnavailable(order.error)

    async def _end(self) -> None:
        """Have every process answer what it took, and end; those that do not in time are killed."""
        self._stop.set()
        self._store.shards.stopping = True
        for worker in list(self._running.values()):
            await worker.channel.send(Stop())
        receivers = sum(settings.enabled for settings in self._settings.receivers.listeners.values())
        with anyio.move_on_after(receivers * drain_time_s(self._settings) + ANSWER_S):
            while self._running:
                await self._changed.wait()
        for worker in list(self._running.values()):
            worker.process.kill()
        while self._running:
            await self._changed.wait()


def _reserved(kept: ExitStack, name: str, host: str, port: int) -> int:
    for address in listening_hosts(host):
        try:
            bound = kept.enter_context(reserve(address, port))
        except OSError as exc:
            raise ConfigError(f"{name}: cannot listen on {host_port(address, port)}: {exc.strerror or exc}") from exc
        port = bound.getsockname()[1]
    return port


def _environment() -> dict[str, str]:
    """That of this process, in which the same code is found as here.

    Without what settings come from: a worker is sent those it needs, and variables are easier to look at than memory.
    """
    root = str(Path(bridge.__file__).resolve().parents[1])
    environ = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS_PREFIXES)}
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def _ending(code: int) -> str:
    """How a process ended, in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
