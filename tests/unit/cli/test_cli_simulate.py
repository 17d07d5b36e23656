"""How the simulated load is sent: at its rate, and not for ever."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from bridge.cli import simulate
from bridge.cli.simulation import Simulation
from bridge.component import Body


class Slow:
    """A receiver that takes a while over each request."""

    def __init__(self, takes_s: float) -> None:
        self.spans = 0
        self._takes_s = takes_s

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def deliver(self, body: Body) -> None:
        await anyio.sleep(self._takes_s)
        self.spans += body.spans


async def test_a_receiver_that_keeps_up_gets_every_span() -> None:
    """As many as rate and duration say, however few a request may have."""
    receiver = Slow(0)
    load = simulate.Load(rate=4500, duration_s=0.2, batch=2, connections=8)
    tally = await simulate.send(receiver, Simulation(), load, None)
    assert (tally.sent, tally.acknowledged, tally.unsent, receiver.spans) == (900, 900, 0, 900)
    assert tally.elapsed_s >= 0.2


async def test_a_slow_receiver_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be sent within the duration is told as such, and nothing is counted twice."""
    monkeypatch.setattr(simulate, "MOST_LATE_S", 0)
    receiver = Slow(0.01)
    load = simulate.Load(rate=9000, duration_s=0.3, batch=9, connections=4)
    tally = await simulate.send(receiver, Simulation(), load, None)
    assert tally.unsent > 0
    assert tally.sent + tally.unsent == 2700
    assert tally.sent == tally.acknowledged == receiver.spans
    assert json.loads(tally.as_json())["unsent"] == tally.unsent
