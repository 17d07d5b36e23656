"""Batches and departures of random content for tests of the store, and what makes two of them the same."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bridge.spans import (
    NO_CLOCKS,
    ClockOffsets,
    Context,
    Decisions,
    Departure,
    LinkedSpans,
    Outcome,
    PayloadBlock,
    PayloadFormat,
    RowClocks,
    SpanBatch,
    SpanColumns,
    SpanLinks,
    Table,
)


def random_column(rng: np.random.Generator, dtype: np.dtype[np.generic], n: int) -> NDArray[np.generic]:
    """n values: all equal, close together, or from the dtype's whole range."""
    if dtype.kind == "f":
        return rng.random(n).astype(dtype)
    info = np.iinfo(dtype)
    spread = int(rng.choice([0, 200, 60_000, 2**40, 2**64]))
    low = int(rng.integers(info.min, info.max, dtype=dtype)) if spread < 2**64 else info.min
    return rng.integers(low, min(low + spread, info.max), n, dtype=dtype, endpoint=True)


def random_batch(seed: int, n: int, *, first_offset: int = 0) -> SpanBatch:
    """A batch of n spans; equal seeds, equal batches. Its payload begins at `first_offset` of the block's data."""
    rng = np.random.default_rng(seed)
    dtypes = SpanColumns.dtypes()
    columns = SpanColumns(**{name: random_column(rng, dtype, n) for name, dtype in dtypes.items()})
    return SpanBatch(columns, random_block(rng, n, first_offset=first_offset))


def random_block(rng: np.random.Generator, n: int, *, first_offset: int = 0) -> PayloadBlock:
    """The payload of n spans of 0 to 80 bytes in 0 to 4 contexts."""
    contexts = tuple(
        Context(rng.bytes(int(rng.integers(0, 30))), rng.bytes(int(rng.integers(0, 9)))) for _ in range(1 + n % 4)
    )
    lengths = rng.integers(0, 80, n, dtype=np.int64)
    offsets = np.concatenate(([first_offset], first_offset + np.cumsum(lengths))).astype(np.int64)
    context = rng.integers(0, len(contexts), n, dtype=np.uint32)
    kind = PayloadFormat(int(rng.integers(1, 3)))
    return PayloadBlock(kind, rng.bytes(int(offsets[-1])), offsets, contexts, context)


def departure_of(rows: Sequence[tuple[int, int]], seed: int = 0, outcome: Outcome | None = None) -> Departure:
    """These (batch, row) leave, in this order, with this outcome or any; equal seeds, equal decisions.

    There is a link for every fourth row.
    """
    rng, n = np.random.default_rng(seed), len(rows)
    dtypes = Decisions.dtypes()
    decisions = {name: random_column(rng, dtype, n) for name, dtype in dtypes.items() if name != "outcome"}
    outcomes = list(Outcome) if outcome is None else [outcome]
    decisions["outcome"] = rng.choice(np.array(outcomes, np.uint8), n)
    links = SpanLinks.from_columns(
        n // 4,
        row=np.sort(rng.integers(0, max(n, 1), n // 4)),
        **{name: random_column(rng, np.dtype(np.uint64), n // 4) for name in ("trace_hi", "trace_lo", "span_id")},
    )
    batch, row = np.array([b for b, _ in rows], np.int64), np.array([r for _, r in rows], np.uint32)
    return Departure(batch, row, Decisions(**decisions), links, random_clocks(rng, n))


def random_clocks(rng: np.random.Generator, n: int) -> RowClocks:
    """Of n rows from up to three hosts, some of which were not compared; at times nothing is known."""
    hosts = int(rng.integers(0, 4))
    offsets = ClockOffsets(**{name: random_column(rng, dtype, hosts) for name, dtype in ClockOffsets.dtypes().items()})
    return RowClocks(offsets, rng.integers(0, hosts + 1, n, dtype=np.uint32)) if hosts else NO_CLOCKS


def rows_of(*batches: tuple[int, int]) -> list[tuple[int, int]]:
    """Every row of these (number, spans), in order."""
    return [(number, row) for number, spans in batches for row in range(spans)]


def assert_same_table(found: Table, wanted: Table) -> None:
    """The tables are of one type and hold the same bits."""
    assert type(found) is type(wanted)
    for (name, column), (_, other) in zip(found.items(), wanted.items(), strict=True):
        assert column.tobytes() == other.tobytes(), name


def assert_same_departure(found: Departure, wanted: Departure) -> None:
    """The departures hold the same bits."""
    assert found.batch.tolist() == wanted.batch.tolist()
    assert found.row.tolist() == wanted.row.tolist()
    assert_same_table(found.decisions, wanted.decisions)
    assert_same_table(found.links, wanted.links)
    assert clocks_of(found.clocks, len(found)) == clocks_of(wanted.clocks, len(wanted))


def clocks_of(clocks: RowClocks, rows: int) -> list[tuple[int, ...]]:
    """What is known of the clock of each row; () where nothing is."""
    known = [(), *zip(*(column.tolist() for _, column in clocks.offsets.items()), strict=True)]
    return [known[n] for n in clocks.of_row.tolist()] if clocks.of_row.size else [()] * rows


def block_spans(block: PayloadBlock) -> list[tuple[PayloadFormat, bytes, Context]]:
    """Each span of a block with all that belongs to it."""
    return [(block.format, block.span(i), block.contexts[int(block.context[i])]) for i in range(len(block))]


def linked_payloads(linked: LinkedSpans) -> list[tuple[PayloadFormat, bytes, Context]]:
    """Each linked span with all that belongs to it."""
    spans = [block_spans(block) for block in linked.blocks]
    return [spans[b][r] for b, r in zip(linked.block.tolist(), linked.row.tolist(), strict=True)]


def exported(departure: Departure) -> list[int]:
    """Positions of a departure's rows that are to be exported."""
    return np.flatnonzero(np.isin(departure.decisions.outcome, (Outcome.EXPORT, Outcome.PASS))).tolist()


def first_traces(departure: Departure, most: int) -> list[int]:
    """Positions of the first rows that are to be exported: at most so many, whole traces as far as they fit, and part
    of the first where that alone is larger."""
    rows, ids = exported(departure), departure.decisions
    while len(rows) > most:
        last = (ids.trace_hi[rows[most]], ids.trace_lo[rows[most]])
        end = most
        while end and (ids.trace_hi[rows[end - 1]], ids.trace_lo[rows[end - 1]]) == last:
            end -= 1
        rows = rows[: end or most]
    return rows


def with_traces(departure: Departure, sizes: Sequence[int]) -> Departure:
    """The same departure, its rows in traces of these sizes, one after another; the rest is one more."""
    number = np.searchsorted(np.cumsum(sizes), np.arange(len(departure)), side="right").astype(np.uint64)
    decisions = replace(
        departure.decisions, trace_hi=np.zeros(len(departure), np.uint64), trace_lo=number + np.uint64(1)
    )
    return replace(departure, decisions=decisions)


def assert_linked(
    found: LinkedSpans,
    tick: int,
    departure: Departure,
    batches: dict[int, SpanBatch],
    rows: Sequence[int] | None = None,
) -> None:
    """The linked spans are those of this tick that are to be exported: payload, decisions, links, in order.

    rows: positions of those that are wanted, where not all are."""
    rows = exported(departure) if rows is None else list(rows)
    assert found.tick == tick
    assert linked_payloads(found) == [
        block_spans(batches[int(departure.batch[i])].payload)[int(departure.row[i])] for i in rows
    ]
    assert_same_table(found.decisions, departure.decisions.take(np.array(rows, np.int64)))
    links = departure.links
    kept = [i for i, row in enumerate(links.row.tolist()) if row in rows]
    assert found.links.row.tolist() == [rows.index(int(links.row[i])) for i in kept]
    for name in ("trace_hi", "trace_lo", "span_id"):
        assert getattr(found.links, name).tolist() == getattr(links, name)[kept].tolist()
    known = clocks_of(departure.clocks, len(departure))
    assert clocks_of(found.clocks, len(found)) == [known[i] for i in rows]
