"""Commits are shared by those who wait for one."""

import anyio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bridge.telemetry import Instruments
from tests.integration.store.conftest import MakeStore
from tests.support.stored import random_batch

CALLERS = 200


def commits(reader: InMemoryMetricReader) -> int:
    """How often `store_commit_duration` was recorded."""
    data = reader.get_metrics_data()
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    return sum(p.count for m in metrics if m.name == "store_commit_duration" for p in m.data.data_points)


async def test_appends_at_once_share_transactions(make_store: MakeStore) -> None:
    """Many callers at once take a handful of transactions, and each gets the number of its own batch."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    store = make_store(instruments=Instruments(provider.get_meter("test")))
    numbers: dict[int, int] = {}

    async def append(caller: int) -> None:
        numbers[caller] = await store.append(random_batch(caller, 1 + caller % 3), caller)

    async with store.running():
        async with anyio.create_task_group() as tasks:
            for caller in range(CALLERS):
                tasks.start_soon(append, caller)
        found = {stored.number: stored async for stored in store.recover()}
    assert {caller: found[number].arrival_ns for caller, number in numbers.items()} == {i: i for i in range(CALLERS)}
    assert 1 <= commits(reader) <= CALLERS // 20
    provider.shutdown()


async def test_one_after_another_takes_a_transaction_each(make_store: MakeStore) -> None:
    """A caller alone is not made to wait for company."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    store = make_store(instruments=Instruments(provider.get_meter("test")))
    async with store.running():
        for seed in range(5):
            await store.append(random_batch(seed, 1), seed)
    assert commits(reader) == 5
    provider.shutdown()
