"""Traces are kept for the page as they leave: from a real store, within a share of the time."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from bridge.config import load
from bridge.pipeline.recent import LOOKED_S, MAX_BEHIND, MIN_WAIT_S, SEEN, UNSEEN, Allowance, RecentReader, Timing
from bridge.pipeline.run import Bridge
from bridge.spans import LinkedSpans, PayloadBlock, SpanBatch
from bridge.store import SqliteStore
from bridge.telemetry.metrics import running_metrics
from bridge.web.traces import RecentTraces, Search
from tests.support.bridge_parts import Parts, espan_batches, ordinary_batch, running_parts
from tests.support.bridge_process import Setup, running
from tests.support.ports import free_ports
from tests.support.senders import simulated

MIB = 1 << 20
LOOK_AGAIN_S = 0.05
WAIT_S = 60.0


class Hours:
    """Time that passes only while a tick is read, and when somebody waits, until the test ends the wait."""

    def __init__(self) -> None:
        self.now_s = self.cpu_s = 1000.0
        self.waits: list[float] = []
        self._waiting, self._over = anyio.Event(), anyio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._waiting.set()
        await self._over.wait()
        self._over = anyio.Event()
        self.now_s += seconds

    async def waits_again(self) -> None:
        """Return once the reader has read, and waits."""
        with anyio.fail_after(WAIT_S):
            await self._waiting.wait()
        self._waiting = anyio.Event()

    def end_wait(self) -> None:
        self._over.set()


class SlowStore(SqliteStore):
    """Reading a tick takes as long as the test says."""

    hours: Hours
    read_s = 0.0
    busy = 1.0
    """How much slower it is for what else the machine does."""

    async def preview_tick(self, number: int, most: int) -> LinkedSpans:
        self.seen.append(number)
        self.hours.now_s += self.read_s * self.busy
        self.hours.cpu_s += self.read_s
        return await super().preview_tick(number, most)

    def begin(self) -> None:
        self.hours, self.seen = Hours(), list[int]()


@dataclass
class Scene:
    """A reader on a real store, of which an exporter takes nothing."""

    parts: Parts
    store: SlowStore
    hours: Hours
    traces: RecentTraces
    reader: RecentReader
    left: "list[int]"
    """Spans that left in each tick."""

    async def leave(self, *batches: SpanBatch) -> None:
        """One more simulated trace, or these batches, leave in a tick."""
        batches = batches or tuple(espan_batches(1, first=len(self.left)))
        for batch in batches:
            await self.parts.ingest.consume(batch)
        await self.parts.tick_after(0, force=True)
        self.left.append(sum(len(batch) for batch in batches))
        self.reader.notify()


@asynccontextmanager
async def reading(folder: Path) -> AsyncIterator[Scene]:
    left: list[int] = []
    async with running_parts(folder, store=SlowStore) as parts, anyio.create_task_group() as tasks:
        store = parts.store
        assert isinstance(store, SlowStore)
        store.begin()
        hours, traces = store.hours, RecentTraces(1000, 64 * MIB)
        timing = Timing(lambda: hours.now_s, parts.clock.now_ns, lambda: hours.now_s, lambda: hours.cpu_s, hours.sleep)
        reader = RecentReader(store, traces, lambda: float(sum(left)), timing)
        tasks.start_soon(reader.run)
        await anyio.wait_all_tasks_blocked()
        yield Scene(parts, store, hours, traces, reader, left)
        tasks.cancel_scope.cancel()


async def test_what_leaves_is_kept_while_no_exporter_takes_it(tmp_path: Path) -> None:
    """Each tick once, in order, linked, and dated by when it left."""
    async with reading(tmp_path) as scene:
        for number in range(3):
            await scene.leave()
            await scene.hours.waits_again()
            scene.hours.end_wait()
            assert len(scene.traces) == number + 1
        ticks = await scene.parts.ticks()
        assert scene.store.seen == [tick.tick for tick in ticks]
        newest, *_ = scene.traces.find(Search(), 1)
        assert {span.span_id for span in newest.spans} == {f"{i:016x}" for i in ticks[-1].decisions.span_id.tolist()}
        assert {span.method for span in newest.spans} > {""}
        assert newest.left_s == pytest.approx(sum([1000.0, *scene.hours.waits[:-1]]))
        assert scene.reader.share_since(0) == 1.0
        assert (await scene.store.cursors())["backend"] == 0


async def test_a_reader_that_is_far_behind_skips_to_the_newest(tmp_path: Path) -> None:
    """What it shows is recent then, and the share says how little that is of all."""
    async with reading(tmp_path) as scene:
        await scene.leave()
        await scene.hours.waits_again()
        for _ in range(MAX_BEHIND + 2):
            await scene.leave()
        scene.hours.end_wait()
        await scene.hours.waits_again()
        assert scene.store.seen == [1, MAX_BEHIND + 3]
        assert len(scene.traces) == 2
        read = scene.left[0] + scene.left[-1]
        assert scene.reader.share_since(0) == pytest.approx(read / sum(scene.left))


@pytest.mark.parametrize("busy", [1.0, 10.0])
@pytest.mark.parametrize("allowed", [UNSEEN, SEEN], ids=["unseen", "seen"])
async def test_reading_takes_its_share_of_the_time_and_no_more(tmp_path: Path, busy: float, allowed: Allowance) -> None:
    """However long a tick takes: so much at once as was saved up in a quiet while, then a hundredth of the time that
    passes while somebody looks, and a fifth of that while nobody does. What other programs on the machine take
    meanwhile is not its own."""
    reads = 12
    async with reading(tmp_path) as scene:
        scene.store.read_s, scene.store.busy = 0.4 * allowed.burst_s, busy
        scene.hours.now_s += 10_000.0
        began_s = scene.hours.now_s
        for _ in range(reads):
            if allowed is SEEN:
                scene.reader.look()
            await scene.leave()
            await scene.hours.waits_again()
            scene.hours.end_wait()
            await anyio.wait_all_tasks_blocked()
        took_s, passed_s = reads * scene.store.read_s, scene.hours.now_s - began_s
    assert took_s <= allowed.burst_s + allowed.share * passed_s
    assert took_s > 0.9 * (allowed.burst_s + allowed.share * passed_s)
    assert scene.hours.waits[:2] == [MIN_WAIT_S] * 2
    last_s = scene.hours.waits[-1] + busy * scene.store.read_s
    assert last_s == pytest.approx(scene.store.read_s / allowed.share, rel=0.05)


async def test_who_comes_to_look_does_not_wait_for_what_was_spent_before(tmp_path: Path) -> None:
    """What is left of the wait is five times as short from then on, and as long as before once he is gone."""
    async with reading(tmp_path) as scene:
        scene.store.read_s = 1.0
        await scene.leave()
        await scene.hours.waits_again()
        debt_s = scene.store.read_s * (1 - UNSEEN.share) - UNSEEN.burst_s
        waited_s = debt_s / UNSEEN.share
        scene.hours.now_s += 10.0
        scene.reader.look()
        await scene.hours.waits_again()
        debt_s -= 10.0 * UNSEEN.share
        assert scene.hours.waits == pytest.approx([waited_s, debt_s / SEEN.share])
        scene.hours.now_s += LOOKED_S
        scene.hours.end_wait()
        await anyio.wait_all_tasks_blocked()
        scene.store.read_s = 10.0
        await scene.leave()
        await scene.hours.waits_again()
        assert scene.hours.waits[-1] > (scene.store.read_s - SEEN.burst_s) / UNSEEN.share - 1.0


async def test_unpacking_for_those_who_look_is_part_of_the_share(tmp_path: Path) -> None:
    """What somebody looks at is unpacked then, which reading is put off for."""
    async with reading(tmp_path) as scene:
        scene.reader.look()
        scene.traces.unpacking.add(1.0)
        await scene.leave()
        await scene.hours.waits_again()
        assert scene.hours.waits == [pytest.approx((1.0 - UNSEEN.burst_s) / SEEN.share)]


async def test_what_is_quick_is_not_held_up(tmp_path: Path) -> None:
    """The least wait is all there is, however many ticks come."""
    async with reading(tmp_path) as scene:
        scene.store.read_s = 0.5 * UNSEEN.share * MIN_WAIT_S
        for _ in range(20):
            await scene.leave()
            await scene.hours.waits_again()
            scene.hours.end_wait()
        assert scene.hours.waits == [MIN_WAIT_S] * 20


async def test_nothing_is_read_while_memory_is_full(tmp_path: Path) -> None:
    """It goes on with what leaves afterwards."""
    async with reading(tmp_path) as scene:
        scene.reader.paused = True
        await scene.leave()
        await scene.hours.waits_again()
        scene.reader.paused = False
        scene.hours.end_wait()
        await scene.leave()
        await scene.hours.waits_again()
        assert scene.store.seen == [2]
        assert scene.reader.share_since(0) == pytest.approx(scene.left[1] / sum(scene.left))


async def test_spans_that_cannot_be_shown_end_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A text that is no UTF-8 may come out of a damaged file: it is told once, and reading goes on."""
    batch = ordinary_batch()
    payload = batch.payload
    assert b"charge" in payload.data
    data = payload.data.replace(b"charge", b"ch\xffrge")
    broken = PayloadBlock(payload.format, data, payload.offsets, payload.contexts, payload.context)
    async with reading(tmp_path) as scene:
        for batches in ((SpanBatch(batch.columns, broken),), (SpanBatch(batch.columns, broken),), ()):
            await scene.leave(*batches)
            await scene.hours.waits_again()
            scene.hours.end_wait()
        assert len(scene.traces) == 1
    assert [record.message for record in caplog.records] == ["the page cannot show some spans"]


async def test_ticks_that_were_delivered_and_forgotten_are_passed_over(tmp_path: Path) -> None:
    """A reader that comes too late finds nothing, which is no error, and goes on with the newest: what lies between was
    forgotten as well."""
    async with reading(tmp_path) as scene:
        await scene.leave()
        await scene.hours.waits_again()
        for _ in range(3):
            await scene.leave()
        await scene.store.advance("backend", 4)
        await scene.store.forget(0)
        await scene.leave()
        scene.hours.end_wait()
        await scene.hours.waits_again()
        scene.hours.end_wait()
        await scene.hours.waits_again()
        assert scene.store.seen == [1, 2, 5]
        assert len(scene.traces) == 2


CONFIG = """
[[inputs.ebpftrace]]
db_path = "{folder}/store"
window = "10ms"
sampling_rate = 1.0
[linker]
tick = "10ms"
[receivers.otlp_grpc]
enabled = false
[receivers.otlp_http]
port = 0
[web]
port = 0
{web}
[exporters.lines]
type = "file"
path = "{folder}/lines.jsonl"
"""


@pytest.mark.parametrize("web", ["keep_traces = 0", "enabled = false", ""])
async def test_what_is_off_reads_nothing(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a page, or without traces on it, no tick is read for it; with them it is."""
    seen: list[int] = []
    real = SqliteStore.preview_tick

    async def counted(store: SqliteStore, number: int, most: int) -> LinkedSpans:
        seen.append(number)
        return await real(store, number, most)

    monkeypatch.setattr(SqliteStore, "preview_tick", counted)
    path = tmp_path / "bridge.toml"
    path.write_text(CONFIG.format(folder=tmp_path, web=web))
    requests, _ = simulated(0, 3, 1_700_000_000 * 10**9)
    with running_metrics("0") as metrics:
        bridge = Bridge(load(path, {}).settings, metrics)
        async with bridge.running() as addresses, aiohttp.ClientSession() as session:
            for request in requests:
                url = f"http://{addresses['otlp_http']}/v1/traces"
                headers = {"content-type": "application/x-protobuf"}
                async with session.post(url, data=request.SerializeToString(), headers=headers) as answer:
                    assert answer.status == 200
            with anyio.fail_after(WAIT_S):
                name = "linker_left_spans_total"
                sent = sum(len(s.spans) for r in requests for g in r.resource_spans for s in g.scope_spans)
                while sum(metrics.samples().get(name, {}).values()) < sent or (not web and not seen):  # noqa: ASYNC110
                    await anyio.sleep(LOOK_AGAIN_S)
            if "web" in addresses:
                async with session.get(f"http://{addresses['web']}/api/services") as answer:
                    told = await answer.json()
                assert (told["share"] > 0) == (not web)
            assert ("web" in addresses) == (web != "enabled = false")
    assert bool(seen) == (not web)


async def test_traces_are_kept_with_several_processes_and_a_backend_that_is_away(tmp_path: Path) -> None:
    """Spans of one trace came in by different processes; the page has them together."""
    count = 8
    requests, truth = simulated(0, count, 1_700_000_000 * 10**9)
    setup = Setup(tmp_path, window="500ms", workers=2).export_to("away", "otlp_grpc", free_ports(1)[0])
    async with running(setup) as bridge:
        for request in requests:
            url = f"http://{bridge.address('otlp_http')}/v1/traces"
            headers = {"content-type": "application/x-protobuf", "connection": "close"}
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, data=request.SerializeToString(), headers=headers) as answer,
            ):
                assert answer.status == 200
        async with aiohttp.ClientSession() as session:
            with anyio.fail_after(WAIT_S):
                while (spans := await told(session, bridge.address("web")))[:2] != (len(truth), len(truth)):  # noqa: ASYNC110
                    await anyio.sleep(LOOK_AGAIN_S)
    found = spans[2]
    assert len(found) == count
    assert all(len(trace["services"]) > 1 for trace in found)


async def told(session: aiohttp.ClientSession, address: str) -> tuple[int, int, list[dict[str, Any]]]:
    """What the page says: spans that came in, whose counters come once a second; spans in kept traces; and these."""
    async with session.get(f"http://{address}/api/traces?limit=500") as answer:
        found = json.loads(await answer.read())["traces"]
    async with session.get(f"http://{address}/api/status") as answer:
        receivers = json.loads(await answer.read())["receivers"]
    return sum(r["spans"] for r in receivers), sum(trace["spans"] for trace in found), found
