"""The queue in front of the writing task."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from bridge.errors import StoreUnavailable, Throttled
from bridge.store.writer import Writer


class Gate:
    """Performs operations when it is opened; fails those that are exceptions."""

    def __init__(self) -> None:
        self.open = anyio.Event()
        self.begun: list[object] = []

    async def perform(self, operation: object) -> None:
        self.begun.append(operation)
        await self.open.wait()
        if isinstance(operation, Exception):
            raise operation


def writer_of(gate: Gate, max_bytes: int = 100) -> Writer[object]:
    writer: Writer[object] = Writer(gate.perform, max_bytes)
    writer.open = True
    return writer


@asynccontextmanager
async def running(writer: Writer[object], gate: Gate) -> AsyncIterator[None]:
    """The writer's task; when the context ends the gate is open and everything is written."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.run)
        try:
            yield
        finally:
            writer.close()
            gate.open.set()


async def test_operations_are_performed_one_at_a_time_in_order() -> None:
    """The next begins when the one before is done."""
    gate = Gate()
    writer = writer_of(gate)
    first, second = writer.submit("first"), writer.submit("second")
    async with running(writer, gate):
        await anyio.wait_all_tasks_blocked()
        assert gate.begun == ["first"]
        assert not first.done.is_set()
        gate.open.set()
        assert await second.committed() == "second"
        assert gate.begun == ["first", "second"]


async def test_what_is_not_begun_can_be_added_to() -> None:
    """`newest` is the last one in the queue, never the one under way."""
    gate = Gate()
    writer = writer_of(gate)
    async with running(writer, gate):
        writer.submit("first")
        await anyio.wait_all_tasks_blocked()
        assert writer.newest is None
        second = writer.submit("second")
        assert writer.newest is second


async def test_failure_is_its_own_callers_alone() -> None:
    """Each who waits for a failed operation gets an exception of their own; the next operation is performed."""
    gate = Gate()
    gate.open.set()
    writer = writer_of(gate)
    failed, fine = writer.submit(StoreUnavailable("disk full")), writer.submit("fine")
    async with running(writer, gate):
        caught = []
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="disk full") as info:
                await failed.committed()
            caught.append(info.value)
        assert await fine.committed() == "fine"
    assert caught[0] is not caught[1]
    assert caught[0].retry_after_s is not None


async def test_bytes_that_wait_are_bounded() -> None:
    """More is Throttled until a commit made room; what alone is above the bound is admitted when nothing else waits."""
    gate = Gate()
    writer = writer_of(gate, 100)
    writer.admit(1000)
    pending = writer.submit("large")
    writer.add_cost(pending, 90)
    writer.admit(10)
    with pytest.raises(Throttled, match=r"store\.queue_bytes = 100") as info:
        writer.admit(11)
    assert info.value.retry_after_s is not None
    gate.open.set()
    async with running(writer, gate):
        await pending.committed()
        writer.admit(1000)


async def test_closing_writes_what_waits_even_when_cancelled() -> None:
    """What was handed in before is performed; what comes after is refused."""
    gate = Gate()
    writer = writer_of(gate)
    waiting = [writer.submit(i) for i in range(3)]
    with anyio.CancelScope() as scope:
        async with running(writer, gate):
            await anyio.wait_all_tasks_blocked()
            writer.close()
            with pytest.raises(StoreUnavailable, match="closed"):
                writer.submit("late")
            scope.cancel()
    assert gate.begun == [0, 1, 2]
    assert all(pending.error is None for pending in waiting)
