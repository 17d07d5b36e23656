"""Dropping what is due where it lies in several files, each with one process that writes to it."""

import sqlite3
from dataclasses import dataclass

from bridge.store.ledger import Due, Ledger
from bridge.store.numbers import writer_of
from bridge.store.operations import Forget


@dataclass(slots=True)
class Drop:
    """Drops what it is told to; the ledger hears of all that is gone, from this file and from others before it."""

    here: Due
    everywhere: Due | None = None
    """None where the ledger keeps no account."""

    def prepare(self, ledger: Ledger) -> None:
        """Nothing to make: what is due stays due."""

    def execute(self, driver: sqlite3.Connection) -> None:
        Forget(0, self.here).execute(driver)

    def note(self, ledger: Ledger) -> list[int]:
        if self.everywhere is not None:
            ledger.dropped(self.everywhere)
        return []


def part_of(due: Due, writer: int, ticks: list[int]) -> Due:
    """What of this lies in the file of one writer, beside these ticks."""
    payloads = [number for number in due.payloads if writer_of(number) == writer]
    return Due(payloads, [number for number in due.batches if writer_of(number) == writer], ticks)
