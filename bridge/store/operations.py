"""What can be written: each operation is packed in a worker thread, executed in one transaction, and then noted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, delete, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bridge.spans import SCHEMA_VERSION, Departure, SpanBatch
from bridge.store import tables
from bridge.store.cache import PayloadCache
from bridge.store.ledger import Due, Ledger
from bridge.store.rows import DECISIONS_VERSION, pack_columns, pack_counts, pack_departure, pack_payload

Row = dict[str, Any]


class Operation(Protocol):
    """One transaction."""

    threaded: bool
    """Whether `prepare` does enough to be worth a worker thread."""

    def prepare(self, ledger: Ledger) -> None:
        """Make the rows. Nothing else writes meanwhile, so that the ledger stays as it is."""
        ...

    async def execute(self, connection: AsyncConnection) -> None:
        """Write the rows."""
        ...

    def note(self, ledger: Ledger) -> list[int]:
        """Note in the ledger what is now committed; return the batches whose payload nobody needs any more."""
        ...


@dataclass(slots=True)
class Append:
    """Batches of several senders, committed together."""

    cache: PayloadCache
    batches: list[tuple[SpanBatch, int]] = field(default_factory=list)
    """With the time each arrived."""
    first: int = 0
    """Number of the first of them."""
    threaded: bool = True
    _rows: list[Row] = field(default_factory=list)
    _payloads: list[Row] = field(default_factory=list)

    def prepare(self, ledger: Ledger) -> None:
        self.first = ledger.last_batch + 1
        for number, (batch, arrival_ns) in enumerate(self.batches, self.first):
            self._rows.append(
                {
                    "number": number,
                    "arrival_ns": arrival_ns,
                    "spans": len(batch),
                    "schema_version": SCHEMA_VERSION,
                    "columns": pack_columns(batch.columns, SCHEMA_VERSION),
                }
            )
            self._payloads.append({"batch": number, "data": pack_payload(batch.payload)})

    async def execute(self, connection: AsyncConnection) -> None:
        await connection.execute(insert(tables.batches), self._rows)
        await connection.execute(insert(tables.payloads), self._payloads)

    def note(self, ledger: Ledger) -> list[int]:
        passed = []
        for number, (batch, _) in enumerate(self.batches, self.first):
            self.cache.offer(number, batch.payload)
            passed += ledger.appended(number, len(batch))
        return passed


@dataclass(slots=True)
class Tick:
    """The decisions on rows that leave."""

    departure: Departure
    left_ns: int
    number: int = 0
    threaded: bool = True
    _numbers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _row: Row = field(default_factory=dict)

    def prepare(self, ledger: Ledger) -> None:
        """Raises ValueError where more rows of a batch leave than wait in it."""
        self._numbers, self._counts = np.unique(self.departure.batch, return_counts=True)
        ledger.check(self._numbers, self._counts)
        self.number = ledger.last_tick + 1
        self._row = {
            "number": self.number,
            "left_ns": self.left_ns,
            "version": DECISIONS_VERSION,
            "counts": pack_counts(self._numbers, self._counts),
            "departure": pack_departure(self.departure),
        }

    async def execute(self, connection: AsyncConnection) -> None:
        await connection.execute(insert(tables.ticks), self._row)

    def note(self, ledger: Ledger) -> list[int]:
        return ledger.left(self.number, self.left_ns, self._numbers, self._counts)


@dataclass(slots=True)
class Register:
    """The exporters there are from now on."""

    exporters: Sequence[str]
    cursors: Mapping[str, int] = field(default_factory=dict)
    threaded: bool = False

    def prepare(self, ledger: Ledger) -> None:
        self.cursors = {name: ledger.cursors.get(name, ledger.last_tick) for name in self.exporters}

    async def execute(self, connection: AsyncConnection) -> None:
        await connection.execute(delete(tables.cursors))
        if self.cursors:
            rows = [{"exporter": name, "tick": tick} for name, tick in self.cursors.items()]
            await connection.execute(insert(tables.cursors), rows)

    def note(self, ledger: Ledger) -> list[int]:
        return ledger.moved(self.cursors)


@dataclass(slots=True)
class Advance:
    """How far an exporter has delivered; a cursor never goes back."""

    exporter: str
    tick: int
    threaded: bool = False

    def prepare(self, ledger: Ledger) -> None:
        """Raises ValueError for an exporter that is not registered, or a tick that does not exist yet."""
        if self.exporter not in ledger.cursors or self.tick > ledger.last_tick:
            raise ValueError(f"exporter {self.exporter!r} cannot have delivered tick {self.tick}")
        self.tick = max(self.tick, ledger.cursors[self.exporter])

    async def execute(self, connection: AsyncConnection) -> None:
        statement = update(tables.cursors).where(tables.cursors.c.exporter == self.exporter).values(tick=self.tick)
        await connection.execute(statement)

    def note(self, ledger: Ledger) -> list[int]:
        return ledger.moved({**ledger.cursors, self.exporter: self.tick})


_DROPS = {
    "payloads": delete(tables.payloads).where(tables.payloads.c.batch == bindparam("gone")),
    "batches": delete(tables.batches).where(tables.batches.c.number == bindparam("gone")),
    "ticks": delete(tables.ticks).where(tables.ticks.c.number == bindparam("gone")),
}


@dataclass(slots=True)
class Forget:
    """What nobody needs any more."""

    before_ns: int
    due: Due = field(default_factory=lambda: Due([], [], []))
    threaded: bool = False

    def prepare(self, ledger: Ledger) -> None:
        self.due = ledger.due(self.before_ns)

    async def execute(self, connection: AsyncConnection) -> None:
        for kind, statement in _DROPS.items():
            numbers: list[int] = getattr(self.due, kind)
            if numbers:
                await connection.execute(statement, [{"gone": number} for number in numbers])

    def note(self, ledger: Ledger) -> list[int]:
        ledger.dropped(self.due)
        return []
