"""Reads the linked spans of a tick: decisions and payload from the database, payload from the cache where it is."""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TypeVarTuple

import anyio
import numpy as np
from anyio import from_thread, to_thread
from sqlalchemy import bindparam, select

from bridge.errors import StoreUnavailable
from bridge.spans import Decisions, Departure, LinkedSpans, SpanLinks
from bridge.store import tables
from bridge.store.cache import PayloadCache
from bridge.store.engines import READERS
from bridge.store.ledger import Ledger
from bridge.store.linked import LinkedSpansBuilder
from bridge.store.numbers import OWN, by_writer
from bridge.store.packing import Damaged
from bridge.store.restart import Databases
from bridge.store.rows import unpack_departure, unpack_payload

logger = logging.getLogger(__name__)

Args = TypeVarTuple("Args")

PAGE = 32
"""Payloads that are read at once: some megabytes."""
SHARED_TICKS = 4
LATELY_TICKS = 64
"""A tick that is read again within so many others is one that the backend does not take, and will be once more."""

_DEPARTURE = select(tables.ticks.c.version, tables.ticks.c.departure).where(tables.ticks.c.number == bindparam("tick"))
_PAYLOADS = select(tables.payloads.c.batch, tables.payloads.c.data).where(
    tables.payloads.c.batch.in_(bindparam("batches", expanding=True))
)


class _UnreadablePage(Exception):
    """SQLite cannot read a page that decisions are on."""


class TickReader:
    """Exporters mostly ask for the same ticks at the same time: one reads, and the others are given what it read.

    As many ticks are read at once as there are connections, each in a thread: it holds some megabytes meanwhile.
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
        """ledger: the present one. lost: told how many spans turn out damaged, and what of them; in any thread.

        broken: told where decisions lie on a page that SQLite cannot read: without them, after a salvage, their rows
        leave again, so that nothing is lost.
        """
        self._databases, self._cache, self._ledger = databases, cache, ledger
        self._lost, self._broken = lost, broken
        self._threads = anyio.CapacityLimiter(READERS)  # of their own: a tick never waits for other work in threads
        self._shared: OrderedDict[int, LinkedSpans] = OrderedDict()
        self._being_read: dict[int, anyio.Event] = {}
        self._read_lately: deque[int] = deque(maxlen=LATELY_TICKS)

    async def read(self, number: int, *, share: bool) -> LinkedSpans:
        """The spans of a tick that are to be exported; with `share` they are kept for the next who asks.

        Spans whose stored bytes are damaged are left out, and an error is logged. Raises LookupError for a tick that
        is not stored or whose payload has been forgotten, StoreUnavailable where it cannot be read at present. Whoever
        is cancelled waits for a page that is being read.
        """
        while number in self._being_read:
            await self._being_read[number].wait()
        if number in self._shared:
            return self._shared[number]
        done = self._being_read[number] = anyio.Event()
        try:
            linked = await self._whole(number)
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
        try:
            return await self._in_thread(self._preview, number, most)
        except Damaged as exc:
            raise LookupError(f"tick {number} is damaged: {exc}") from exc

    def passed(self, tick: int) -> None:
        """Nobody will ask for ticks up to this one any more."""
        for number in [n for n in self._shared if n <= tick]:
            del self._shared[number]

    async def _whole(self, number: int) -> LinkedSpans:
        try:
            return await self._in_thread(self._read, number)
        except Damaged as exc:
            self._lost(self._ledger().summary(number - 1, number).spans, "damaged_decisions")
            return _without_spans(number, exc)

    async def _in_thread(self, read: Callable[[*Args], LinkedSpans], *args: *Args) -> LinkedSpans:
        try:
            return await to_thread.run_sync(read, *args, limiter=self._threads)
        except _UnreadablePage as exc:
            self._broken(str(exc))
            raise StoreUnavailable(f"{self._databases[OWN].path}: {exc}") from exc

    # --- in a thread -----------------------------------------------------------------------------------------------

    def _read(self, number: int) -> LinkedSpans:
        """Raises LookupError, Damaged where the bytes of the decisions are, _UnreadablePage where their page is."""
        again = number in self._read_lately
        self._read_lately.append(number)
        builder, stored = self._begun(number)
        for writer, batches in by_writer(stored):
            for at in range(0, len(batches), PAGE):
                from_thread.check_cancelled()
                self._add(builder, self._payloads(builder, writer, batches[at : at + PAGE]), keep=again)
        return builder.finish()

    def _preview(self, number: int, most: int) -> LinkedSpans:
        """Raises what `_read` does, and LookupError where payload is not there; what is damaged is not told."""
        builder, stored = self._begun(number, most)
        for writer, batches in by_writer(stored):
            database = self._databases.get(writer)
            for at in range(0, len(batches), PAGE):
                from_thread.check_cancelled()
                page = batches[at : at + PAGE]
                rows = database.read_here(_PAYLOADS, batches=page) if database else []
                if len(rows) < len(page):
                    raise LookupError(f"payload of tick {number} is not stored any more")
                for row in rows:
                    builder.add(row.batch, unpack_payload(row.data))
        return builder.finish()

    def _begun(self, number: int, most: int | None = None) -> tuple[LinkedSpansBuilder, list[int]]:
        """A builder that has what is in the cache, and the batches it still wants. Raises what `_read` does."""
        try:
            rows = self._databases[OWN].read_here(_DEPARTURE, tick=number)
        except Damaged as exc:
            raise _UnreadablePage(str(exc)) from exc
        if not rows:
            raise LookupError(f"tick {number} is not stored")
        departure = unpack_departure(rows[0].departure, rows[0].version)
        builder, stored = LinkedSpansBuilder(number, departure, most), []
        for batch in builder.batches:
            block = self._cache.get(batch)
            if block is None:
                stored.append(batch)
            else:
                builder.add(batch, block)
        return builder, stored

    def _payloads(self, builder: LinkedSpansBuilder, writer: int, batches: list[int]) -> list[tuple[int, bytes]]:
        """Payload of these batches of one writer, without those on pages of its file that are damaged."""
        database = self._databases.get(writer)
        try:
            rows = database.read_here(_PAYLOADS, batches=batches) if database else []
        except Damaged as exc:
            if len(batches) > 1:
                return [found for batch in batches for found in self._payloads(builder, writer, [batch])]
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

    def _lose(self, builder: LinkedSpansBuilder, batch: int, exc: Damaged) -> None:
        spans = builder.wanted(batch)
        logger.error(
            "payload of a batch is damaged; its spans are lost",
            extra={"batch": batch, "spans": spans, "reason": str(exc)},
        )
        self._lost(spans, "damaged_payload")

    def _add(self, builder: LinkedSpansBuilder, payloads: list[tuple[int, bytes]], *, keep: bool) -> None:
        """keep: all of it in the cache, not only what other ticks need."""
        ledger = self._ledger()
        for batch, data in payloads:
            try:
                block = unpack_payload(data)
            except Damaged as exc:
                self._lose(builder, batch, exc)
            else:
                if keep or ledger.is_asked_for_after(batch, builder.tick):
                    self._cache.put(batch, block)
                builder.add(batch, block)


def _without_spans(number: int, exc: Damaged) -> LinkedSpans:
    """A tick without spans in the place of one of which the decisions are damaged."""
    logger.error("decisions of a tick are damaged; its spans are lost", extra={"tick": number, "reason": str(exc)})
    nothing = Departure(np.zeros(0, np.int64), np.zeros(0, np.uint32), Decisions.zeros(0), SpanLinks.zeros(0))
    return LinkedSpansBuilder(number, nothing).finish()
