"""Who may ask a backend, and when."""

import anyio
import pytest

from bridge.exporters import RetryPolicy
from bridge.exporters.circuit import Attempt, Circuit

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(initial_s=0.001, max_s=3600.0, multiplier=1.0)
NEVER = RetryPolicy(initial_s=3600.0, max_s=3600.0)


async def opened(policy: RetryPolicy) -> Circuit:
    """After one failure."""
    circuit = Circuit(policy)
    circuit.failed(await circuit.permit(), 0, None)
    return circuit


class Asking:
    """Permits that are waited for, in order."""

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.given: list[Attempt] = []
        self._more = anyio.Event()

    async def ask(self) -> None:
        self.given.append(await self.circuit.permit())
        self._more.set()
        self._more = anyio.Event()

    async def has(self, permits: int) -> None:
        while len(self.given) < permits:
            await self._more.wait()


async def test_everybody_may_ask_a_backend_that_takes() -> None:
    """A closed circuit costs nothing and bounds nothing."""
    circuit = Circuit(NEVER)
    attempts = [await circuit.permit() for _ in range(100)]
    assert not any(attempt.probe or attempt.limit_s for attempt in attempts)
    assert not circuit.is_open


async def test_nobody_asks_before_the_time() -> None:
    """After a failure the backend is left alone for a while; `retry_now` ends that."""
    circuit = await opened(NEVER)
    asking = Asking(circuit)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asking.ask)
        await anyio.wait_all_tasks_blocked()
        assert asking.given == []
        assert 1700 < circuit.next_attempt_s <= 3600
        circuit.retry_now()


async def test_a_probe_that_hangs_has_one_beside_it() -> None:
    """Of two probes the first has the time it needs, the second is given up after a while; there is no third one."""
    circuit = await opened(SOON)
    asking = Asking(circuit)
    async with anyio.create_task_group() as tasks:
        for _ in range(9):
            tasks.start_soon(asking.ask)
        await asking.has(2)
        await anyio.wait_all_tasks_blocked()
        assert [(attempt.probe, attempt.limit_s) for attempt in asking.given] == [(True, None), (True, 3600.0)]
        circuit.failed(asking.given[1], 0, None)
        await asking.has(3)
        assert asking.given[2].limit_s == 3600.0
        # one answer, and all the others may go
        assert circuit.answered(asking.given[0])
    assert len(asking.given) == 9
    assert not circuit.is_open


async def test_failures_at_once_count_as_one() -> None:
    """What was under way when the backend went away says the same thing once more."""
    circuit = Circuit(RetryPolicy(initial_s=0.01, multiplier=100.0, max_s=3600.0))
    for attempt in [await circuit.permit() for _ in range(4)]:
        assert circuit.failed(attempt, 0, None)
    assert circuit.next_attempt_s <= 0.01


async def test_waits_grow_with_each_probe() -> None:
    """The longer the backend is away the less often it is asked, up to the maximum."""
    circuit = await opened(RetryPolicy(initial_s=0.001, multiplier=10.0, max_s=3600.0, jitter=0.0))
    circuit.failed(await circuit.permit(), 0, None)
    circuit.failed(await circuit.permit(), 0, None)
    await circuit.permit()
    assert 0.05 < circuit.next_attempt_s <= 0.1


@pytest.mark.parametrize("others_taken", [0, 5])
async def test_a_time_the_backend_named_binds_everybody(others_taken: int) -> None:
    """Whoever was told, and even if the backend took others meanwhile; answers to earlier questions end it not."""
    circuit = Circuit(SOON)
    early = [await circuit.permit() for _ in range(2 + others_taken)]
    for attempt in early[2:]:
        circuit.answered(attempt)
    circuit.failed(early[0], 0, 1000.0)
    assert not circuit.answered(early[1])
    assert circuit.is_open
    assert 999 < circuit.next_attempt_s <= 1100


async def test_an_older_probe_does_not_end_a_time_the_backend_named() -> None:
    """It was asked before the backend wanted to be left alone; one that is asked after that does."""
    circuit = await opened(SOON)
    older, newer = await circuit.permit(), await circuit.permit()
    circuit.failed(newer, 0, 1000.0)
    assert not circuit.answered(older)
    assert circuit.is_open
    assert circuit.next_attempt_s > 999
    circuit.retry_now()
    assert circuit.answered(await circuit.permit())


async def test_a_shorter_time_does_not_end_a_longer_one() -> None:
    """Of several times the backend named the latest counts."""
    circuit = Circuit(SOON)
    first, second = await circuit.permit(), await circuit.permit()
    circuit.failed(first, 0, 1000.0)
    circuit.failed(second, 0, 10.0)
    assert circuit.next_attempt_s > 999


async def test_a_body_that_fails_alone_opens_nothing() -> None:
    """Where others were taken since it was tried before, the backend is not to blame."""
    circuit = Circuit(NEVER)
    alone, other = await circuit.permit(), await circuit.permit()
    circuit.answered(other)
    assert not circuit.failed(alone, alone.taken_before, None)
    assert not circuit.is_open
