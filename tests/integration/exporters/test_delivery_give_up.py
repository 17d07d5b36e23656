"""What is given up: counted span by span, never what the backend took, and the cursor passes it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from bridge.component import TickSummary
from bridge.exporters import Delivery, NotTaken, RetryPolicy

pytestmark = pytest.mark.anyio

SLOW = RetryPolicy(initial_s=3600.0, max_s=3600.0)
FAST = RetryPolicy(initial_s=0.001, max_s=0.002)
WAIT_S = 20


def away() -> NotTaken:
    return NotTaken("away", reason="unavailable")


@asynccontextmanager
async def delivering(store: Any, exporter: Any, counts: Any, retry: RetryPolicy = SLOW) -> AsyncIterator[Delivery]:
    delivery = Delivery(exporter, store, counts.instruments, retry=retry, in_flight=2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(delivery.run, 0)
        with anyio.fail_after(WAIT_S):
            yield delivery
        tasks.cancel_scope.cancel()


async def test_backlog_of_a_dead_backend_is_given_up_exactly(store: Any, exporter: Any, counts: Any) -> None:
    """Ticks that were begun and ticks that were not: every span up to the tick is counted once, and those after it are
    delivered once the backend is back."""
    for tick in range(1, 41):
        store.add(tick, spans=3)
        for position in range(3):
            exporter.script[f"{tick}:{position}"] = [away() for _ in range(99)]
    async with delivering(store, exporter, counts) as delivery:
        await exporter.attempted.wait()
        await anyio.wait_all_tasks_blocked()
        assert await delivery.standing() == TickSummary(40, 120, 1)
        assert await delivery.give_up(30, "quota") == 90
        assert delivery.cursor >= 30
        assert await delivery.standing() == TickSummary(10, 30, 31)
        exporter.script.clear()
        delivery.retry_now()
        await delivery.drained(40)
    assert counts.read("exporter_send_failed_spans") == {"quota": 90}
    assert sum(counts.read("exporter_sent_spans").values()) == 30
    assert sorted(exporter.taken) == sorted(f"{tick}:{position}" for tick in range(31, 41) for position in range(3))


async def test_what_the_backend_takes_meanwhile_is_not_given_up(store: Any, exporter: Any, counts: Any) -> None:
    """A body on its way is waited for; taken, it counts as sent, and the rest of its tick as given up."""
    gate = exporter.gates["1:0"] = anyio.Event()
    exporter.script["1:1"] = [away() for _ in range(99)]
    store.add(1, spans=2)
    async with delivering(store, exporter, counts) as delivery, anyio.create_task_group() as tasks:
        while len(exporter.attempts) < 2:
            await anyio.wait_all_tasks_blocked()
        given_up = []

        async def give_up() -> None:
            given_up.append(await delivery.give_up(1, "operator"))

        tasks.start_soon(give_up)
        await anyio.wait_all_tasks_blocked()
        assert given_up == []
        gate.set()
        await delivery.drained(1)
    assert given_up == [1]
    assert exporter.taken == ["1:0"]
    assert counts.read("exporter_send_failed_spans") == {"operator": 1}
    assert sum(counts.read("exporter_sent_spans").values()) == 1


async def test_delivered_ticks_are_not_given_up(store: Any, exporter: Any, counts: Any) -> None:
    """Of ticks past the cursor those that were delivered beside a backlog count as delivered, and giving up what is
    delivered does nothing."""
    exporter.script["1:0"] = [away() for _ in range(99)]
    for tick in (1, 2, 3):
        store.add(tick, spans=1)
    async with delivering(store, exporter, counts, FAST) as delivery:
        while sorted(exporter.taken) != ["2:0", "3:0"]:
            await anyio.wait_all_tasks_blocked()
        assert delivery.cursor == 0
        assert await delivery.give_up(3, "operator") == 1
        assert delivery.cursor == 3
        assert await delivery.give_up(3, "operator") == 0
    assert counts.read("exporter_send_failed_spans") == {"operator": 1}
