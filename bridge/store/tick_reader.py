"""Reads the linked spans of a tick: decisions and payload from the database, payload from the cache where it is."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import numpy as np
from anyio import to_thread
from sqlalchemy import Row, bindparam, select

from bridge.errors import StoreUnavailable
from bridge.spans import Decisions, Departure, LinkedSpans, SpanLinks
from bridge.store import tables
from bridge.store.cache import PayloadCache
from bridge.store.database import READERS
from bridge.store.ledger import Ledger
from bridge.store.linked import LinkedSpansBuilder
from bridge.store.numbers import OWN, by_writer
from bridge.store.packing import Damaged
from bridge.store.restart import Databases
from bridge.store.rows import unpack_departure, unpack_payload

logger = logging.getLogger(__name__)

PAGE = 32
"""Payloads that are read at once: some megabytes."""
SHARED_TICKS = 4

_DEPARTURE = select(tables.ticks.c.version, tables.ticks.c.departure).where(tables.ticks.c.number == bindparam("tick"))
_PAYLOADS = select(tables.payloads.c.batch, tables.payloads.c.data).where(
    tables.payloads.c.batch.in_(bindparam("batches", expanding=True))
)


class TickReader:
    """Exporters mostly ask for the same ticks at the same time: one reads, and the others are given what it read.

    As many ticks are read at once as there are connections: each holds some megabytes meanwhile.
    """

    def __init__(
        self,
        databases: Databases,
        cache: PayloadCache,
        ledger: Callable[[], Ledger],
        *,
        lost: Callable[[int, str], None],
        broken: Callable[[str], None],
    ) -> None:
        """ledger: the present one. lost: told how many spans turn out damaged, and what of them.

        broken: told where decisions lie on a page that SQLite cannot read: without them, after a salvage, their rows
        leave again, so that nothing is lost.
        """
        self._databases, self._cache, self._ledger = databases, cache, ledger
        self._lost, self._broken = lost, broken
        self._reading = anyio.CapacityLimiter(READERS)
        self._unpacking = anyio.CapacityLimiter(READERS)  # of its own: it never waits for other work in threads
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
            async with self._reading:
                linked = await self._read(number)
        finally:
            del self._being_read[number]
            done.set()
        if share:
            self._shared[number] = linked
            while len(self._shared) > SHARED_TICKS:
                self._shared.popitem(last=False)
        return linked

    async def preview(self, number: int, most: int) -> LinkedSpans:
        """At most so many spans of a tick, whole traces as far as they fit. LookupError where one is not there."""
        async with self._reading:
            try:
                row = await self._departure(number)
                builder, stored = await to_thread.run_sync(self._begin, number, row, most, limiter=self._unpacking)
                for writer, batches in by_writer(stored):
                    database = self._databases.get(writer)
                    for at in range(0, len(batches), PAGE):
                        page = batches[at : at + PAGE]
                        rows = await database.read(_PAYLOADS, batches=page) if database else []
                        if len(rows) < len(page):
                            raise LookupError(f"payload of tick {number} is not stored any more")
                        await to_thread.run_sync(_add_all, builder, rows, limiter=self._unpacking)
            except Damaged as exc:
                raise LookupError(f"tick {number} is damaged: {exc}") from exc
            return await to_thread.run_sync(builder.finish, limiter=self._unpacking)

    def passed(self, tick: int) -> None:
        """Nobody will ask for ticks up to this one any more."""
        for number in [n for n in self._shared if n <= tick]:
            del self._shared[number]

    async def _read(self, number: int) -> LinkedSpans:
        try:
            row = await self._departure(number)
            builder, stored = await to_thread.run_sync(self._begin, number, row, limiter=self._unpacking)
        except Damaged as exc:
            self._lost(self._ledger().summary(number - 1, number).spans, "damaged_decisions")
            return _without_spans(number, exc)
        for writer, batches in by_writer(stored):
            for at in range(0, len(batches), PAGE):
                payloads = await self._payloads(builder, writer, batches[at : at + PAGE])
                await to_thread.run_sync(self._add, builder, payloads, limiter=self._unpacking)
        return await to_thread.run_sync(builder.finish, limiter=self._unpacking)

    async def _departure(self, number: int) -> Row[Any]:
        try:
            rows = await self._databases[OWN].read(_DEPARTURE, tick=number)
        except Damaged as exc:
            self._broken(str(exc))
            raise StoreUnavailable(f"{self._databases[OWN].path}: {exc}") from exc
        if not rows:
            raise LookupError(f"tick {number} is not stored")
        return rows[0]

    async def _payloads(self, builder: LinkedSpansBuilder, writer: int, batches: list[int]) -> list[tuple[int, bytes]]:
        """Payload of these batches of one writer, without those on pages of its file that are damaged."""
        database = self._databases.get(writer)
        try:
            rows = await database.read(_PAYLOADS, batches=batches) if database else []
        except Damaged as exc:
            if len(batches) > 1:
                return [found for batch in batches for found in await self._payloads(builder, writer, [batch])]
            self._lose(builder, batches[0], exc)
            return []
        if len(rows) < len(batches):
            self._check_missing(builder, set(batches) - {row.batch for row in rows})
        return [(row.batch, row.data) for row in rows]

    def _check_missing(self, builder: LinkedSpansBuilder, batches: set[int]) -> None:
        """Raise LookupError where payload was forgotten; it is never while somebody needs it, unless it was damaged."""
        if builder.tick <= self._ledger().passed_tick:
            raise LookupError(f"payload of tick {builder.tick} is not stored any more")
        for batch in sorted(batches):
            self._lose(builder, batch, Damaged("it was in a file that was set aside"))

    def _begin(self, number: int, row: Row[Any], most: int | None = None) -> tuple[LinkedSpansBuilder, list[int]]:
        """A builder that has what is in the cache, and the batches it still wants. Raises Damaged."""
        builder, stored = LinkedSpansBuilder(number, unpack_departure(row.departure, row.version), most), []
        for batch in builder.batches:
            block = self._cache.get(batch)
            if block is None:
                stored.append(batch)
            else:
                builder.add(batch, block)
        return builder, stored

    def _lose(self, builder: LinkedSpansBuilder, batch: int, exc: Damaged) -> None:
        spans = builder.wanted(batch)
        logger.error(
            "payload of a batch is damaged; its spans are lost",
            extra={"batch": batch, "spans": spans, "reason": str(exc)},
        )
        self._lost(spans, "damaged_payload")

    def _add(self, builder: LinkedSpansBuilder, payloads: list[tuple[int, bytes]]) -> None:
        for batch, data in payloads:
            try:
                block = unpack_payload(data)
            except Damaged as exc:
                self._lose(builder, batch, exc)
            else:
                self._cache.put(batch, block)
                builder.add(batch, block)


def _add_all(builder: LinkedSpansBuilder, rows: Sequence[Row[Any]]) -> None:
    """Raises Damaged."""
    for row in rows:
        builder.add(row.batch, unpack_payload(row.data))


def _without_spans(number: int, exc: Damaged) -> LinkedSpans:
    """A tick without spans in the place of one of which the decisions are damaged."""
    logger.error("decisions of a tick are damaged; its spans are lost", extra={"tick": number, "reason": str(exc)})
    nothing = Departure(np.zeros(0, np.int64), np.zeros(0, np.uint32), Decisions.zeros(0), SpanLinks.zeros(0))
    return LinkedSpansBuilder(number, nothing).finish()
