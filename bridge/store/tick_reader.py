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
from bridge.store.database import Database
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
            linked = await self._read(number)
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

    async def _read(self, number: int) -> LinkedSpans:
        columns = (tables.ticks.c.version, tables.ticks.c.departure)
        async with self._database.reading() as connection:
            row = (await connection.execute(select(*columns).where(tables.ticks.c.number == number))).one_or_none()
        if row is None:
            raise LookupError(f"tick {number} is not stored")
        builder, stored = await to_thread.run_sync(self._begin, number, row.departure, row.version)
        for at in range(0, len(stored), PAGE):
            wanted = stored[at : at + PAGE]
            payloads = await self._payloads(wanted)
            if len(payloads) < len(wanted):
                raise LookupError(f"payload of tick {number} is not stored any more")
            await to_thread.run_sync(self._add, builder, payloads)
        return await to_thread.run_sync(builder.finish)

    async def _payloads(self, batches: list[int]) -> list[tuple[int, bytes]]:
        query = select(tables.payloads.c.batch, tables.payloads.c.data).where(tables.payloads.c.batch.in_(batches))
        async with self._database.reading() as connection:
            return [(row.batch, row.data) for row in await connection.execute(query)]

    def _begin(self, number: int, data: bytes, version: int) -> tuple[LinkedSpansBuilder, list[int]]:
        """A builder that has what is in the cache, and the batches it still wants."""
        try:
            departure = unpack_departure(data, version)
        except Damaged as exc:
            logger.error(  # noqa: TRY400 -- the reason is all there is to say
                "decisions of a tick are damaged; its spans are lost", extra={"tick": number, "reason": str(exc)}
            )
            departure = Departure(np.zeros(0, np.int64), np.zeros(0, np.uint32), Decisions.zeros(0), SpanLinks.zeros(0))
        builder = LinkedSpansBuilder(number, departure)
        stored = []
        for batch in builder.batches:
            block = self._cache.get(batch)
            if block is None:
                stored.append(batch)
            else:
                builder.add(batch, block)
        return builder, stored

    def _add(self, builder: LinkedSpansBuilder, payloads: list[tuple[int, bytes]]) -> None:
        for batch, data in payloads:
            try:
                block = unpack_payload(data)
            except Damaged as exc:
                logger.error(  # noqa: TRY400 -- the reason is all there is to say
                    "payload of a batch is damaged; its spans are lost",
                    extra={"batch": batch, "spans": builder.wanted(batch), "reason": str(exc)},
                )
            else:
                self._cache.put(batch, block)
                builder.add(batch, block)
