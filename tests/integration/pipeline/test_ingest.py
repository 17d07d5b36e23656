"""Ingest on the real store: committed before it returns, whole or not at all, bounded."""

from pathlib import Path

import anyio
import pytest

from bridge.component import StoredBatch
from bridge.errors import StoreUnavailable, Throttled
from bridge.spans import SpanBatch
from bridge.store import SqliteStore
from tests.support.bridge_parts import Parts, espan_batches, ids_of, running_parts


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
    """Whoever was woken first."""
    async with running_parts(tmp_path) as parts:
        async with anyio.create_task_group() as senders:
            for batch in espan_batches(2) + espan_batches(2, first=2):
                senders.start_soon(parts.ingest.consume, batch)
        numbers = [arrival.number for arrival in parts.ingest.take()]
        assert numbers == sorted(numbers)
        assert len(numbers) == 10
