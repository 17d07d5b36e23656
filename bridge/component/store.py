"""What the store promises: batches kept before they are acknowledged, decisions, and a cursor per exporter."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bridge.spans import Decisions, Departure, LinkedSpans, SpanBatch, SpanColumns


@dataclass(frozen=True, slots=True, eq=False)
class StoredBatch:
    """A batch as it is found again after a restart: its columns, and the decisions on those of its rows that left."""

    number: int
    arrival_ns: int
    columns: SpanColumns
    left_rows: NDArray[np.uint32]
    """Shape (k,): positions of the rows that left."""
    left_ns: NDArray[np.int64]
    """Shape (k,): when each left, on the clock of `arrival_ns`."""
    decisions: Decisions
    """k decisions, beside `left_rows`."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A committed batch on its way to the linker."""

    number: int
    arrival_ns: int
    columns: SpanColumns


@dataclass(frozen=True, slots=True)
class TickSummary:
    """What some ticks hold."""

    ticks: int
    spans: int
    """Spans that are to be exported."""
    oldest_ns: int | None
    """When the oldest of the ticks left, on the clock of `arrival_ns`; None without any."""


class BatchStore(Protocol):
    """Keeps batches: all of a store that whoever takes spans in needs. The guarantees are those of `SpanStore`."""

    async def append(self, batch: SpanBatch, arrival_ns: int) -> int:
        """Commit a batch that arrived at this time (ns since the epoch); return its number, larger than any before.

        Raises Throttled while too much waits for its commit, or there is no room for more.
        """
        ...


class SpanStore(BatchStore, Protocol):
    """Keeps batches, decisions and cursors.

    What a method returned from is committed and survives kill -9. Every write is one transaction (of which appends may
    share one), happens in the order of the calls, and is completed by a task the store owns even if its caller is
    cancelled. Writes raise StoreUnavailable when they cannot be committed; then nothing of them is kept, and the same
    call works once the reason has gone. Numbers of batches and ticks grow for ever, whatever is forgotten. What a
    store finds damaged it leaves out and logs as an error; it never deletes it for that.
    """

    def running(self) -> AbstractAsyncContextManager[None]:
        """Own the store while the context is open.

        Raises ConfigError where the path cannot be used, is owned by another bridge or is of a newer version.
        """
        ...

    def recover(self) -> AsyncIterator[StoredBatch]:
        """Every batch whose keys are still kept, in the order in which they arrived."""
        ...

    async def commit_tick(self, departure: Departure, left_ns: int) -> int:
        """Commit the decisions on rows that leave; return the tick's number, larger than any before.

        Raises ValueError where it names a batch that is not stored, or more rows of one than have not left.
        """
        ...

    async def last_tick(self) -> int:
        """Number of the newest tick, 0 when there was none."""
        ...

    async def read_tick(self, number: int) -> LinkedSpans:
        """The rows of a tick that are to be exported, with their payload; in the departure's order.

        Raises LookupError for a tick that does not exist, or that every cursor has passed and whose payload is gone.
        """
        ...

    async def preview_tick(self, number: int, most: int) -> LinkedSpans:
        """What `read_tick` gives, of the first traces only: at most so many spans.

        Raises LookupError for a tick that is not stored, or whose payload is gone or damaged, and counts nothing.
        """
        ...

    async def next_tick(self, after: int) -> int | None:
        """Number of the oldest tick after this one, None when there is none."""
        ...

    async def summary(self, after: int, up_to: int) -> TickSummary:
        """What the ticks after one and up to and including another hold; those that are not stored hold nothing."""
        ...

    async def tick_before(self, left_ns: int, *, after: int) -> int:
        """The newest tick such that it and all between it and `after` left before this time; `after` without any."""
        ...

    async def cursors(self) -> dict[str, int]:
        """The cursor of each registered exporter."""
        ...

    async def register(self, exporters: Sequence[str]) -> dict[str, int]:
        """Cursor of each exporter, created at the newest tick where it is new.

        Cursors of others are forgotten: what those had not delivered is given up, which is logged and counted.
        """
        ...

    async def advance(self, exporter: str, tick: int) -> None:
        """Note that the exporter has delivered every tick up to and including this one; a cursor never goes back.

        Raises ValueError for an exporter that is not registered and for a tick that does not exist yet.
        """
        ...

    async def forget(self, before_ns: int) -> int:
        """Drop what nobody needs any more; return how many batches went.

        Payload goes once all rows of its batch have left and every cursor has passed them; keys and decisions once,
        besides, all rows of the batch left before `before_ns`.
        """
        ...
