"""What can be written: each operation is packed and executed in a worker thread, in one transaction, and then noted."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, delete, insert, select, update

from bridge.spans import SCHEMA_VERSION, Departure, Outcome, SpanBatch
from bridge.store import tables
from bridge.store.cache import PayloadCache
from bridge.store.database import SET_VERSION, sql
from bridge.store.ledger import Due, Ledger
from bridge.store.linked import tally
from bridge.store.packing import Damaged
from bridge.store.rows import (
    DECISIONS_VERSION,
    pack_columns,
    pack_counts,
    pack_departure,
    pack_payload,
    unpack_departure,
)

Row = tuple[Any, ...]
UNKNOWN = ""
"""Cursor of every exporter that has none of its own, in a file whose cursors could not be saved."""


_ADD_BATCH, _ADD_PAYLOAD, _ADD_TICK = (
    sql(insert(tables.batches)),
    sql(insert(tables.payloads)),
    sql(insert(tables.ticks)),
)
_CLEAR_CURSORS, _ADD_CURSOR = sql(delete(tables.cursors)), sql(insert(tables.cursors))
_MOVE_CURSOR = sql(
    update(tables.cursors).where(tables.cursors.c.exporter == bindparam("name")).values(tick=bindparam("to"))
)
_DEPARTURES = sql(
    select(tables.ticks.c.departure, tables.ticks.c.version).where(tables.ticks.c.number > bindparam("after"))
)
_DROPS = {
    "payloads": sql(delete(tables.payloads).where(tables.payloads.c.batch == bindparam("gone"))),
    "batches": sql(delete(tables.batches).where(tables.batches.c.number == bindparam("gone"))),
    "ticks": sql(delete(tables.ticks).where(tables.ticks.c.number == bindparam("gone"))),
}


class Operation(Protocol):
    """One transaction."""

    def prepare(self, ledger: Ledger) -> None:
        """Make the rows. Nothing else writes meanwhile, so that the ledger stays as it is; it is only read."""
        ...

    def execute(self, driver: sqlite3.Connection) -> None:
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
    _rows: list[Row] = field(default_factory=list)
    _payloads: list[Row] = field(default_factory=list)

    def add(self, batch: SpanBatch, arrival_ns: int) -> int:
        """One more batch, before any is prepared; returns its position."""
        self.batches.append((batch, arrival_ns))
        return len(self.batches) - 1

    def prepare(self, ledger: Ledger) -> None:
        self.first = ledger.last_batch + 1
        for number, (batch, arrival_ns) in enumerate(self.batches, self.first):
            packed = pack_columns(batch.columns, SCHEMA_VERSION)
            self._rows.append((number, arrival_ns, len(batch), SCHEMA_VERSION, packed))
            self._payloads.append((number, pack_payload(batch.payload)))

    def execute(self, driver: sqlite3.Connection) -> None:
        driver.executemany(_ADD_BATCH, self._rows)
        driver.executemany(_ADD_PAYLOAD, self._payloads)

    def note(self, ledger: Ledger) -> list[int]:
        passed = []
        for number, (batch, _) in enumerate(self.batches, self.first):
            passed += ledger.appended(number, len(batch))
            self.cache.offer(number, batch.payload, ledger.spans_with_payload)
        return passed


@dataclass(slots=True)
class Tick:
    """The decisions on rows that leave."""

    departure: Departure
    left_ns: int
    number: int = 0
    _numbers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _exported: int = 0
    _row: Row = ()

    def prepare(self, ledger: Ledger) -> None:
        """Raises ValueError where more rows of a batch leave than wait in it."""
        self._numbers, self._counts = tally(self.departure.batch)
        ledger.check(self._numbers, self._counts)
        self.number = ledger.last_tick + 1
        self._exported = exported_in(self.departure)
        counts = pack_counts(self._numbers, self._counts, self._exported)
        self._row = (self.number, self.left_ns, DECISIONS_VERSION, counts, pack_departure(self.departure))

    def execute(self, driver: sqlite3.Connection) -> None:
        driver.execute(_ADD_TICK, self._row)

    def note(self, ledger: Ledger) -> list[int]:
        return ledger.left(self.number, self.left_ns, self._numbers, self._counts, self._exported)


@dataclass(slots=True)
class Register:
    """The exporters there are from now on."""

    exporters: Sequence[str]
    cursors: Mapping[str, int] = field(default_factory=dict)
    given_up: dict[str, int] = field(default_factory=dict)
    """Exporters that are gone, with how many spans they had not delivered; those that had delivered all left out."""
    _gone: Mapping[str, int] = field(default_factory=dict)

    def prepare(self, ledger: Ledger) -> None:
        unknown = ledger.cursors.get(UNKNOWN, ledger.last_tick)
        self.cursors = {name: ledger.cursors.get(name, unknown) for name in self.exporters}
        gone = ledger.cursors.keys() - self.cursors.keys() - {UNKNOWN}
        self._gone = {name: ledger.cursors[name] for name in sorted(gone)}

    def execute(self, driver: sqlite3.Connection) -> None:
        self.given_up = {name: n for name, tick in self._gone.items() if (n := _exported_after(driver, tick))}
        driver.execute(_CLEAR_CURSORS)
        driver.executemany(_ADD_CURSOR, self.cursors.items())

    def note(self, ledger: Ledger) -> list[int]:
        return ledger.moved(self.cursors)


def _exported_after(driver: sqlite3.Connection, tick: int) -> int:
    """How many spans ticks after this one hold for exporters; damaged ticks hold none."""
    spans = 0
    for departure, version in driver.execute(_DEPARTURES, (tick,)):
        try:
            spans += exported_in(unpack_departure(departure, version))
        except Damaged:
            continue
    return spans


def counts_of(departure: Departure) -> bytes:
    """What `pack_counts` makes of rows that leave."""
    return pack_counts(*tally(departure.batch), exported_in(departure))


def exported_in(departure: Departure) -> int:
    """How many of the rows are for exporters."""
    outcome = departure.decisions.outcome
    return int(np.count_nonzero((outcome == Outcome.EXPORT) | (outcome == Outcome.PASS)))


@dataclass(slots=True)
class Advance:
    """How far an exporter has delivered; a cursor never goes back."""

    exporter: str
    tick: int

    def prepare(self, ledger: Ledger) -> None:
        """Raises ValueError for an exporter that is not registered, or a tick that does not exist yet."""
        if self.exporter not in ledger.cursors or self.tick > ledger.last_tick:
            raise ValueError(f"exporter {self.exporter!r} cannot have delivered tick {self.tick}")
        self.tick = max(self.tick, ledger.cursors[self.exporter])

    def execute(self, driver: sqlite3.Connection) -> None:
        driver.execute(_MOVE_CURSOR, (self.tick, self.exporter))

    def note(self, ledger: Ledger) -> list[int]:
        return ledger.moved({**ledger.cursors, self.exporter: self.tick})


@dataclass(slots=True)
class Probe:
    """Writes what is there already, to see whether it can be written."""

    def prepare(self, ledger: Ledger) -> None:
        """Nothing to make."""

    def execute(self, driver: sqlite3.Connection) -> None:
        driver.execute(SET_VERSION, (tables.STORE_VERSION,))

    def note(self, ledger: Ledger) -> list[int]:
        return []


@dataclass(slots=True)
class Forget:
    """What nobody needs any more."""

    before_ns: int
    due: Due = field(default_factory=lambda: Due([], [], []))

    def prepare(self, ledger: Ledger) -> None:
        self.due = ledger.due(self.before_ns)

    def execute(self, driver: sqlite3.Connection) -> None:
        for kind, statement in _DROPS.items():
            numbers: list[int] = getattr(self.due, kind)
            if numbers:
                driver.executemany(statement, [(number,) for number in numbers])

    def note(self, ledger: Ledger) -> list[int]:
        ledger.dropped(self.due)
        return []
