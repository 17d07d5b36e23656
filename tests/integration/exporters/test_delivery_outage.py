"""Delivery to a backend that is away, comes back, or takes all but one body."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from bridge.component import Body
from bridge.exporters import Delivery, NotTaken, RetryPolicy
from bridge.spans import LinkedSpans

pytestmark = pytest.mark.anyio

FAST = RetryPolicy(initial_s=0.001, max_s=0.002, max_body_s=0.002)
NEVER = RetryPolicy(initial_s=3600.0, max_s=3600.0)

Deliver = Callable[..., AbstractAsyncContextManager[Delivery]]


class Moody:
    """Takes bodies, one a span, named tick:position, unless it is `away`; some it never takes."""

    name = "moody"

    def __init__(self) -> None:
        self.away = False
        self.answer_s = 0.002
        self.never: set[str] = set()
        self.hangs: set[str] = set()
        self.retry_after_s: float | None = None
        self.settings = False
        self.taken: list[str] = []
        self.attempts: list[str] = []
        self.encoded = 0
        self.at_once = self.most_at_once = 0
        self._answered = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        for position in range(len(linked)):
            self.encoded += 1
            yield Body(f"{linked.tick}:{position}".encode(), 1)

    async def deliver(self, body: Body) -> None:
        key = body.data.decode()
        self.attempts.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(self.answer_s)
            if key in self.hangs:
                await anyio.sleep_forever()
            if self.away or key in self.never:
                raise NotTaken("away", reason="unavailable", retry_after_s=self.retry_after_s, settings=self.settings)
            self.taken.append(key)
        finally:
            self.at_once -= 1
            self._answered.set()
            self._answered = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once this holds after an answer."""
        while not condition():
            await self._answered.wait()

    async def tried(self, times: int) -> None:
        await self.until(lambda: len(self.attempts) >= times)


@pytest.fixture
def moody() -> Moody:
    return Moody()


@pytest.fixture
def deliver(store: Any, moody: Moody, counts: Any) -> Deliver:
    """deliver(...) runs a delivery while its context is open."""

    @asynccontextmanager
    async def running(**options: Any) -> AsyncIterator[Delivery]:
        delivery = Delivery(moody, store, counts.instruments, **{"retry": FAST, **options})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delivery.run, 0)
            with anyio.fail_after(20):
                yield delivery
            tasks.cancel_scope.cancel()

    return running


async def test_a_backend_that_is_away_meets_few_questions(store: Any, moody: Moody, deliver: Deliver) -> None:
    """However much waits, it is asked with one body at a time, two where one has no answer; memory holds no more
    than that and what was under way; when it is back, all goes at once, each body once."""
    moody.away = True
    for tick in range(1, 41):
        store.add(tick, spans=3)
    async with deliver(in_flight=8) as delivery:
        await moody.tried(8 + 8)  # those of before it was known to be away have all been answered
        moody.most_at_once = 0
        await moody.tried(60)
        assert moody.most_at_once <= 2
        assert moody.taken == []
        assert not delivery.up
        assert delivery.next_attempt_s is not None
        assert delivery.parked <= 32
        moody.away, moody.answer_s = False, 0.1
        await delivery.drained(40)
        assert delivery.up
        assert (delivery.parked, delivery.next_attempt_s, delivery.last_error) == (0, None, "")
    assert sorted(moody.taken) == sorted(f"{tick}:{position}" for tick in range(1, 41) for position in range(3))
    assert moody.most_at_once > 2


async def test_memory_is_bounded_however_long_a_backend_is_away(store: Any, moody: Moody, deliver: Deliver) -> None:
    """Bodies are encoded when they are sent, not before: what is tried in vain is encoded again."""
    moody.away = True
    for tick in range(1, 1001):
        store.add(tick, spans=1)
    async with deliver(in_flight=4) as delivery:
        for tried in (50, 300):
            await moody.tried(tried)
            assert moody.encoded <= len(moody.attempts) + 4
            assert delivery.parked <= 32
        assert len(set(moody.attempts)) <= 32 + 4


async def test_waits_end_when_the_backend_takes_a_body(store: Any, moody: Moody, deliver: Deliver) -> None:
    """Nobody waits for a time of his own once one body was taken: an hour is not waited for."""
    moody.away = True
    for tick in range(1, 31):
        store.add(tick, spans=1)
    async with deliver(retry=NEVER, in_flight=4) as delivery:
        await moody.tried(1)
        await anyio.wait_all_tasks_blocked()
        moody.away = False
        delivery.retry_now()
        await delivery.drained(30)
    assert len(moody.attempts) <= 30 + 4


async def test_a_time_the_backend_named_binds_the_whole_exporter(store: Any, moody: Moody, deliver: Deliver) -> None:
    """One 429 with Retry-After, and no other body is sent before; an operator may end that."""
    moody.away, moody.retry_after_s = True, 3600.0
    store.add(1, spans=1)
    async with deliver(in_flight=4) as delivery:
        await moody.tried(1)
        await anyio.wait_all_tasks_blocked()
        for tick in range(2, 20):
            delivery.notify(store.add(tick, spans=2))
        await anyio.wait_all_tasks_blocked()
        assert moody.attempts == ["1:0"]
        assert delivery.next_attempt_s is not None
        assert delivery.next_attempt_s > 3000
        moody.away = False
        delivery.retry_now()
        await delivery.drained(19)


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize("never", [{"1:0"}, {"1:0", "2:1", "3:0", "3:1", "4:0", "50:1"}])
async def test_a_body_that_is_never_taken_holds_up_no_other(
    store: Any, moody: Moody, deliver: Deliver, counts: Any, never: set[str], in_flight: int
) -> None:
    """All others are delivered; it is tried again and again, without an end, and the cursor does not pass it."""
    moody.never = never
    for tick in range(1, 101):
        store.add(tick, spans=2)
    async with deliver(in_flight=in_flight) as delivery:
        await moody.until(lambda: len(moody.taken) == 200 - len(never))
        await moody.until(lambda: all(moody.attempts.count(key) >= 5 for key in never))
        delivery.notify(store.add(101, spans=2))
        await moody.until(lambda: {"101:0", "101:1"} <= set(moody.taken))
        assert delivery.cursor == 0
        assert delivery.parked <= len(never)
        assert delivery.oldest_undelivered == 1
        moody.never = set()
        await delivery.drained(101)
    assert len(moody.taken) == len(set(moody.taken)) == 202
    assert counts.read("exporter_send_failed_spans") == {}


async def test_a_body_that_is_never_taken_is_said_once(
    store: Any, moody: Moody, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    """With its tick, so that an operator can give it up; not each time it is tried."""
    moody.never = {"1:0"}
    store.add(1, spans=1)
    told = 0
    async with deliver() as delivery:
        for tick in range(2, 1000):
            delivery.notify(store.add(tick, spans=1))
            await moody.until(lambda key=f"{tick}:0": key in moody.taken)  # type: ignore[misc]
            if told and moody.attempts.count("1:0") >= told + 4:
                break
            if not told and any(hasattr(record, "tick") for record in caplog.records):
                told = moody.attempts.count("1:0")
        assert told
        assert delivery.last_error == "away"
    ticks = [r.tick for r in caplog.records if r.levelno == logging.WARNING and hasattr(r, "tick")]
    assert ticks == [1]


async def test_a_question_that_hangs_does_not_hide_that_the_backend_is_back(
    store: Any, moody: Moody, deliver: Deliver
) -> None:
    """Another goes beside it, and when that is taken everything else goes too."""
    moody.away = True
    for tick in range(1, 21):
        store.add(tick, spans=1)
    policy = RetryPolicy(initial_s=0.001, multiplier=1.0, max_s=1.0)
    async with deliver(retry=policy, in_flight=4) as delivery:
        await moody.tried(4)
        moody.hangs = set(moody.attempts[:1])
        moody.away = False
        await moody.until(lambda: len(moody.taken) == 20 - len(moody.hangs))
        assert delivery.up


async def test_a_refusal_about_settings_is_an_error_for_a_person(
    store: Any, moody: Moody, deliver: Deliver, counts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost by a wrong token: it is logged as an error, and delivered once the token is right."""
    moody.away = moody.settings = True
    store.add(1, spans=5)
    async with deliver() as delivery:
        await moody.tried(10)
        moody.away = False
        await delivery.drained(1)
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "backend refuses how it is asked; spans are kept until that is set right"
    ]
    assert counts.read("exporter_send_failed_spans") == {}


async def test_a_tick_that_is_gone_is_passed(store: Any, moody: Moody, deliver: Deliver) -> None:
    """What somebody gave up while it waited here is skipped, parked or not."""
    moody.away = True
    for tick in (1, 2, 3):
        store.add(tick, spans=1)
    async with deliver(in_flight=1) as delivery:
        await moody.tried(1)
        gone = {1: store.ticks[1], 2: store.ticks[2]}
        store.gone = set(gone)
        moody.away = False
        await delivery.drained(3)
    assert "3:0" in moody.taken


async def test_a_body_that_is_never_taken_leaves_the_backend_up(store: Any, moody: Moody, deliver: Deliver) -> None:
    """When nothing else is there to be sent either: what comes next does not wait for it."""
    moody.never = {"1:0"}
    for tick in (1, 2):
        store.add(tick, spans=1)
    async with deliver(in_flight=1) as delivery:
        await moody.tried(10)
        assert moody.attempts.count("1:0") >= 8
        assert delivery.up
        assert (delivery.parked, delivery.last_error) == (1, "away")
