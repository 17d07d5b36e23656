"""Runs the bridge: starts the parts in order, stops them in reverse, and says what it does.

Order: store, recovery, exporters, ticks, receivers. On SIGTERM or SIGINT receivers refuse what is new and answer what
they took; what arrived is linked once more; exporters get the rest of `shutdown_grace`; the store closes last. What
was not delivered by then, or still waits for its trace, leaves after the next start.
"""

import logging
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from bridge import __version__
from bridge.codec import kernel_in_use
from bridge.config import Settings
from bridge.errors import ConfigError
from bridge.exporters.delivery import Delivery
from bridge.pipeline.build import build_assembler, build_exporters, build_receivers, build_store
from bridge.pipeline.clock import Clock
from bridge.pipeline.drain import Drain
from bridge.pipeline.ingest import Ingest
from bridge.telemetry import Instruments
from bridge.telemetry.metrics import Metrics, running_metrics
from bridge.web import WebServer

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigError for what only trying can show (ports, paths, certificates)."""
    try:
        with running_metrics(__version__) as metrics, anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as stop:
            bridge = Bridge(settings, metrics)
            async with bridge.running():
                async for received in stop:
                    logger.info("stopping", extra={"signal": signal.Signals(received).name})
                    break
    except* ConfigError as group:
        raise _first(group) from None


class Bridge:
    """All parts of one bridge, built from its settings and not yet started."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._instruments = Instruments(metrics.meter)
        clock = self._clock = Clock()
        self._store = build_store(settings, self._instruments)
        self._exporters = build_exporters(settings)
        self._deliveries: list[Delivery] = []
        self._ingest = Ingest(self._store, clock, max_waiting_spans=settings.linker.max_waiting_spans)
        assembler = self._assembler = build_assembler(settings)
        self._drain = Drain(
            self._store,
            assembler,
            self._ingest,
            clock,
            self._instruments,
            tick_s=settings.linker.tick_s,
            late_window_ns=settings.late_window_ns,
            committed=self._notify,
        )
        self._web = WebServer(
            host=settings.web.host,
            port=settings.web.port,
            not_ready=self._not_ready,
            metrics=metrics.prometheus_text,
        )
        self._receiving = False
        self._instruments.watch_waiting_spans(lambda: self._ingest.waiting)
        self._instruments.watch_retained_spans(lambda: assembler.retained)
        self._instruments.watch_undelivered_ticks(self._undelivered)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mapping[str, str]]:
        """Receive while the context is open; yields the address of each listener by name."""
        async with AsyncExitStack() as stack:
            if self._settings.web.enabled:
                await stack.enter_async_context(self._web.running())
            await stack.enter_async_context(self._store.running())
            recovered = await self._drain.recover()
            tasks = await stack.enter_async_context(anyio.create_task_group())
            await self._start_deliveries(tasks)
            async with self._ticking(), self._ingest.running(), AsyncExitStack() as listening:
                addresses = await self._listen(listening)
                self._drain.leave_from_ns = self._clock.now_ns() + self._settings.window_ns
                self._receiving = True
                logger.info("ready", extra={**addresses, **self._start_fields(), "recovered_spans": recovered})
                yield addresses
                self._receiving = False
                deadline = anyio.current_time() + self._settings.shutdown_grace_s
            await self._finish(deadline)
            tasks.cancel_scope.cancel()

    async def _listen(self, listening: AsyncExitStack) -> dict[str, str]:
        addresses = {}
        for receiver in build_receivers(self._settings, self._ingest, self._instruments):
            await listening.enter_async_context(receiver.running())
            addresses[receiver.name] = receiver.address
        return addresses | ({"web": self._web.address} if self._settings.web.enabled else {})

    def _start_fields(self) -> dict[str, object]:
        return {
            "exporters": [e.name for e in self._exporters],
            "window_s": self._settings.window_ns / 1e9,
            "compiled_kernel": kernel_in_use(),
        }

    async def _start_deliveries(self, tasks: TaskGroup) -> None:
        cursors = await self._store.register([e.name for e in self._exporters])
        for exporter in self._exporters:
            retry, in_flight = self._settings.delivery(exporter.name)
            delivery = Delivery(exporter, self._store, self._instruments, retry=retry, in_flight=in_flight)
            self._deliveries.append(delivery)
            tasks.start_soon(delivery.run, cursors[exporter.name])

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
            last = await self._store.last_tick()
            for delivery in self._deliveries:
                await delivery.drained(last)
        level = logging.WARNING if scope.cancelled_caught else logging.INFO
        logger.log(
            level,
            "stopped; what is not delivered leaves after the next start",
            extra={"undelivered_ticks": self._undelivered(), "waiting_spans": self._ingest.waiting},
        )

    def _notify(self) -> None:
        for delivery in self._deliveries:
            delivery.notify()

    def _undelivered(self) -> dict[str, int]:
        return {d.exporter.name: self._drain.last_tick - d.cursor for d in self._deliveries}

    def _not_ready(self) -> str:
        if self._drain.stuck:
            return f"the store cannot commit: {self._drain.stuck}"
        return "" if self._receiving else "receivers are not open"


def _first(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
