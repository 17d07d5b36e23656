"""Reads the linked spans of a tick: decisions and payload from the database, payload from the cache where it is."""

import logging
from collections import OrderedDict

import anyio
import numpy as np
from anyio import to_thread
from sqlalchemy import select

from bridge.spans import Decisions, Departure, LinkedSpans, SpanLinks
from bridge.store import tables
from bridge.store.cache import PayloadCache
from bridge.store.database import READERS, Database
from bridge.store.linked import LinkedSpansBuilder
from bridge.store.packing import Damaged
from bridge.store.rows import unpack_departure, unpack_payload

logger = logging.getLogger(__name__)

PAGE = 32
"""Payloads that are read at once: some megabytes."""
SHARED_TICKS = 4


class TickReader:
    """Exporters mostly ask for the same ticks at the same time: one reads, and the others are given what it read."""

    def __init__(self, database: Database, cache: PayloadCache) -> None:
        self._database, self._cache = database, cache
        self._readers = anyio.CapacityLimiter(READERS)
        self._shared: OrderedDict[int, LinkedSpans] = OrderedDict()
        self._being_read: dict[int, anyio.Event] = {}

    async def read(self, number: int, *, share: bool) -> LinkedSpans:
        """The spans of a tick that are to be exported; with `share` they are kept for the next who asks.

        Spans whose stored bytes are damaged are left out, and an error is logged. Raises LookupError for a tick that
        is not stored or whose payload has been forgotten, StoreUnavailable where it cannot be read at present.
        """
        while number in self._being_read:
            await self._being_read[number].wait()
        if number in self._shared:
            return self._shared[number]
        done = self._being_read[number] = anyio.Event()
        try:
            linked = await to_thread.run_sync(self._read, number, limiter=self._readers)
        finally:
            del self._being_read[number]
            done.set()
        if share:
            self._shared[number] = linked
            while len(self._shared) > SHARED_TICKS:
                self._shared.popitem(last=False)
        return linked

    def passed(self, tick: int) -> None:
        """Nobody will ask for ticks up to this one any more."""
        for number in [n for n in self._shared if n <= tick]:
            del self._shared[number]

    def _read(self, number: int) -> LinkedSpans:
        builder = LinkedSpansBuilder(number, self._departure(number))
        stored = []
        for batch in builder.batches:
            block = self._cache.get(batch)
            if block is None:
                stored.append(batch)
            else:
                builder.add(batch, block)
        for at in range(0, len(stored), PAGE):
            self._add(builder, self._payloads(builder, stored[at : at + PAGE]))
        return builder.finish()

    def _departure(self, number: int) -> Departure:
        query = select(tables.ticks.c.version, tables.ticks.c.departure).where(tables.ticks.c.number == number)
        try:
            with self._database.reading() as connection:
                row = connection.execute(query).one_or_none()
            if row is not None:
                return unpack_departure(row.departure, row.version)
        except Damaged as exc:
            logger.error(  # noqa: TRY400 -- the reason is all there is to say
                "decisions of a tick are damaged; its spans are lost", extra={"tick": number, "reason": str(exc)}
            )
            return Departure(np.zeros(0, np.int64), np.zeros(0, np.uint32), Decisions.zeros(0), SpanLinks.zeros(0))
        raise LookupError(f"tick {number} is not stored")

    def _payloads(self, builder: LinkedSpansBuilder, batches: list[int]) -> list[tuple[int, bytes]]:
        """Payload of these batches, without those on pages of the file that are damaged."""
        query = select(tables.payloads.c.batch, tables.payloads.c.data).where(tables.payloads.c.batch.in_(batches))
        try:
            with self._database.reading() as connection:
                found = [(row.batch, row.data) for row in connection.execute(query)]
        except Damaged as exc:
            if len(batches) > 1:
                return [found for batch in batches for found in self._payloads(builder, [batch])]
            _log_damaged(builder, batches[0], exc)
            return []
        if len(found) < len(batches):
            raise LookupError(f"payload of tick {builder.tick} is not stored any more")
        return found

    def _add(self, builder: LinkedSpansBuilder, payloads: list[tuple[int, bytes]]) -> None:
        for batch, data in payloads:
            try:
                block = unpack_payload(data)
            except Damaged as exc:
                _log_damaged(builder, batch, exc)
            else:
                self._cache.put(batch, block)
                builder.add(batch, block)


def _log_damaged(builder: LinkedSpansBuilder, batch: int, exc: Damaged) -> None:
    logger.error(
        "payload of a batch is damaged; its spans are lost",
        extra={"batch": batch, "spans": builder.wanted(batch), "reason": str(exc)},
    )
