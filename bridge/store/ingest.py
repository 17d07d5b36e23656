"""The store of an ingest process: it appends to a file of its own, which the bridge's process reads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from bridge.errors import ConfigError, StoreUnavailable
from bridge.store.cache import PayloadCache
from bridge.store.committing import CommittingStore
from bridge.store.database import Database
from bridge.store.dropping import Drop
from bridge.store.ledger import Due, Ledger
from bridge.store.numbers import before_first, file_of
from bridge.store.packing import Damaged
from bridge.store.restart import read_sizes
from bridge.store.space import NO_LIMITS, Limits, Space
from bridge.telemetry import Instruments


class _Numbers(Ledger):
    """Counts batches, and keeps no account of them: the bridge's process does."""

    def appended(self, number: int, spans: int) -> list[int]:
        """A batch is stored; nobody here knows when its payload may go."""
        self.last_batch = max(self.last_batch, number)
        return []


class IngestStore(CommittingStore):
    """A `BatchStore` in the folder of a store whose lock the process was given by the bridge's own process.

    Nobody else writes to its file while it runs. Batches and payloads go when it is told so.
    """

    def __init__(
        self,
        folder: Path,
        writer: int,
        *,
        after: int,
        synchronous: Literal["full", "normal"],
        queue_bytes: int,
        limits: Limits = NO_LIMITS,
        files: int = 1,
        instruments: Instruments,
    ) -> None:
        """writer: its number, from 1 on. after: a number all of its batches were known to be below or at.

        limits: of all files together, of which there are so many; what the others take it is told (`Space`).
        """
        database = Database(file_of(folder, writer), synchronous, limits.log_bytes)
        numbers = _Numbers(max(after, before_first(writer)))
        # beside the bridge's own and this one
        space = Space(limits, files, others=max(0, files - 2), refused=instruments.refuse)
        super().__init__(database, numbers, PayloadCache(0), queue_bytes, space, instruments)
        self._writer_number = writer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Append while the context is open. Raises ConfigError where the file cannot be used."""
        try:
            await self._open()
            async with self._committing():
                yield
        finally:
            await self._database.close()

    async def drop(self, payloads: list[int], batches: list[int]) -> None:
        """Drop payloads and whole batches by number; those that are gone already do not matter."""
        await self._commit(Drop(Due(payloads, batches, [])))

    async def _open(self) -> None:
        try:
            await self._database.open()
            last = (await read_sizes(self._database, self._writer_number)).last
        except (Damaged, StoreUnavailable) as exc:
            raise ConfigError(f"inputs.ebpftrace.db_path: cannot read {self._database.path}: {exc}") from exc
        self._ledger.last_batch = max(self._ledger.last_batch, last)
