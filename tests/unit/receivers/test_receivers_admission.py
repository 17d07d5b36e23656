"""Admission: bytes in flight are bounded, requests are counted until they leave."""

import asyncio
import threading

import anyio
import anyio.lowlevel
import pytest

from bridge.errors import RetryableError, Throttled
from bridge.receivers.admission import Admission
from bridge.receivers.refusals import Refused


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


class TenBytes:
    """Memory that several listeners share."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, size: int, *, alone: bool) -> None:
        if not alone and self.taken + size > 10:
            raise Throttled("full")
        self.taken += size

    def give(self, size: int) -> None:
        self.taken -= size


def test_listeners_share_memory() -> None:
    """What one has the other does not; all of it is given back by whoever leaves, and nothing by who was refused."""
    memory = TenBytes()
    one, other = Admission(10, memory), Admission(10, memory)
    first, second = one.enter(), other.enter()
    first.take(6)
    second.take(3)
    refused = other.enter()
    with pytest.raises(Throttled, match="full"):
        refused.take(2)
    refused.close()
    assert (memory.taken, other.in_flight_bytes) == (9, 3)
    first.close()
    second.take(5)
    second.close()
    assert memory.taken == 0


async def test_take_by_sees_memory_that_another_listener_gave_back() -> None:
    """Nobody leaves its own listener meanwhile."""
    memory = TenBytes()
    one, other = Admission(10, memory), Admission(10, memory)
    first = one.enter()
    first.take(9)
    busy, waits = other.enter(), other.enter()
    busy.take(1)
    async with anyio.create_task_group() as group:
        group.start_soon(waits.take_by, 4, anyio.current_time() + 20)
        await anyio.lowlevel.checkpoint()
        first.close()
    assert memory.taken == 5


def test_requests_are_bounded_however_small() -> None:
    """One more than may be is Throttled; one that leaves makes room."""
    admission = Admission(10, max_requests=2)
    first, _ = admission.enter(), admission.enter()
    with pytest.raises(Throttled, match="max_concurrent_requests = 2"):
        admission.enter()
    first.close()
    admission.enter()


async def test_enter_by_waits_for_room_and_no_longer_than_it_may() -> None:
    """It gets in when another request has left, and gives up at its deadline, or once nobody is let in any more."""
    admission = Admission(10, max_requests=1)
    inside = admission.enter()
    with pytest.raises(Throttled):
        await admission.enter_by(anyio.current_time())
    entered: list[bool] = []

    async def enter() -> None:
        with await admission.enter_by(anyio.current_time() + 10):
            entered.append(True)
            with pytest.raises(RetryableError, match="stopping"):
                await admission.enter_by(anyio.current_time() + 1000)

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        await anyio.lowlevel.checkpoint()
        assert not entered
        inside.close()
        while not entered:
            await anyio.lowlevel.checkpoint()
        admission.close()
    assert entered == [True]


async def test_work_ends_with_what_it_was_ended_with() -> None:
    """Or, where it takes longer than it may, with a refusal that says when to come again."""
    admission = Admission(10)
    with admission.enter() as lease, pytest.raises(Throttled, match="too slow"):
        lease.end(Throttled("too slow"))
        await lease.run(anyio.sleep_forever(), 1000)
    with admission.enter() as lease, pytest.raises(Refused, match="request_timeout") as refused:
        await lease.run(anyio.sleep_forever(), 0.01)
    assert refused.value.refusal.retry_after_s == 1.0


async def test_work_ends_although_it_was_just_giving_up_a_wait_of_its_own() -> None:
    """What waits for room looks again now and then; told to stop at such a moment, it does."""
    admission = Admission(10)

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:
            loop.call_soon(scope.cancel)
            loop.call_soon(lease.cancel)
            await anyio.sleep_forever()
        await anyio.sleep_forever()

    with admission.enter() as lease, anyio.fail_after(20), pytest.raises(RetryableError, match="stopping"):
        await lease.run(wait(), 1000)


async def test_work_in_a_thread_is_waited_for() -> None:
    """Its bytes are in use until then, and its place among the threads."""
    admission, ends = Admission(10), threading.Event()
    with admission.enter() as lease, anyio.fail_after(20):
        asyncio.get_running_loop().call_later(0.01, lease.cancel)
        asyncio.get_running_loop().call_later(0.05, ends.set)
        assert await lease.run(anyio.to_thread.run_sync(ends.wait), 1000)


async def test_each_request_has_a_time_of_its_own() -> None:
    """All that have a limit end at it, however these are ordered; one without goes on until it is told to stop."""
    admission = Admission(10)
    ended: list[str] = []
    three_ended = anyio.Event()

    async def run(name: str, *within_s: float) -> None:
        with admission.enter() as lease:
            try:
                await lease.run(anyio.sleep_forever(), *within_s)
            except (Refused, RetryableError) as exc:
                ended.append(f"{name} {type(exc).__name__}")
                if len(ended) == 3:
                    three_ended.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for name, *within_s in (("long", 0.3), ("endless",), ("middle", 0.15), ("short", 0.01)):
                tasks.start_soon(run, name, *within_s)
            await three_ended.wait()
            await admission.drain(0)
    assert sorted(ended[:3]) == ["long Refused", "middle Refused", "short Refused"]
    assert ended[3:] == ["endless RetryableError"]


async def test_a_timer_set_for_one_that_left_serves_those_after_it() -> None:
    """There is one timer for all."""
    admission = Admission(10)
    with admission.enter() as lease:
        await lease.run(anyio.lowlevel.checkpoint(), 0.01)
    with admission.enter() as lease, anyio.fail_after(30), pytest.raises(Refused):
        await lease.run(anyio.sleep_forever(), 0.2)
