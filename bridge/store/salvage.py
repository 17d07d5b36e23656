"""Takes over what can be read of a damaged database into a new one. The damaged one is renamed, never changed.

SQLite reads rows on sound pages whatever others are like. So each table is read in the order of its numbers, and where
that fails the rows behind the damage are looked for: by their number alone, as the page with it may be sound where what
follows is not, and else by seeking further and further ahead.
"""

import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, func, insert, select
from sqlalchemy.exc import DBAPIError

from bridge.errors import ConfigError
from bridge.store import tables
from bridge.store.database import aside_name, rename_all
from bridge.store.engines import new_file
from bridge.store.log_check import commits_lost, has_broken_head
from bridge.store.operations import UNKNOWN, counts_of
from bridge.store.packing import Damaged
from bridge.store.rows import unpack_counts, unpack_departure

logger = logging.getLogger(__name__)

SAVING, SAVED, COPIES = "-saving", "-saved", ".damaged-batches"
_PAGE: Final = 64
_LAST: Final = (1 << 63) - 1
_NUMBERED: Final = (tables.batches, tables.payloads, tables.ticks)

Row = tuple[Any, ...]


@dataclass(slots=True)
class _Found:
    """What came out of one table."""

    rows: int = 0
    unreadable: list[int] = field(default_factory=list)
    """Numbers of rows that are known to be there."""


def salvage(path: Path, reason: str) -> None:
    """Put a new file with all that can be read in the place of a damaged one, which is renamed.

    Nobody may have either open. Raises ConfigError where there is no room for it; then everything is as it was.
    """
    new = path.with_name(path.name + SAVING)
    remove_all(new)
    try:
        found = _copied(path, new)
    except DBAPIError as exc:
        remove_all(new)
        raise ConfigError(
            f"inputs.ebpftrace.db_path: {path} is damaged ({reason}), and what can be read of it cannot be saved: "
            f"{exc.orig}; make room there"
        ) from exc
    saved = path.with_name(path.name + SAVED)
    new.rename(saved)
    aside = path.with_name(path.name + aside_name())
    rename_all(path, aside)
    saved.rename(path)
    kept = {name: table.rows for name, table in found.items() if name != tables.store.name}
    lost = {f"unreadable_{name}": len(table.unreadable) for name, table in found.items() if table.unreadable}
    logger.error(
        "database is damaged; set aside, and what could be read of it was taken over into a new one",
        extra={"path": str(path), "set_aside": aside.name, "reason": reason, **kept, **lost},
    )


def prepare(path: Path) -> None:
    """Make a file ready to be opened, which nobody may have: finish an earlier salvage, and look at the log.

    SQLite takes a log whose head is broken for none, and overwrites it: what was committed last would go unsaid.
    """
    saved = path.with_name(path.name + SAVED)
    if saved.exists():
        if path.exists():
            rename_all(path, path.with_name(path.name + aside_name()))
        saved.rename(path)
        logger.warning("a database that had been saved is used", extra={"path": str(path)})
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        return
    aside = path.with_name(f"{path.name}{aside_name()}-wal")
    if has_broken_head(log):
        log.rename(aside)
        logger.error(
            "the log of a database is damaged; set aside: what was committed last is only in there",
            extra={"path": str(log), "set_aside": aside.name},
        )
    elif (lost := commits_lost(log)) > 1:  # one may be the write that a power failure cut off
        kept = _copy_of(log, aside)
        logger.error(
            "the log of a database is damaged: what was committed last cannot be read, spans that were acknowledged "
            "among it",
            extra={"path": str(log), "commits": lost, "copy": kept.name if kept else "none: no room"},
        )


def _copy_of(log: Path, aside: Path) -> Path | None:
    """A copy, where there is room for one: SQLite goes on with the part that is sound, and overwrites the rest."""
    try:
        shutil.copyfile(log, aside)
    except OSError:
        aside.unlink(missing_ok=True)
        return None
    return aside


def keep_copies(path: Path, numbers: list[int]) -> None:
    """Copy damaged batches with their payload into a file beside, where they stay; a copy replaces an earlier one.

    A disk that does not take them costs the copies, which is logged, and no more.
    """
    beside = path.with_name(path.name + COPIES)
    try:
        with closing(sqlite3.connect(beside.resolve().as_uri(), uri=True)) as copies, copies:
            copies.execute("ATTACH DATABASE ? AS live", (f"{path.resolve().as_uri()}?mode=ro",))
            for table, key in (("batch", "number"), ("payload", "batch")):
                copies.execute(f"CREATE TABLE IF NOT EXISTS {table} AS SELECT * FROM live.{table} WHERE 0")  # noqa: S608
                for number in numbers:
                    copies.execute(f"DELETE FROM {table} WHERE {key} = ?", (number,))  # noqa: S608
                    copies.execute(f"INSERT INTO {table} SELECT * FROM live.{table} WHERE {key} = ?", (number,))  # noqa: S608
    except sqlite3.Error as exc:
        logger.warning("damaged batches cannot be copied", extra={"path": str(beside), "reason": str(exc)})
    else:
        logger.info("damaged batches are kept beside", extra={"path": str(beside), "batches": numbers})


def remove_all(path: Path) -> None:
    """Remove a file of ours that was never used, and its log."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _copied(old: Path, new: Path) -> dict[str, _Found]:
    """Make the new file; how much of each table is in it."""
    found = {table.name: _Found() for table in tables.metadata.sorted_tables}
    with new_file(new) as target:
        tables.metadata.create_all(target)
        target.execute(insert(tables.store).values(version=tables.STORE_VERSION))
        try:
            with closing(_opened(old)) as source:
                for table in tables.metadata.sorted_tables:
                    if table is not tables.store:
                        found[table.name] = _copy(source, target, table)
                _keep_numbers(source, target, found)
                if not found[tables.cursors.name].rows:
                    # better twice than never: whoever asks begins with the oldest tick there is
                    target.execute(insert(tables.cursors).values(exporter=UNKNOWN, tick=0))
        except sqlite3.DatabaseError as exc:  # not even its first page
            logger.debug("nothing can be read of a damaged database", extra={"reason": str(exc)})
    return found


def _opened(path: Path) -> sqlite3.Connection:
    """The damaged file as it is: without a log it does not change, and with one what is in that counts, too."""
    logged = path.with_name(f"{path.name}-wal").exists()
    source = sqlite3.connect(f"{path.resolve().as_uri()}?{'mode=ro' if logged else 'mode=ro&immutable=1'}", uri=True)
    source.execute("PRAGMA writable_schema = ON")  # else nothing is read of a file that is shorter than it says
    return source


def _copy(source: sqlite3.Connection, target: Connection, table: Table) -> _Found:
    found = _Found()
    try:
        there = {row[1] for row in source.execute(f"PRAGMA table_info({table.name})")}
    except sqlite3.DatabaseError:
        return found
    columns = [column.name for column in table.columns if column.name in there]
    if not columns:
        return found
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT OR IGNORE INTO {table.name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 -- names of ours
    rows = _numbered(source, table, columns, found) if table in _NUMBERED else _all(source, table, columns)
    if table is tables.ticks:
        rows = _counted(rows, columns, found)
    while page := list(islice(rows, _PAGE)):
        target.exec_driver_sql(statement, page)
        found.rows += len(page)
    return found


def _counted(rows: Iterator[Row], columns: list[str], found: _Found) -> Iterator[Row]:
    """Ticks with the counts of their decisions, where these can be read; else with their own, if those can be."""
    for row in rows:
        tick = dict(zip(columns, row, strict=True))
        try:
            tick["counts"] = counts_of(unpack_departure(tick["departure"], tick["version"]))
        except (Damaged, KeyError, TypeError):
            try:
                unpack_counts(tick["counts"])
            except Damaged:
                found.unreadable.append(tick["number"])
                continue
        yield tuple(tick.values())


def _all(source: sqlite3.Connection, table: Table, columns: list[str]) -> Iterator[Row]:
    """Rows of a table without numbers, up to the first that cannot be read."""
    try:
        yield from source.execute(f"SELECT {', '.join(columns)} FROM {table.name}")  # noqa: S608
    except sqlite3.DatabaseError:
        return


def _numbered(source: sqlite3.Connection, table: Table, columns: list[str], found: _Found) -> Iterator[Row]:
    """Rows by number, without those that cannot be read."""
    (key,) = table.primary_key.columns.keys()
    at = columns.index(key)
    query = f"SELECT {', '.join(columns)} FROM {table.name} WHERE {key} > ? ORDER BY {key}"  # noqa: S608 -- names of ours
    after = -_LAST
    while True:
        try:
            for row in source.execute(query, (after,)):
                after = row[at]
                yield row
        except sqlite3.DatabaseError:
            following = _next(source, f"SELECT {key} FROM {table.name}", key, after)  # noqa: S608 -- names of ours
            if following is None:
                return
            # one by one here: the driver reads a row ahead, and drops the one it has where that fails
            if (single := _row(source, query, following)) is not None:
                yield single
            else:
                found.unreadable.append(following)
            after = following
        else:
            return


def _row(source: sqlite3.Connection, query: str, number: int) -> Row | None:
    """The row of this number, None where it cannot be read."""
    try:
        row: Row | None = source.execute(f"{query} LIMIT 1", (number - 1,)).fetchone()
    except sqlite3.DatabaseError:
        return None
    return row


def _next(source: sqlite3.Connection, query: str, key: str, after: int) -> int | None:
    """The first number behind one that can be found, where reading on from it fails; None where there is none."""

    def first_after(number: int) -> int | None:
        row = source.execute(f"{query} WHERE {key} > ? ORDER BY {key} LIMIT 1", (number,)).fetchone()
        return None if row is None else int(row[0])

    low, step = after, 0
    start = max(after, 0)
    while start + step < _LAST:
        try:
            number = first_after(after if not step else start + step)
        except sqlite3.DatabaseError:
            low, step = start + step, max(1, 2 * step)
            continue
        if number is None or not step:
            return number
        high = start + step
        while high - low > 1:  # the damage ends somewhere between what fails and what does not
            middle = (low + high) // 2
            try:
                number = first_after(middle) or number
                high = middle
            except sqlite3.DatabaseError:
                low = middle
        return number
    return None


def _keep_numbers(source: sqlite3.Connection, target: Connection, found: dict[str, _Found]) -> None:
    """Numbers go on behind all that were ever given, as far as anything that is left says so."""
    last = {tables.batches.name: 0, tables.ticks.name: 0}
    try:
        last |= {name: seq for name, seq in source.execute("SELECT name, seq FROM sqlite_sequence") if name in last}
    except sqlite3.DatabaseError:
        logger.debug("numbers are not known; those that are left say how far they went")
    told = [last[tables.batches.name]]
    told += found[tables.batches.name].unreadable + found[tables.payloads.name].unreadable
    for column in (tables.batches.c.number, tables.payloads.c.batch):
        told.append(target.execute(select(func.max(column))).scalar_one() or 0)
    writer = max(told) >> 48
    for (counts,) in target.execute(select(tables.ticks.c.counts)):
        try:
            told += [n for n in unpack_counts(counts)[0].tolist() if n >> 48 == writer]
        except Damaged:
            continue
    ticks = [last[tables.ticks.name], *found[tables.ticks.name].unreadable]
    ticks.append(target.execute(select(func.max(tables.ticks.c.number))).scalar_one() or 0)
    for name, seq in ((tables.batches.name, max(told)), (tables.ticks.name, max(ticks))):
        target.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        target.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, seq))
