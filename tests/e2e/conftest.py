"""What end-to-end tests share: waiting for what comes out."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from tests.support.received import Received, spans_of
from tests.support.sink import Sink

DELIVERED_S = 30.0

Delivered = Callable[[Sink, int], Awaitable[list[Received]]]


@pytest.fixture
def delivered() -> Delivered:
    """Every span a sink has, copies included, once so many different ones are there."""

    async def wait(sink: Sink, spans: int) -> list[Received]:
        with anyio.move_on_after(DELIVERED_S):
            while True:
                sink.arrived.clear()
                if sink.totals().distinct >= spans:
                    return spans_of(sink.bodies)
                await sink.arrived.wait()
        raise AssertionError(f"only {sink.totals().distinct} of {spans} spans came out in {DELIVERED_S:g} s")

    return wait
