"""Requests that are held are taken in the order they came."""

import anyio
import pytest

from bridge.errors import Throttled
from bridge.receivers.datakit.holding import _TURNS, Holding
from bridge.receivers.refusals import Refused

HELD = 5 * _TURNS


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_who_is_held_longest_is_taken_first() -> None:
    """Of those before it all have been taken but for the others that are tried beside it."""
    holding, taken, room = Holding(hold_s=60, max_held=HELD, held=lambda: None), [], 0

    async def hold(number: int) -> None:
        async def attempt() -> None:
            nonlocal room
            if not room:
                raise Throttled("full")
            room -= 1
            taken.append(number)

        await holding.until_taken(attempt, anyio.current_time() + 60)

    async with anyio.create_task_group() as group:
        for number in range(HELD):
            group.start_soon(hold, number)
        while holding.requests < HELD:
            await anyio.lowlevel.checkpoint()
        while len(taken) < HELD:
            room += 1
            while room:
                await anyio.lowlevel.checkpoint()
    assert sorted(taken) == list(range(HELD))
    assert max(number - place for place, number in enumerate(taken)) < _TURNS


async def test_who_never_gets_a_turn_is_refused_at_the_deadline() -> None:
    """Those that have the turns wait on."""
    holding = Holding(hold_s=60, max_held=HELD, held=lambda: None)

    async def attempt() -> None:
        raise Throttled("full")

    async with anyio.create_task_group() as group:
        for _ in range(_TURNS):
            group.start_soon(holding.until_taken, attempt, anyio.current_time() + 60)
        while holding.requests < _TURNS:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(Refused, match="could not be taken within"):
            await holding.until_taken(attempt, anyio.current_time() + 0.01)
        assert holding.requests == _TURNS
        group.cancel_scope.cancel()
    assert holding.requests == 0
