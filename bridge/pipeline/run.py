"""Runs the bridge: starts the parts in order, stops them in reverse, and says what it does.

Order: health and metrics, store, recovery, exporters, ticks, receivers (with `workers`: the processes that have them).
On SIGTERM or SIGINT receivers refuse what is new and answer what they took; what arrived is linked once more; exporters
get the rest of `shutdown_grace`; the store closes last. What was not delivered by then, or still waits for its trace,
leaves after the next start. A signal during the start, or another SIGINT, ends the bridge at once; nothing acknowledged
is lost then either.

After a start nothing is let go, ordinary spans included, until receivers were open for one window: senders that were
held up by the restart get their turn first. What was decided before the restart is delivered at once.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from bridge import __version__
from bridge.codec import kernel_in_use
from bridge.codec.profiles import use_profiles
from bridge.config import Settings, load_profiles
from bridge.errors import ConfigError
from bridge.pipeline.build import build_assembler, build_deliveries, build_receivers, build_store
from bridge.pipeline.clock import Clock
from bridge.pipeline.drain import Drain
from bridge.pipeline.ingest import Ingest
from bridge.pipeline.process import LoopErrors, leaves
from bridge.pipeline.workers import Workers
from bridge.receivers.addresses import listening_hosts
from bridge.telemetry import Instruments
from bridge.telemetry.metrics import Metrics, running_metrics
from bridge.web import WebServer

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises ConfigError for what only trying can show (ports, paths, certificates). Any other error is a defect: the
    bridge ends on it, with everything acknowledged still in the store.
    """
    asyncio.get_running_loop().set_exception_handler(LoopErrors())
    try:
        with running_metrics(__version__) as metrics:
            bridge, stop = Bridge(settings, metrics), anyio.Event()
            async with anyio.create_task_group() as tasks:
                await tasks.start(_stop_on_signal, stop, bridge, tasks.cancel_scope)
                async with bridge.running():
                    await stop.wait()
                tasks.cancel_scope.cancel()
    except* ConfigError as group:
        raise next(leaves(group)) from None


async def _stop_on_signal(
    stop: anyio.Event,
    bridge: "Bridge",
    everything: anyio.CancelScope,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for received in signals:
            # supervisors repeat SIGTERM, and some send it twice at once; Ctrl-C again is a person who means it
            at_once = received == signal.SIGINT if stop.is_set() else not bridge.receiving
            logger.info("stopping", extra={"signal": signal.Signals(received).name, "at_once": at_once})
            stop.set()
            if at_once:
                everything.cancel()


class Bridge:
    """All parts of one bridge, built from its settings and not yet started."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._instruments = Instruments(metrics.meter)
        use_profiles(load_profiles(settings.receivers.profiles))
        clock = self._clock = Clock()
        self._store = build_store(settings, self._instruments)
        self._deliveries = build_deliveries(settings, self._store, self._instruments)
        self._ingest = Ingest(self._store, clock, max_waiting_spans=settings.linker.max_waiting_spans)
        self._workers = (
            Workers(settings, self._store, clock.offset_ns, self._instruments) if settings.workers > 1 else None
        )
        arrivals = self._arrivals = self._workers or self._ingest
        assembler = build_assembler(settings)
        self._drain = Drain(
            self._store,
            assembler,
            arrivals,
            clock,
            self._instruments,
            tick_s=settings.linker.tick_s,
            late_window_ns=settings.late_window_ns,
            committed=self._notify,
        )
        self._web = WebServer(
            hosts=listening_hosts(settings.web.host),
            port=settings.web.port,
            not_ready=self._not_ready,
            metrics=metrics.prometheus_text,
        )
        self.receiving = False
        """Whether every receiver is open."""
        self._instruments.watch_waiting_spans(lambda: arrivals.waiting)
        self._instruments.watch_retained_spans(lambda: assembler.retained)
        self._instruments.watch_undelivered_ticks(self._undelivered)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mapping[str, str]]:
        """Receive while the context is open; yields the address of each listener by name."""
        async with AsyncExitStack() as stack:
            if self._settings.web.enabled:
                await stack.enter_async_context(self._web.running())
            logger.info("opening the store", extra={"db_path": str(self._settings.ebpftrace.db_path.absolute())})
            await stack.enter_async_context(self._store.running())
            recovered = await self._drain.recover()
            async with self._delivering():
                async with self._ticking(), AsyncExitStack() as listening:
                    addresses = await self._listen(listening)
                    self._drain.leave_from_ns = self._clock.now_ns() + self._settings.window_ns
                    self.receiving = True
                    logger.info("ready", extra={**addresses, **self._start_fields(), "recovered_spans": recovered})
                    try:
                        yield addresses
                    finally:
                        self.receiving = False
                    deadline = anyio.current_time() + self._settings.shutdown_grace_s
                await self._finish(deadline)

    async def _listen(self, listening: AsyncExitStack) -> dict[str, str]:
        web = {"web": self._web.address} if self._settings.web.enabled else {}
        if self._workers:
            return {**await listening.enter_async_context(self._workers.running()), **web}
        await listening.enter_async_context(self._ingest.running())
        addresses = {}
        for receiver in build_receivers(self._settings, self._ingest, self._instruments):
            await listening.enter_async_context(receiver.running())
            addresses[receiver.name] = receiver.address
        return addresses | web

    def _start_fields(self) -> dict[str, object]:
        return {
            "exporters": [d.exporter.name for d in self._deliveries],
            "window_s": self._settings.window_ns / 1e9,
            "compiled_kernel": kernel_in_use(),
            "workers": self._settings.workers,
        }

    @asynccontextmanager
    async def _delivering(self) -> AsyncIterator[None]:
        """Deliver while the context is open. Raises ConfigError where an exporter cannot start."""
        cursors = await self._store.register([d.exporter.name for d in self._deliveries])
        async with anyio.create_task_group() as tasks:
            for delivery in self._deliveries:
                await tasks.start(delivery.run, cursors[delivery.exporter.name])
            yield
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _ticking(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as ticks:
            ticks.start_soon(self._drain.run)
            yield
            ticks.cancel_scope.cancel()

    async def _finish(self, deadline: float) -> None:
        """Link what arrived last, then wait for the exporters, until the deadline at most."""
        with anyio.CancelScope(deadline=deadline) as scope:
            await self._drain.tick(force=self._settings.store.flush_on_stop)
            for delivery in self._deliveries:
                await delivery.drained(self._drain.last_tick)
        level = logging.WARNING if scope.cancelled_caught else logging.INFO
        logger.log(
            level,
            "stopped; what is not delivered leaves after the next start",
            extra={"undelivered_ticks": self._undelivered(), "waiting_spans": self._arrivals.waiting},
        )

    def _notify(self) -> None:
        for delivery in self._deliveries:
            delivery.notify()

    def _undelivered(self) -> dict[str, int]:
        return {d.exporter.name: self._drain.last_tick - d.cursor for d in self._deliveries}

    def _not_ready(self) -> str:
        if reason := self._drain.stuck or self._store.unavailable:
            return f"the store cannot commit: {reason}"
        if not self.receiving:
            return "receivers are not open"
        return self._workers.not_ready() if self._workers else ""
