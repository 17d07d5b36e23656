"""Outboxes of a bridge: of one that runs by its deliveries, of one that does not by its store."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import anyio

from bridge.component import Outboxes, OutboxStatus, TickSummary
from bridge.errors import StoreUnavailable
from bridge.exporters import Delivery
from bridge.store import SqliteStore

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often is looked whether the store is near its quota."""
LAG_NS = 5 * 10**9
"""What left less long ago is never given up for the quota: its exporter may well be delivering it."""
LOG_AGAIN_S = 60.0


class RunningOutboxes(Outboxes):
    """Of a bridge that runs: what is under way is asked, waits are ended, and what is given up is counted exactly."""

    def __init__(self, store: SqliteStore, deliveries: Sequence[Delivery], now_ns: Callable[[], int]) -> None:
        self._store, self._now_ns = store, now_ns
        self._deliveries = {delivery.exporter.name: delivery for delivery in deliveries}

    async def status(self) -> Sequence[OutboxStatus]:
        """See `Outboxes.status`."""
        return [await self._status(name, delivery) for name, delivery in sorted(self._deliveries.items())]

    async def retry(self, exporter: str | None) -> Sequence[str]:
        """See `Outboxes.retry`."""
        names = sorted(self._deliveries) if exporter is None else [exporter]
        for delivery in [self._deliveries[name] for name in names]:
            delivery.retry_now()
        return names

    async def drop(self, exporter: str, older_than_s: float | None) -> int:
        """See `Outboxes.drop`; returns when what was under way was answered."""
        delivery = self._deliveries[exporter]
        up_to = await _newest(self._store, delivery.cursor, older_than_s, self._now_ns())
        spans = await delivery.give_up(up_to, "operator")
        logger.error("an operator gave up undelivered spans", extra={"exporter": exporter, "spans": spans})
        with suppress(StoreUnavailable):  # payload; tried again with the keys, which go later
            await self._store.forget(0)
        return spans

    def oldest_ages_s(self) -> Mapping[str, float]:
        """How long ago the oldest tick left that each exporter has not delivered, 0 where there is none."""
        oldest_ns, now_ns = self._store.oldest_undelivered_ns(), self._now_ns()
        return {name: max(0, now_ns - oldest_ns.get(name, now_ns)) / 1e9 for name in self._deliveries}

    async def keep_within_quota(self) -> None:
        """While the store is near its quota let exporters that lag give up their oldest spans; until cancelled."""
        given_up: Counter[str] = Counter()
        quiet_until_s = 0.0
        while True:
            await anyio.sleep(LOOK_S)
            with suppress(StoreUnavailable):
                given_up += await self._give_up_surplus()
            if given_up and time.monotonic() >= quiet_until_s:
                quiet_until_s = time.monotonic() + LOG_AGAIN_S
                logger.error(
                    "the store is near its quota; exporters that lag gave up their oldest spans",
                    extra={"spans": dict(given_up), "setting": "store.at_quota = drop_oldest"},
                )
                given_up.clear()

    async def _give_up_surplus(self) -> Counter[str]:
        """Spans that were given up, by exporter."""
        given_up: Counter[str] = Counter()
        space = self._store.space
        surplus = space.used_bytes - space.open_bytes
        if surplus < 0:
            return given_up
        passed = min((delivery.cursor for delivery in self._deliveries.values()), default=0)
        tick = self._store.tick_to_pass(surplus + space.limits.step_bytes // 2)
        tick = min(tick, await self._store.tick_before(self._now_ns() - LAG_NS, after=passed))

        async def give_up(name: str, delivery: Delivery) -> None:
            given_up[name] += await delivery.give_up(tick, "quota")

        async with anyio.create_task_group() as tasks:
            for name, delivery in self._deliveries.items():
                tasks.start_soon(give_up, name, delivery)
        await self._store.forget(0)
        return +given_up

    async def _status(self, name: str, delivery: Delivery) -> OutboxStatus:
        left = await delivery.standing()
        return _status(
            self._store, name, delivery.cursor, left, self._now_ns(), delivery.last_error, delivery.next_attempt_s
        )


class StoppedOutboxes(Outboxes):
    """Of a bridge that does not run, by a store that is open; what the store knows is all there is."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def status(self) -> Sequence[OutboxStatus]:
        """See `Outboxes.status`. What was delivered past the cursor is not known, and counts as undelivered."""
        newest, now_ns, found = await self._store.last_tick(), time.time_ns(), []
        for name, cursor in sorted((await self._store.cursors()).items()):
            left = await self._store.summary(cursor, newest)
            found.append(_status(self._store, name, cursor, left, now_ns, "", None))
        return found

    async def retry(self, exporter: str | None) -> Sequence[str]:
        """Nothing: waits ended with the bridge."""
        if exporter is not None and exporter not in await self._store.cursors():
            raise LookupError(exporter)
        return []

    async def drop(self, exporter: str, older_than_s: float | None) -> int:
        """See `Outboxes.drop`."""
        cursor = (await self._store.cursors())[exporter]
        up_to = await _newest(self._store, cursor, older_than_s, time.time_ns())
        spans = (await self._store.summary(cursor, up_to)).spans
        await self._store.advance(exporter, up_to)
        await self._store.forget(0)
        return spans


async def _newest(store: SqliteStore, cursor: int, older_than_s: float | None, now_ns: int) -> int:
    if older_than_s is None:
        return await store.last_tick()
    return await store.tick_before(now_ns - round(older_than_s * 1e9), after=cursor)


def _status(
    store: SqliteStore,
    name: str,
    cursor: int,
    left: TickSummary,
    now_ns: int,
    last_error: str,
    next_attempt_s: float | None,
) -> OutboxStatus:
    age_s = None if left.oldest_ns is None else max(0, now_ns - left.oldest_ns) / 1e9
    return OutboxStatus(
        name, cursor, left.ticks, left.spans, store.bytes_of(left.spans), age_s, last_error, next_attempt_s
    )
