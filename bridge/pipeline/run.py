"""Runs the bridge: starts the parts in order, stops them in reverse, and says what it does.

Order: health and metrics, store, recovery, exporters, ticks, receivers (with `workers`: the processes that have them).
A successor that waits for the lock on `db_path` does so with its predecessor's ports, too: what listens is opened after
the store, and closed before it. Health and metrics are there meanwhile where their port is free.
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
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from bridge import __version__
from bridge.codec import kernel_in_use
from bridge.codec.profiles import use_profiles
from bridge.config import Settings, load_profiles
from bridge.errors import ConfigError, StoreDamaged, StoreUnavailable
from bridge.pipeline.build import (
    build_assembler,
    build_deliveries,
    build_receivers,
    build_store,
    build_watch,
    listener_security,
    watch_receivers,
)
from bridge.pipeline.clock import Clock
from bridge.pipeline.drain import Drain
from bridge.pipeline.forwarding import build_forwarder
from bridge.pipeline.ingest import Ingest
from bridge.pipeline.limits import web_limits
from bridge.pipeline.memory import memory_bounds, within_memory
from bridge.pipeline.memory_guard import FEWEST, MemoryGuard
from bridge.pipeline.outboxes import RunningOutboxes
from bridge.pipeline.own_telemetry import OwnTelemetry
from bridge.pipeline.page import Page
from bridge.pipeline.process import LoopErrors, cpu_seconds, leaves
from bridge.pipeline.workers import Workers
from bridge.receivers.addresses import listening_hosts
from bridge.security import KnownHosts
from bridge.telemetry import Instruments
from bridge.telemetry.levels import Level
from bridge.telemetry.logs import count_dropped_events
from bridge.telemetry.metrics import Metrics, running_metrics
from bridge.web import ControlServer, WebServer

logger = logging.getLogger(__name__)

WATCH_S = 0.1
"""How often memory is looked at near a threshold, besides by requests."""


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises ConfigError for what only trying can show (ports, paths, certificates), StoreDamaged where the store has to
    be opened anew. Any other error is a defect: the bridge ends on it, with everything acknowledged still in the store.
    """
    asyncio.get_running_loop().set_exception_handler(LoopErrors())
    try:
        with running_metrics(__version__, for_push=settings.telemetry.otlp.endpoint is not None) as metrics:
            bridge, stop = Bridge(settings, metrics), anyio.Event()
            async with anyio.create_task_group() as tasks:
                await tasks.start(_stop_on_signal, stop, bridge, tasks.cancel_scope)
                async with bridge.running():
                    await stop.wait()
                tasks.cancel_scope.cancel()
    except* ConfigError as group:
        raise next(leaves(group)) from None
    except* StoreDamaged as group:
        raise next(leaves(group)) from None
    except* StoreUnavailable as group:  # later on it is waited for
        raise ConfigError(f"inputs.ebpftrace.db_path: cannot use {next(leaves(group))}") from None


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
        self._instruments = Instruments(metrics.meter, settings.telemetry.traces.sampling_rate)
        self._instruments.dropped_log_events.add(0)
        count_dropped_events(self._instruments.dropped_log_events.add)
        use_profiles(load_profiles(settings.receivers.profiles))
        bounds = memory_bounds(settings)
        settings = self._settings = within_memory(settings)
        guard = self._guard = MemoryGuard(
            bounds.limit_bytes,
            in_flight_bytes=bounds.in_flight_bytes,
            max_waiting_spans=settings.linker.max_waiting_spans,
            may_wait=bounds.waiting_spans,
            processes=1 + (settings.workers if settings.workers > 1 else 0),
        )
        clock = self._clock = Clock()
        self._store = build_store(settings, self._instruments)
        watch = self._watch = build_watch(settings, self._instruments.credential_reloads.add)
        others = self._watch_of_workers = build_watch(settings)
        self._deliveries = build_deliveries(settings, self._store, self._instruments, watch)
        self._own_telemetry = OwnTelemetry(settings, metrics, self._instruments, watch)
        outboxes = self._outboxes = RunningOutboxes(self._store, self._deliveries, clock.now_ns)
        self._control = ControlServer(settings.ebpftrace.db_path, outboxes)
        self._ingest = Ingest(self._store, clock, room=guard)
        self._workers = (
            Workers(settings, self._store, clock.offset_ns, guard, self._instruments) if settings.workers > 1 else None
        )
        arrivals = self._arrivals = self._workers or self._ingest
        assembler = self._assembler = build_assembler(settings)
        assembler.remember_at_most(bounds.remembered_spans)
        self._drain = Drain(
            self._store,
            assembler,
            arrivals,
            clock,
            self._instruments,
            tick_s=settings.linker.tick_s,
            late_window_ns=settings.late_window_ns,
            committed=self._notify,
            tick_bytes=bounds.tick_bytes,
        )
        self._page: Page | None = None
        if settings.web.enabled:
            self._page = Page(
                settings,
                self._store,
                metrics,
                not_ready=self._not_ready,
                last_errors=self._last_errors,
                clock=clock,
                memory_bytes=bounds.page_bytes,
            )
        self._web = WebServer(
            hosts=listening_hosts(settings.web.host),
            port=settings.web.port,
            not_ready=self._not_ready,
            metrics=metrics.prometheus_text,
            security=listener_security("web", settings.web, watch if settings.web.enabled else None),
            limits=web_limits(settings.web),
            closed=self._instruments.closed_connections_of("web"),
            refused=lambda reason: self._instruments.web_refused_requests.add(1, {"reason": reason}),
            known_hosts=KnownHosts("web.allowed_hosts", own=settings.web.host, allowed=settings.web.allowed_hosts),
            page=self._page.api if self._page else None,
        )
        if self._workers:
            watch_receivers(settings, others)
            self._workers.bridge_unavailable = self._unavailable
        self._instruments.watch_certificate_expiries(lambda: others.expiries_s() | watch.expiries_s())
        self.receiving = False
        """Whether every receiver is open."""
        self._instruments.watch_waiting_spans(lambda: arrivals.waiting)
        self._instruments.watch_retained_spans(lambda: assembler.retained)
        self._instruments.watch_undelivered_ticks(self._undelivered)
        self._instruments.watch_oldest_undelivered(outboxes.oldest_ages_s)
        self._instruments.watch_store(self._store_bytes)
        self._instruments.watch_exporters(
            up=lambda: {d.exporter.name: int(d.up) for d in self._deliveries},
            parked=lambda: {d.exporter.name: d.parked for d in self._deliveries},
            last_success_s=lambda: {d.exporter.name: d.last_success_s for d in self._deliveries},
        )
        workers, started_s = self._workers, time.monotonic()
        self._instruments.watch_process(
            cpu_s=lambda: cpu_seconds(workers.process_ids() if workers else ()),
            uptime_s=lambda: time.monotonic() - started_s,
            version=__version__,
        )
        self._instruments.levels.watch("web", lambda: Level(connections=self._web.open_connections))
        self._instruments.watch_listeners()
        self._instruments.watch_memory(lambda: guard.bytes, bounds.limit_bytes, lambda: guard.pushes_back)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mapping[str, str]]:
        """Receive while the context is open; yields the address of each listener by name."""
        async with AsyncExitStack() as stack:
            async with AsyncExitStack() as web:
                opened = not self._settings.web.enabled or await self._listens_already(web)
                logger.info("opening the store", extra={"db_path": str(self._settings.ebpftrace.db_path.absolute())})
                await stack.enter_async_context(self._store.running())
                await stack.enter_async_context(web.pop_all())
            if not opened:
                await stack.enter_async_context(self._web.running())
            recovered = await self._drain.recover()
            async with self._delivering(), self._control.running(), self._own_telemetry.running():
                async with self._ticking(), AsyncExitStack() as listening:
                    addresses = await self._listen(listening)
                    self._drain.leave_from_ns = self._clock.now_ns() + self._settings.window_ns
                    self.receiving = True
                    if self._page:
                        self._page.addresses = addresses
                    logger.info("ready", extra={**addresses, **self._start_fields(), "recovered_spans": recovered})
                    try:
                        yield addresses
                    finally:
                        self.receiving = False
                        self._drain.closed_ns = self._clock.now_ns()
                    deadline = anyio.current_time() + self._settings.shutdown_grace_s
                await self._finish(deadline)

    async def _listens_already(self, web: AsyncExitStack) -> bool:
        """Open health and metrics before the store; False where a bridge that owns the store may have the port yet."""
        try:
            await web.enter_async_context(self._web.running())
        except ConfigError as exc:
            logger.info("health and metrics are opened after the store", extra={"reason": str(exc)})
            return False
        return True

    async def _listen(self, listening: AsyncExitStack) -> dict[str, str]:
        web = {"web": self._web.address} if self._settings.web.enabled else {}
        if self._workers:
            addresses = dict(await listening.enter_async_context(self._workers.running()))
            for watch in (self._watch, self._watch_of_workers):
                await listening.enter_async_context(watch.running())
            return addresses | web
        await listening.enter_async_context(self._ingest.running())
        addresses = {}
        forwarder = build_forwarder(self._settings, self._watch)
        if forwarder:
            await listening.enter_async_context(forwarder.running())
        for receiver in build_receivers(
            self._settings,
            self._ingest,
            self._instruments,
            memory=self._guard,
            watch=self._watch,
            forwarder=forwarder,
            unavailable=self._unavailable,
        ):
            await listening.enter_async_context(receiver.running())
            addresses[receiver.name] = receiver.address
        await listening.enter_async_context(self._watch.running())
        return addresses | web

    def _start_fields(self) -> dict[str, object]:
        return {
            "exporters": [d.exporter.name for d in self._deliveries],
            "window_s": self._settings.window_ns / 1e9,
            "compiled_kernel": kernel_in_use(),
            "workers": self._settings.workers,
            "memory_limit": self._guard.limit_bytes,
            "max_waiting_spans": self._guard.max_waiting_spans,
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

    async def _watch_store(self) -> None:
        await self._store.damaged.wait()
        raise StoreDamaged(self._store.damage)

    @asynccontextmanager
    async def _ticking(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as ticks:
            ticks.start_soon(self._drain.run)
            if self._page:
                ticks.start_soon(self._page.run)
            ticks.start_soon(self._watch_memory)
            ticks.start_soon(self._watch_store)
            if self._settings.store.at_quota == "drop_oldest":
                ticks.start_soon(self._outboxes.keep_within_quota)
            yield
            ticks.cancel_scope.cancel()

    async def _watch_memory(self) -> None:
        """Keep the guard's picture of memory current; while it is full no more rows are remembered than there are."""
        full, most = False, memory_bounds(self._settings).remembered_spans
        while True:
            if self._workers:
                self._guard.others_bytes = self._workers.resident_bytes()
            self._guard.look(self._arrivals.waiting)
            if self._guard.full != full:
                full = self._guard.full
                now = max(self._assembler.remembered, int(FEWEST * most))
                self._assembler.remember_at_most(min(now, most) if full else most)
                if self._page:
                    self._page.give_way(full=full)
            await anyio.sleep(max(WATCH_S, self._guard.stays_s))

    async def _finish(self, deadline: float) -> None:
        """Link what arrived last, then wait for the exporters, until the deadline at most."""
        with anyio.CancelScope(deadline=deadline) as scope:
            await self._drain.flush(force=self._settings.store.flush_on_stop)
            for delivery in self._deliveries:
                await delivery.drained(self._drain.last_tick)
        level = logging.WARNING if scope.cancelled_caught else logging.INFO
        logger.log(
            level,
            "stopped; what is not delivered leaves after the next start",
            extra={
                "undelivered_ticks": self._undelivered(),
                "waiting_spans": self._arrivals.waiting,
                **self._counts(),
            },
        )

    def _counts(self) -> dict[str, int]:
        """What was done since the start, in spans."""
        counted = self._instruments
        return {
            "accepted_spans": int(counted.accepted_spans.total()),
            "refused_spans": int(counted.refused_spans.total()),
            "sent_spans": int(counted.sent_spans.total()),
            "lost_spans": int(counted.failed_spans.total() + counted.lost_spans.total()),
        }

    def _last_errors(self) -> dict[str, str]:
        return {d.exporter.name: d.last_error for d in self._deliveries}

    def _notify(self) -> None:
        if self._page:
            self._page.notify()
        for delivery in self._deliveries:
            delivery.notify(self._drain.last_tick)

    def _store_bytes(self) -> dict[str, int]:
        space, shards = self._store.space, self._store.shards
        return {
            "used": space.used_bytes,
            "free": space.own.free_bytes + shards.free_bytes,
            "limit": space.limits.max_bytes,
        }

    def _undelivered(self) -> dict[str, int]:
        return {d.exporter.name: self._drain.last_tick - d.cursor for d in self._deliveries}

    def _unavailable(self) -> str:
        """Why nothing can be committed at present, "" when it can."""
        return self._drain.stuck or self._store.unavailable

    def _not_ready(self) -> str:
        if reason := self._unavailable():
            return f"the store cannot commit: {reason}"
        if not self.receiving:
            return "receivers are not open"
        return self._workers.not_ready() if self._workers else ""
