"""Delivery: order, retries, the cursor."""

import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from bridge.component import Body
from bridge.exporters import Delivery, NotTaken, Refused, RetryPolicy

pytestmark = pytest.mark.anyio

FAST = RetryPolicy(initial_s=0.001, max_s=0.002)
NEVER = RetryPolicy(initial_s=3600.0, max_s=3600.0)

Deliver = Callable[..., AbstractAsyncContextManager[Delivery]]


def unavailable(retry_after_s: float | None = None) -> NotTaken:
    return NotTaken("busy", reason="unavailable", retry_after_s=retry_after_s)


@pytest.fixture
def deliver(store: Any, exporter: Any, counts: Any) -> Deliver:
    """deliver(cursor=0, ...) runs a delivery while its context is open."""

    @asynccontextmanager
    async def running(cursor: int = 0, exporter: Any = exporter, **options: Any) -> AsyncIterator[Delivery]:
        delivery = Delivery(exporter, store, counts.instruments, **{"retry": FAST, **options})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delivery.run, cursor)
            with anyio.fail_after(20):
                yield delivery
            tasks.cancel_scope.cancel()

    return running


async def test_backlog_is_drained_after_a_start(store: Any, exporter: Any, counts: Any, deliver: Deliver) -> None:
    """Every tick after the cursor is delivered, without being told of it; those up to the cursor are not."""
    for tick in (1, 2, 5):
        store.add(tick)
    async with deliver(cursor=1, in_flight=1) as delivery:
        await delivery.drained(5)
    assert exporter.taken == ["2:0", "2:1", "5:0", "5:1"]
    assert store.cursors[-1] == delivery.cursor == 5
    assert counts.read("exporter_sent_spans") == {"": 4}


async def test_new_ticks_are_delivered_when_told(store: Any, exporter: Any, deliver: Deliver) -> None:
    """notify wakes a delivery that had nothing to do."""
    async with deliver() as delivery:
        await anyio.wait_all_tasks_blocked()
        for tick in (1, 2, 3):
            store.add(tick, spans=1)
            delivery.notify()
            await delivery.drained(tick)
    assert exporter.taken == ["1:0", "2:0", "3:0"]


async def test_nobody_asks_behind_the_body_with_which_all_spans_are_in_one(
    store: Any, exporter: Any, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tick was read into is let go of with its last body, and no thread is asked whether there is another."""
    asked_behind, encode = [], exporter.encode

    def encoded(linked: Any) -> Iterator[Any]:
        yield from encode(linked)
        asked_behind.append(linked.tick)

    monkeypatch.setattr(exporter, "encode", encoded)
    store.add(1, spans=2)
    store.add(2, spans=1)
    async with deliver() as delivery:
        await delivery.drained(2)
    assert exporter.taken == ["1:0", "1:1", "2:0"]
    assert asked_behind == []


class SeenBody(Body):
    """One that can be asked for whether it is still there."""


async def test_a_body_that_was_taken_is_let_go_of(
    store: Any, exporter: Any, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although nothing comes behind it: it is as large as all that is encoded meanwhile."""
    bodies, encode = [], exporter.encode

    def encoded(linked: Any) -> Iterator[Any]:
        for body in encode(linked):
            seen = SeenBody(body.data, body.spans)
            bodies.append(weakref.ref(seen))
            yield seen
            del seen

    monkeypatch.setattr(exporter, "encode", encoded)
    store.add(1, spans=1)
    async with deliver() as delivery:
        await delivery.drained(1)
        assert exporter.taken == ["1:0"]
        with anyio.fail_after(5):
            while any(body() for body in bodies):  # noqa: ASYNC110 -- the thread that encoded it has it for a moment
                await anyio.sleep(0.01)


async def test_tick_without_spans_is_passed(store: Any, deliver: Deliver) -> None:
    """A tick of which nothing is exported moves the cursor like any other."""
    store.add(1, spans=0)
    async with deliver() as delivery:
        await delivery.drained(1)
    assert store.cursors == [1]


async def test_cursor_waits_for_every_tick_before_it(store: Any, exporter: Any, deliver: Deliver) -> None:
    """Later ticks may be delivered while an earlier one is not; the cursor stays before it until it is."""
    exporter.gates["1:0"] = anyio.Event()
    for tick in (1, 2, 3):
        store.add(tick, spans=1)
    async with deliver() as delivery:
        while len(exporter.taken) < 2:
            await anyio.wait_all_tasks_blocked()
        assert store.cursors == []
        assert delivery.oldest_undelivered == 1
        exporter.gates["1:0"].set()
        await delivery.drained(3)
        assert delivery.oldest_undelivered is None
    assert exporter.taken == ["2:0", "3:0", "1:0"]


async def test_bodies_in_flight_are_bounded(store: Any, exporter: Any, deliver: Deliver) -> None:
    """No more than `in_flight` bodies are being delivered at once, over ticks too."""
    gate = anyio.Event()
    for tick in range(1, 6):
        store.add(tick, spans=5)
        exporter.gates.update({f"{tick}:{position}": gate for position in range(5)})
    async with deliver(in_flight=3) as delivery:
        while exporter.at_once < 3:
            await anyio.wait_all_tasks_blocked()
        gate.set()
        await delivery.drained(5)
    assert exporter.most_at_once == 3
    assert len(exporter.taken) == 25


async def test_retryable_failure_is_tried_until_taken(
    store: Any, exporter: Any, counts: Any, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    """However often a body is not taken it is tried again; that is counted and logged as a warning once."""
    store.add(1, spans=1)
    exporter.script["1:0"] = [unavailable() for _ in range(20)]
    async with deliver() as delivery:
        await delivery.drained(1)
        assert delivery.last_error == ""
    assert exporter.attempts == ["1:0"] * 21
    assert counts.read("exporter_retries") == {"unavailable": 20}
    assert counts.read("exporter_send_failed_spans") == {}
    levels = [record.levelno for record in caplog.records if record.name.startswith("bridge")]
    assert levels == [logging.WARNING, logging.WARNING]  # that it fails, and that it works again


async def test_a_backend_that_comes_and_goes_is_said_once(
    store: Any, exporter: Any, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither half of it fills the log."""
    async with deliver() as delivery:
        for tick in range(1, 6):
            exporter.script[f"{tick}:0"] = [unavailable()]
            store.add(tick, spans=1)
            delivery.notify()
            await delivery.drained(tick)
    assert len(exporter.attempts) == 10
    levels = [record.levelno for record in caplog.records if record.name.startswith("bridge")]
    assert levels == [logging.WARNING, logging.WARNING]


async def test_backends_time_comes_before_the_backoff(store: Any, exporter: Any, deliver: Deliver) -> None:
    """A backend that names a time is asked again then, not when the backoff says."""
    store.add(1, spans=1)
    exporter.script["1:0"] = [unavailable(0.001)]
    async with deliver(retry=NEVER) as delivery:
        await delivery.drained(1)
    assert exporter.taken == ["1:0"]


async def test_permanent_failure_is_counted_and_passed(
    store: Any, exporter: Any, counts: Any, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans that are refused for good are counted by reason and logged once as an error; delivery goes on."""
    store.add(1, spans=3)
    store.add(2, spans=1)
    for body in ("1:0", "1:1"):
        exporter.script[body] = [Refused("bad bytes", reason="invalid_argument")]
    async with deliver() as delivery:
        await delivery.drained(2)
    assert sorted(exporter.taken) == ["1:2", "2:0"]
    assert counts.read("exporter_send_failed_spans") == {"invalid_argument": 2}
    assert counts.read("exporter_sent_spans") == {"": 2}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(record.error, record.exporter) for record in errors] == [("bad bytes", "scripted")]  # type: ignore[attr-defined]


async def test_partial_success_counts_both_parts(store: Any, exporter: Any, counts: Any, deliver: Deliver) -> None:
    """Of a partial success the rejected spans are counted as lost, the others as sent; it is not tried again."""
    store.add(1, spans=2)
    exporter.script["1:0"] = [Refused("no room", reason="partial_success", spans=1)]
    exporter.script["1:1"] = [Refused("only a few", reason="partial_success", spans=0)]
    async with deliver() as delivery:
        await delivery.drained(1)
    assert sorted(exporter.attempts) == ["1:0", "1:1"]
    assert counts.read("exporter_send_failed_spans") == {"partial_success": 1}
    assert counts.read("exporter_sent_spans") == {"": 1}


async def test_more_refused_than_there_was_is_all_of_it(
    store: Any, exporter: Any, counts: Any, deliver: Deliver
) -> None:
    """Whatever number a backend names: what was sent never becomes less."""
    store.add(1, spans=1)
    exporter.script["1:0"] = [Refused("too many", reason="partial_success", spans=1000)]
    async with deliver() as delivery:
        await delivery.drained(1)
    assert counts.read("exporter_send_failed_spans") == {"partial_success": 1}
    assert counts.read("exporter_sent_spans") == {}


async def test_a_defect_of_an_exporter_stops_nobody(
    store: Any, exporter: Any, counts: Any, deliver: Deliver, caplog: pytest.LogCaptureFixture
) -> None:
    """Its spans are tried again, and the log has a traceback."""
    store.add(1, spans=1)
    exporter.script["1:0"] = [ZeroDivisionError("a secret"), ZeroDivisionError("a secret")]
    async with deliver() as delivery:
        await delivery.drained(1)
    assert exporter.attempts == ["1:0"] * 3
    assert counts.read("exporter_retries") == {"internal": 2}
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError]


async def test_unreadable_tick_is_counted_and_passed(store: Any, exporter: Any, counts: Any, deliver: Deliver) -> None:
    """A tick that cannot be encoded does not stop those behind it."""
    exporter.unreadable.add(1)
    store.add(1, spans=3)
    store.add(2, spans=1)
    async with deliver() as delivery:
        await delivery.drained(2)
    assert exporter.taken == ["2:0"]
    assert counts.read("exporter_send_failed_spans") == {"refused": 3}


async def test_interrupted_bodies_are_delivered_after_the_next_start(
    store: Any, exporter: Any, deliver: Deliver
) -> None:
    """What was on its way when the delivery was stopped is delivered again from the cursor."""
    exporter.gates["2:0"] = anyio.Event()
    for tick in (1, 2, 3):
        store.add(tick, spans=1)
    async with deliver() as delivery:
        await delivery.drained(1)
        while "3:0" not in exporter.taken:
            await anyio.wait_all_tasks_blocked()
    assert store.cursors == [1]
    exporter.gates.clear()
    async with deliver(cursor=store.cursors[-1]) as delivery:
        await delivery.drained(3)
    assert sorted(exporter.taken) == ["1:0", "2:0", "3:0", "3:0"]


async def test_new_ticks_are_delivered_beside_a_backlog(store: Any, exporter: Any, deliver: Deliver) -> None:
    """With a long backlog the newest tick does not wait for all of it, and the backlog goes oldest first."""
    for tick in range(1, 101):
        store.add(tick, spans=1)
    async with deliver(in_flight=1) as delivery:
        await delivery.drained(100)
    ticks = [int(body.split(":")[0]) for body in exporter.taken]
    assert ticks.index(100) <= 1
    rest = [tick for tick in ticks if tick != 100]
    assert rest == sorted(rest)
    assert store.cursors == sorted(set(store.cursors))


async def test_ticks_that_pile_up_become_backlog(store: Any, exporter: Any, deliver: Deliver) -> None:
    """After the backend was away, what comes new is delivered at once, beside what piled up; each tick once."""
    exporter.gates["1:0"] = anyio.Event()
    exporter.script["1:0"] = [unavailable()]
    store.add(1, spans=1)
    async with deliver(in_flight=1, fresh_s=0.0) as delivery:
        await exporter.attempted.wait()
        for tick in range(2, 50):
            delivery.notify(store.add(tick, spans=1))
        exporter.gates["1:0"].set()
        await delivery.drained(49)
    ticks = [int(body.split(":")[0]) for body in exporter.taken]
    assert sorted(ticks) == list(range(1, 50))
    assert ticks.index(49) < 5


async def test_one_exporter_does_not_delay_another(store: Any, exporter: Any, deliver: Deliver) -> None:
    """While one backend takes nothing another one's delivery goes on."""
    other = type(exporter)("other")
    other.gates["1:0"] = anyio.Event()
    for tick in range(1, 20):
        store.add(tick, spans=2)
    async with deliver(exporter=other, in_flight=1) as stuck, deliver() as delivery:
        await delivery.drained(19)
        assert stuck.cursor == 0
    assert other.taken == []


@pytest.mark.parametrize("method", ["next_tick", "read_tick", "advance"])
async def test_store_that_cannot_serve_is_asked_again(
    store: Any, exporter: Any, deliver: Deliver, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StoreUnavailable delays a delivery and loses nothing."""
    monkeypatch.setattr("bridge.exporters.delivery.STORE_RETRY_S", 0.001)
    store.add(1, spans=1)
    store.failures[method] = 3
    async with deliver() as delivery:
        await delivery.drained(1)
        assert delivery.last_error == ""
    assert exporter.taken == ["1:0"]
    assert store.cursors == [1]
