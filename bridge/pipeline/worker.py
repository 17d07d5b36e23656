"""An ingest process: receivers on ports it shares with others, and a store that appends to a file of its own.

What it acknowledges the bridge's process finds in that file. It may be killed at any time.
"""

import asyncio
import logging
import os
import socket
from collections import deque
from contextlib import AsyncExitStack

import anyio
from anyio.abc import TaskGroup

from bridge.codec.profiles import use_profiles
from bridge.component import SignalForwarder
from bridge.config import load_profiles
from bridge.errors import ConfigError, StoreUnavailable
from bridge.pipeline.build import build_receivers, build_watch, store_limits
from bridge.pipeline.clock import Clock
from bridge.pipeline.forwarding import build_forwarder
from bridge.pipeline.ingest import Ingest
from bridge.pipeline.memory import UNLIMITED
from bridge.pipeline.memory_guard import MemoryGuard
from bridge.pipeline.messages import (
    Channel,
    Drop,
    Dropped,
    Failed,
    Listen,
    Load,
    Prepared,
    Ready,
    Report,
    Start,
    Stop,
)
from bridge.pipeline.process import LoopErrors, leaves
from bridge.receivers.datakit import DatakitReceiver
from bridge.receivers.otlp import GrpcReceiver, HttpReceiver
from bridge.store import IngestStore
from bridge.telemetry import Instruments
from bridge.telemetry.logs import configure_logging, count_dropped_events
from bridge.telemetry.relay import RelayMeter, take_counts

logger = logging.getLogger(__name__)

REPORT_S = 1.0


async def work(connected: socket.socket) -> int:
    """Do what the bridge's process at the other end says until it says stop; returns the exit code."""
    asyncio.get_running_loop().set_exception_handler(LoopErrors())
    channel = await Channel.over(connected)
    start = await channel.receive()
    if not isinstance(start, Start):
        return 1
    telemetry = start.settings.telemetry
    configure_logging(telemetry.log_level, telemetry.log_format, fields={"worker": start.worker})
    try:
        await Worker(start, channel).run()
    except Exception as exc:
        errors = list(leaves(exc))
        for error in errors:
            if isinstance(error, ConfigError):
                await channel.send(Failed(str(error)))
                break
            logger.critical("an ingest process failed; what it acknowledged is kept", exc_info=error)
        return 1
    finally:
        await channel.close()
    return 0


class Worker:
    """All parts of one ingest process."""

    def __init__(self, start: Start, channel: Channel) -> None:
        settings = self._settings = start.settings
        use_profiles(load_profiles(settings.receivers.profiles))
        self._channel, self._workers = channel, start.workers
        self._instruments = Instruments(RelayMeter(), settings.telemetry.traces.sampling_rate)
        # the bridge's own process says which certificates expire
        self._watch = build_watch(settings, self._instruments.credential_reloads.add, warn=False)
        count_dropped_events(self._instruments.dropped_log_events.add)
        self._store = IngestStore(
            settings.ebpftrace.db_path,
            start.worker,
            after=start.after,
            synchronous=settings.store.synchronous,
            queue_bytes=settings.store.queue_bytes,
            limits=store_limits(settings),
            files=1 + start.workers,
            instruments=self._instruments,
        )
        self._guard = MemoryGuard(
            settings.memory_limit_bytes or UNLIMITED,
            in_flight_bytes=start.in_flight_bytes,
            max_waiting_spans=settings.linker.max_waiting_spans,
            may_wait=start.may_wait,
            processes=1 + start.workers,
        )
        self._ingest = Ingest(self._store, Clock(start.clock_offset_ns), room=self._guard)
        self._listen, self._stop = anyio.Event(), anyio.Event()
        self._unseen: deque[tuple[int, int]] = deque()
        """(number, spans) of batches that were committed and that the linker was not given yet, as far as known."""
        self._load = Load(start.after, 0, may_wait=start.may_wait)

    async def run(self) -> None:
        """Receive until told to stop. Raises ConfigError, possibly in groups, for what only trying can show."""
        async with self._store.running(), anyio.create_task_group() as drops, anyio.create_task_group() as tasks:
            tasks.start_soon(self._obey, drops)
            tasks.start_soon(self._keep_reporting)
            await self._channel.send(Prepared())
            await self._listen.wait()
            async with self._ingest.running(), AsyncExitStack() as listening:
                forwarder = build_forwarder(self._settings, self._watch)
                if forwarder:
                    await listening.enter_async_context(forwarder.running())
                for receiver in self._receivers(forwarder):
                    await listening.enter_async_context(receiver.running())
                await listening.enter_async_context(self._watch.running())
                await self._channel.send(Ready())
                await self._stop.wait()
            tasks.cancel_scope.cancel()
        await self._report()

    def _receivers(self, forwarder: SignalForwarder | None) -> list[GrpcReceiver | HttpReceiver | DatakitReceiver]:
        return build_receivers(
            self._settings,
            self._ingest,
            self._instruments,
            share_ports=True,
            memory=self._guard,
            watch=self._watch,
            forwarder=forwarder,
            unavailable=lambda: self._store.unavailable or self._load.unavailable,
        )

    async def _obey(self, drops: TaskGroup) -> None:
        while True:
            match await self._channel.receive():
                case Load() as load:
                    self._take_load(load)
                case Drop() as drop:
                    drops.start_soon(self._drop, drop)
                case Listen():
                    self._listen.set()
                case Stop():
                    self._listen.set()
                    self._stop.set()
                case _:
                    # the bridge is gone: its successor waits for this process, which has nothing to lose
                    os._exit(1)

    async def _drop(self, drop: Drop) -> None:
        error = ""
        try:
            await self._store.drop(drop.payloads, drop.batches)
        except StoreUnavailable as exc:
            error = str(exc)
        await self._channel.send(Dropped(drop.order, error))

    def _take_load(self, load: Load) -> None:
        """Count what the linker was not given yet as if the other processes had as much of it."""
        self._load = load
        self._store.space.measured_elsewhere(load.other_files_bytes, load.other_files_free_bytes)
        self._guard.max_waiting_spans, self._guard.others_bytes = load.may_wait, load.others_bytes
        self._unseen += [(arrival.number, len(arrival.columns)) for arrival in self._ingest.take()]
        while self._unseen and self._unseen[0][0] <= load.seen:
            self._unseen.popleft()
        self._ingest.waiting_in_linker = load.waiting + self._workers * sum(spans for _, spans in self._unseen)

    async def _keep_reporting(self) -> None:
        while True:
            await anyio.sleep(REPORT_S)
            await self._report()

    async def _report(self) -> None:
        self._take_load(self._load)
        self._guard.read()
        self._guard.give_back()
        counts = take_counts(self._instruments)
        report = Report(
            self._store.unavailable,
            self._store.damage,
            counts,
            self._ingest.span_bytes,
            self._guard.pushes_back,
            self._instruments.levels.own(),
            tuple(self._instruments.tracer.take()),
        )
        await self._channel.send(report)
