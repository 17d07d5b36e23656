"""Ingest on the real store: committed before it returns, whole or not at all, bounded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from bridge.component import StoredBatch
from bridge.errors import StoreUnavailable, Throttled
from bridge.pipeline.ingest import SMALL_SPANS
from bridge.spans import PayloadFormat, SpanBatch
from bridge.store import SqliteStore
from tests.support.bridge_parts import Parts, espan_batches, ids_of, ordinary_batch, running_parts
from tests.support.stored import random_batch


async def stored(parts: Parts) -> list[StoredBatch]:
    return [batch async for batch in parts.store.recover()]


async def test_a_batch_is_in_the_store_when_consume_returns(tmp_path: Path) -> None:
    """A start after a crash at this moment finds it."""
    batch = espan_batches(3)[0]
    async with running_parts(tmp_path) as parts:
        await parts.ingest.consume(batch)
        (found,) = await stored(parts)
        assert found.columns.span_id.tolist() == batch.columns.span_id.tolist()
        assert found.arrival_ns == parts.clock.now_ns()


async def test_a_batch_whose_sender_gave_up_is_committed_and_linked(tmp_path: Path) -> None:
    """grpc cancels handlers natively: the store must not know more than the linker, nor less."""
    batch = espan_batches(3)[0]
    async with running_parts(tmp_path) as parts:
        async with anyio.create_task_group() as sender:
            sender.start_soon(parts.ingest.consume, batch)
            while not parts.ingest.waiting:
                await anyio.lowlevel.checkpoint()
            sender.cancel_scope.cancel()
        while not (arrivals := parts.ingest.take()):
            await anyio.lowlevel.checkpoint()
        (found,) = await stored(parts)
        assert [a.number for a in arrivals] == [found.number]
        assert len(arrivals[0].columns) == len(found.columns) == len(batch)


async def test_an_empty_batch_needs_no_commit(tmp_path: Path) -> None:
    """Nothing is stored, nothing arrives."""
    batch = espan_batches(1)[0]
    empty = SpanBatch(batch.columns.take(batch.columns.span_id == 0), _no_payload(batch))
    async with running_parts(tmp_path) as parts:
        await parts.ingest.consume(empty)
        assert await stored(parts) == []


def _no_payload(batch: SpanBatch) -> object:
    from bridge.spans import PayloadBlock

    block = batch.payload
    return PayloadBlock(block.format, b"", block.offsets[:1].copy(), block.contexts, block.context[:0].copy())


async def test_beyond_the_bound_senders_are_asked_to_come_again(tmp_path: Path) -> None:
    """Nothing of what is refused is kept; once spans have left, the same batch is taken."""
    first, second = espan_batches(3)[:2]
    async with running_parts(tmp_path, max_waiting_spans=len(first) + 1) as parts:
        await parts.ingest.consume(first)
        with pytest.raises(Throttled, match=r"linker\.max_waiting_spans") as refused:
            await parts.ingest.consume(second)
        assert refused.value.retry_after_s
        assert len(await stored(parts)) == 1
        await parts.tick_after(0, force=True)
        await parts.ingest.consume(second)
        assert len(await stored(parts)) == 2


async def test_a_batch_above_the_bound_is_taken_when_nothing_waits(tmp_path: Path) -> None:
    """It would never fit, however often its sender tried."""
    batch = espan_batches(3)[0]
    async with running_parts(tmp_path, max_waiting_spans=1) as parts:
        await parts.ingest.consume(batch)
        assert parts.ingest.waiting == len(batch)


async def test_what_waits_is_counted_once_from_taking_to_leaving(tmp_path: Path) -> None:
    """While committed, while handed over, while in the linker."""
    batches = espan_batches(4)
    spans = sum(map(len, batches))
    async with running_parts(tmp_path) as parts:
        for batch in batches:
            await parts.ingest.consume(batch)
        assert parts.ingest.waiting == spans
        await parts.drain.tick()
        assert parts.ingest.waiting == spans
        await parts.tick_after(0, force=True)
        assert parts.ingest.waiting == 0
        assert set(await parts.left()) == ids_of(batches)


async def test_a_stopped_ingest_refuses_as_retryable(tmp_path: Path) -> None:
    """Its sender comes again after the restart."""
    async with running_parts(tmp_path) as parts:
        pass
    with pytest.raises(StoreUnavailable):
        await parts.ingest.consume(espan_batches(1)[0])


class FullDisk(SqliteStore):
    """Cannot take batches."""

    async def append(self, batch: SpanBatch, arrival_ns: int) -> int:
        raise StoreUnavailable("disk full", retry_after_s=1.0)


async def test_a_batch_that_cannot_be_committed_is_not_linked_and_its_sender_knows(tmp_path: Path) -> None:
    """And it does not count as waiting any more."""
    async with running_parts(tmp_path, store=FullDisk) as parts:
        with pytest.raises(StoreUnavailable, match="disk full"):
            await parts.ingest.consume(espan_batches(1)[0])
        assert parts.ingest.take() == []
        assert parts.ingest.waiting == 0


async def test_arrivals_are_handed_over_in_order_of_their_number(tmp_path: Path) -> None:
    """Whoever was woken first. Batches this large have a row each."""
    async with running_parts(tmp_path, max_waiting_spans=20 * SMALL_SPANS) as parts:
        async with anyio.create_task_group() as senders:
            for seed in range(10):
                senders.start_soon(parts.ingest.consume, random_batch(seed, SMALL_SPANS + 1))
        numbers = [arrival.number for arrival in parts.ingest.take()]
        assert numbers == sorted(numbers)
        assert len(numbers) == 10


async def test_small_requests_share_a_row(tmp_path: Path) -> None:
    """What comes while others are being committed is stored and handed to the linker together, each span once."""
    async with running_parts(tmp_path) as parts:
        batches = espan_batches(3)
        async with anyio.create_task_group() as senders:
            for batch in batches:
                senders.start_soon(parts.ingest.consume, batch)
        arrivals, found = parts.ingest.take(), await stored(parts)
        assert 1 <= len(arrivals) < len(batches)
        assert [a.number for a in arrivals] == [s.number for s in found]
        for arrival, kept in zip(arrivals, found, strict=True):
            assert arrival.columns.span_id.tolist() == kept.columns.span_id.tolist()
        spans = [i for a in arrivals for i in a.columns.span_id.tolist()]
        assert sorted(spans) == sorted(i for b in batches for i in b.columns.span_id.tolist())


async def test_formats_have_rows_of_their_own(tmp_path: Path) -> None:
    """OTLP spans and points that come at once: a row holds one format."""
    batches = [random_batch(seed, 3) for seed in range(20)]
    formats = {batch.payload.format for batch in batches}
    assert len(formats) == 2
    async with running_parts(tmp_path) as parts:
        async with anyio.create_task_group() as senders:
            for batch in batches:
                senders.start_soon(parts.ingest.consume, batch)
        assert sum(len(a.columns) for a in parts.ingest.take()) == 60
        assert sum(len(s.columns) for s in await stored(parts)) == 60


async def test_what_does_not_fit_beside_others_is_not_kept_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of gathered requests is bounded; the rest goes its own way, and nothing is lost."""
    monkeypatch.setattr("bridge.pipeline.ingest.GATHERED_SPANS", 7)
    async with running_parts(tmp_path) as parts:
        async with anyio.create_task_group() as senders:
            for seed in range(20):
                senders.start_soon(parts.ingest.consume, points(seed, 3))
        arrivals = parts.ingest.take()
        assert max(len(a.columns) for a in arrivals) == 6
        assert sum(len(a.columns) for a in arrivals) == parts.ingest.waiting == 60


class HangingDisk(SqliteStore):
    """Takes its time until it is told to go on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.go_on = anyio.Event()

    async def append(self, batch: SpanBatch, arrival_ns: int) -> int:
        await self.go_on.wait()
        return await super().append(batch, arrival_ns)


async def test_requests_whose_senders_gave_up_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store hangs each sender tries again and again: what waits is bounded in requests, however small."""
    monkeypatch.setattr("bridge.pipeline.ingest.MAX_WRITING", 5)
    async with running_parts(tmp_path, store=HangingDisk) as parts:
        assert isinstance(parts.store, HangingDisk)
        for seed in range(5):
            with anyio.move_on_after(0.01):
                await parts.ingest.consume(points(seed, 1))
        with pytest.raises(Throttled, match="5 requests are waiting for their commit already"):
            await parts.ingest.consume(points(5, 1))
        assert parts.ingest.waiting == 5
        parts.store.go_on.set()
        with anyio.fail_after(20):
            while parts.ingest._writing:
                await anyio.lowlevel.checkpoint()
        await parts.ingest.consume(points(5, 1))
        assert sum(len(arrival.columns) for arrival in parts.ingest.take()) == 6


async def test_senders_whose_requests_failed_together_are_each_told(tmp_path: Path) -> None:
    """With an error of their own, and nothing of them waits."""
    errors: list[StoreUnavailable] = []

    async def send(batch: SpanBatch) -> None:
        with pytest.raises(StoreUnavailable, match="disk full") as refused:
            await parts.ingest.consume(batch)
        errors.append(refused.value)

    async with running_parts(tmp_path, store=FullDisk) as parts:
        async with anyio.create_task_group() as senders:
            for seed in range(5):
                senders.start_soon(send, points(seed, 3))
        assert len(set(map(id, errors))) == 5
        assert {error.retry_after_s for error in errors} == {1.0}
        assert parts.ingest.waiting == 0


def points(seed: int, n: int) -> SpanBatch:
    """A batch of n points of random content."""
    batch = random_batch(seed, n)
    return SpanBatch(batch.columns, replace(batch.payload, format=PayloadFormat.POINT))


async def test_ordinary_spans_are_taken_while_espans_fill_what_may_wait(tmp_path: Path) -> None:
    """They leave at the next tick, so that they have a quarter more; beyond that they are pushed back as well."""
    espans = espan_batches(1)
    waiting = sum(map(len, espans))
    async with running_parts(tmp_path, max_waiting_spans=waiting) as parts:
        for batch in espans:
            await parts.ingest.consume(batch)
        with pytest.raises(Throttled, match="max_waiting_spans"):
            await parts.ingest.consume(espan_batches(1, first=1)[0])
        for _ in range(waiting // 4):
            await parts.ingest.consume(ordinary_batch())
        with pytest.raises(Throttled, match="max_waiting_spans"):
            await parts.ingest.consume(ordinary_batch())
        await parts.drain.tick()
        await parts.ingest.consume(ordinary_batch())
