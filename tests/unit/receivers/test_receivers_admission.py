"""Admission: bytes in flight are bounded, requests are counted until they leave."""

import anyio
import pytest

from bridge.errors import RetryableError, Throttled
from bridge.receivers.admission import Admission


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_bytes_are_bounded_over_all_requests() -> None:
    """What would exceed the limit is Throttled; the limit itself is allowed; a request that leaves makes room."""
    admission = Admission(10)
    first, second = admission.enter(), admission.enter()
    first.take(4)
    second.take(6)
    with pytest.raises(Throttled, match="max_in_flight_bytes = 10"):
        second.take(1)
    first.close()
    second.take(4)
    assert admission.in_flight_bytes == 10


def test_a_request_alone_is_let_in_whatever_its_size() -> None:
    """It would never fit: refusing it as retryable would make its sender try for ever."""
    admission = Admission(10)
    admission.enter().take(11)
    with pytest.raises(Throttled):
        admission.enter().take(1)


def test_closing_a_lease_twice_gives_back_once() -> None:
    """gRPC's callback and a `with` may both close it."""
    admission = Admission(10)
    other = admission.enter()
    other.take(3)
    with admission.enter() as lease:
        lease.take(5)
        lease.close()
    assert (admission.requests, admission.in_flight_bytes) == (1, 3)


def test_nobody_enters_after_close() -> None:
    """A closed admission refuses as retryable, and those inside go on."""
    admission = Admission(10)
    inside = admission.enter()
    admission.close()
    with pytest.raises(RetryableError):
        admission.enter()
    inside.take(5)
    assert admission.requests == 1


async def test_wait_idle_returns_when_the_last_request_left() -> None:
    """At once when there is none, also when new ones came while waiting."""
    admission = Admission(10)
    await admission.wait_idle()
    first = admission.enter()
    left: list[str] = []

    async def leave() -> None:
        second = admission.enter()
        first.close()
        await anyio.lowlevel.checkpoint()
        left.append("second")
        second.close()

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        await admission.wait_idle()
        assert left == ["second"]


async def test_take_by_waits_for_room() -> None:
    """It returns when another request has left, and takes at once where there is room already."""
    admission = Admission(10)
    first, second = admission.enter(), admission.enter()
    await first.take_by(8, anyio.current_time() + 10)

    async def leave() -> None:
        assert admission.in_flight_bytes == 8
        first.close()

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        await second.take_by(5, anyio.current_time() + 10)
    assert admission.in_flight_bytes == 5


async def test_take_by_gives_up_at_the_deadline() -> None:
    """Throttled, and nothing was taken."""
    admission = Admission(10)
    admission.enter().take(8)
    lease = admission.enter()
    with pytest.raises(Throttled):
        await lease.take_by(5, anyio.current_time())
    assert (lease.size, admission.in_flight_bytes) == (0, 8)


async def test_of_requests_that_wait_for_each_other_one_goes_on() -> None:
    """Each holds bytes and wants more: without it all would wait until they give up."""
    admission = Admission(10)
    leases = [admission.enter() for _ in range(3)]
    done: list[int] = []

    async def grow(number: int) -> None:
        leases[number].take(3)
        await leases[number].take_by(5, anyio.current_time() + 10)
        assert admission.in_flight_bytes <= 14  # one at a time goes over the limit
        done.append(number)
        leases[number].close()

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(grow, number)
    assert sorted(done) == [0, 1, 2]
    assert admission.in_flight_bytes == 0
