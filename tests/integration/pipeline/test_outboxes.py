"""Outboxes on a real store with real deliveries: what is told of them, what is given up, and what for."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest

from bridge.component import Body
from bridge.errors import Throttled
from bridge.exporters import Delivery, NotTaken, RetryPolicy
from bridge.pipeline import outboxes
from bridge.pipeline.outboxes import LAG_NS, RunningOutboxes, StoppedOutboxes
from bridge.spans import LinkedSpans, Outcome
from bridge.store import Limits, SqliteStore
from bridge.telemetry import Instruments
from tests.support.big_batches import SPANS, big_batch
from tests.support.stored import departure_of, rows_of

QUOTA = 8 << 20
S = 10**9
NOW_NS = 1000 * S
RETRY = RetryPolicy(initial_s=0.01, max_s=0.02)
WAIT_S = 90.0


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests fill in seconds what takes hours."""
    monkeypatch.setattr(outboxes, "LOOK_S", 0.02)


class Backend:
    """An exporter whose backend is there or not; one body a tick, which says which spans it holds."""

    def __init__(self, name: str, there: bool) -> None:
        self.name, self.there = name, there
        self.taken: list[int] = []
        self.ticks: set[int] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    def encode(self, linked: LinkedSpans) -> Iterator[Body]:
        ids = linked.decisions.span_id.astype(np.uint64)
        yield Body(linked.tick.to_bytes(8, "little") + ids.tobytes(), len(linked))

    async def deliver(self, body: Body) -> None:
        if not self.there:
            raise NotTaken("away", reason="unavailable")
        tick, *ids = np.frombuffer(body.data, np.uint64).tolist()
        self.ticks.add(tick)
        self.taken += ids


class Scene:
    """A store near its quota, exporters of which one may be away, and what left."""

    def __init__(self, folder: Path, *backends: Backend) -> None:
        self.instruments = Instruments()
        self.store = SqliteStore(folder, limits=Limits(max_bytes=QUOTA), instruments=self.instruments)
        self.deliveries = [Delivery(b, self.store, self.instruments, retry=RETRY, in_flight=2) for b in backends]
        self.outboxes = RunningOutboxes(self.store, self.deliveries, lambda: self.now_ns)
        self.now_ns = NOW_NS
        self.exported: list[int] = []
        self.pushed_back = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.store.running(), anyio.create_task_group() as tasks:
            cursors = await self.store.register([d.exporter.name for d in self.deliveries])
            for delivery in self.deliveries:
                tasks.start_soon(delivery.run, cursors[delivery.exporter.name])
            with anyio.fail_after(WAIT_S):
                yield
            tasks.cancel_scope.cancel()

    async def tick(self, seed: int) -> int:
        """Take a batch, again until there is room, and let it leave at once; the tick's number."""
        while True:
            try:
                number = await self.store.append(big_batch(seed), 0)
                break
            except Throttled:
                self.pushed_back += 1
                await anyio.sleep(0.01)
        departure = departure_of(rows_of((number, SPANS)), seed, Outcome.EXPORT)
        self.exported += departure.decisions.span_id.tolist()
        tick = await self.store.commit_tick(departure, self.now_ns)
        for delivery in self.deliveries:
            delivery.notify()
        return tick

    async def ticks(self, count: int) -> None:
        """One after the other, all at the same time of the clock."""
        for seed in range(count):
            await self.tick(seed)

    def failed(self) -> dict[tuple[str, str], float]:
        """Spans that were lost, by exporter and reason."""
        taken = self.instruments.failed_spans.take().items()
        return {(dict(key)["exporter"], dict(key)["reason"]): n for key, n in taken if n}


async def test_drop_oldest_gives_up_exactly_what_the_lagging_exporter_did_not_get(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Several times the quota goes through a store of which one exporter is away: the other gets everything, the one
    that lags gets the newest once its backend is back; what it never gets is counted span by span, and told once."""
    dead, sound = Backend("dead", there=False), Backend("sound", there=True)
    scene = Scene(tmp_path / "data", dead, sound)
    async with scene.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(scene.outboxes.keep_within_quota)
        for seed in range(150):
            scene.now_ns += S
            newest = await scene.tick(seed)
            await scene.deliveries[1].drained(newest)
        assert sum(path.stat().st_size for path in (tmp_path / "data").iterdir()) <= QUOTA
        dead.there = True
        scene.deliveries[0].retry_now()
        await scene.deliveries[0].drained(newest)
        tasks.cancel_scope.cancel()
    assert sorted(sound.taken) == sorted(scene.exported)
    failed = scene.failed()
    assert failed == {("dead", "quota"): len(scene.exported) - len(dead.taken)}
    assert failed["dead", "quota"] > 100 * SPANS
    assert set(dead.taken) <= set(scene.exported)
    # older ones besides it had been tried, and were taken before they were given up
    assert set(scene.exported[-SPANS:]) <= set(dead.taken)
    told = [r for r in caplog.records if r.message.startswith("the store is near its quota; exporters that lag")]
    assert [record.levelno for record in told] == [logging.ERROR]
    print(f"{len(scene.exported)} spans left, {len(dead.taken)} reached the exporter that lagged, {failed} given up")


async def test_what_left_just_now_is_not_given_up(tmp_path: Path) -> None:
    """A quota that is too small for what is under way pushes back instead: exporters have some seconds for it."""
    scene = Scene(tmp_path / "data", Backend("dead", there=False))
    async with scene.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(scene.outboxes.keep_within_quota)
        async with anyio.create_task_group() as senders:
            senders.start_soon(scene.ticks, 300)
            while not scene.pushed_back:
                await anyio.wait_all_tasks_blocked()
            senders.cancel_scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert scene.failed() == {}
        scene.now_ns += LAG_NS + 1
        await scene.tick(1)
        assert scene.failed()["dead", "quota"] > 0
        tasks.cancel_scope.cancel()


async def test_status_tells_what_is_undelivered_and_drop_gives_it_up(tmp_path: Path) -> None:
    """Spans, ticks, about how many bytes, age, the last error; an operator may drop what is old, then the rest, of one
    exporter; nothing of the others' is lost, and the room is there again at once."""
    dead, sound = Backend("dead", there=False), Backend("sound", there=True)
    scene = Scene(tmp_path / "data", dead, sound)
    async with scene.running():
        for seed in range(10):
            scene.now_ns += S
            newest = await scene.tick(seed)
        await scene.deliveries[1].drained(newest)
        while not scene.deliveries[0].last_error:
            await anyio.wait_all_tasks_blocked()
        of_dead, of_sound = await scene.outboxes.status()
        assert (of_dead.exporter, of_dead.cursor, of_dead.ticks, of_dead.spans) == ("dead", 0, 10, 10 * SPANS)
        assert 10 * 256 * 1024 <= of_dead.bytes <= 10 * 300 * 1024
        assert of_dead.oldest_age_s == 9
        assert of_dead.last_error == "away"
        assert of_dead.next_attempt_s is not None
        assert (of_sound.exporter, of_sound.cursor, of_sound.ticks, of_sound.spans) == ("sound", newest, 0, 0)
        assert (of_sound.oldest_age_s, of_sound.last_error, of_sound.bytes) == (None, "", 0)
        assert scene.outboxes.oldest_ages_s() == {"dead": 9, "sound": 0}

        assert await scene.outboxes.drop("dead", 5.5) == 4 * SPANS
        assert await scene.outboxes.drop("dead", 5.5) == 0
        used = scene.store.space.used_bytes
        assert await scene.outboxes.drop("dead", None) == 6 * SPANS
        assert scene.store.space.used_bytes < used - 5 * 256 * 1024
        with pytest.raises(LookupError):
            await scene.outboxes.drop("nobody", None)
        with pytest.raises(LookupError):
            await scene.outboxes.retry("nobody")
        assert await scene.outboxes.retry(None) == ["dead", "sound"]
    assert scene.failed() == {("dead", "operator"): 10 * SPANS}
    assert dead.taken == []


async def test_stopped_outboxes_are_those_the_store_has(tmp_path: Path) -> None:
    """Seen and dropped without a bridge; the next one begins behind what was dropped."""
    dead = Backend("dead", there=False)
    scene = Scene(tmp_path / "data", dead)
    async with scene.running():
        for seed in range(3):
            await scene.tick(seed)
    store = SqliteStore(tmp_path / "data", instruments=Instruments())
    async with store.examined():
        stopped = StoppedOutboxes(store)
        (status,) = await stopped.status()
        assert (status.exporter, status.cursor, status.ticks, status.spans) == ("dead", 0, 3, 3 * SPANS)
        assert status.oldest_age_s is not None
        assert await stopped.retry("dead") == []
        assert await stopped.drop("dead", 10**6) == 3 * SPANS
        with pytest.raises(LookupError):
            await stopped.drop("nobody", None)
    scene = Scene(tmp_path / "data", dead)
    dead.there = True
    async with scene.running():
        tick = await scene.tick(9)
        await scene.deliveries[0].drained(tick)
    assert dead.ticks == {tick}
