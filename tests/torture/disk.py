"""The store's disk: full, read-only, broken, slow, locked by another program, with damaged files; clocks that jump.

A real bridge, OTLP's own stub and DataKit agents that send all the while. Each scenario does the harm, sees that
senders are asked to come again and that /readyz says why, undoes it, and sees the service resume by itself with
nothing lost of what was acknowledged. Disks are mounted where that is permitted; what cannot be had for real comes from
a library loaded before libc (tests/support/faults.c). Scenarios that a machine cannot run are told in the figures.

Options: cycles=N (1, long: 5), only=name,name.
"""

import errno
import random
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import anyio
import psutil

from tests.support.bridge_process import Bridge, Setup, started
from tests.support.faults import Faults, NoCompiler, faults
from tests.support.ports import free_ports
from tests.support.sink import Sink, running_sink
from tests.support.small_disk import NotPermitted, SmallDisk, small_disk
from tests.support.steady_load import SteadyLoad

AGENTS = '\n[receivers.datakit]\nhost = "127.0.0.1"\nport = {port}\n'
WAIT_S = 60.0
PAGE = 16384
UNABLE = "nothing can be committed; senders are told to try again"
ABLE = "commits work again"
AGAIN = "the store is damaged; the bridge starts again with what could be read of it"


@dataclass
class Scene:
    """A bridge under load."""

    folder: Path
    sink: Sink
    load: SteadyLoad
    setup: Setup
    faults: Faults | None = None
    disk: SmallDisk | None = None
    bridge: Bridge | None = None
    figures: dict[str, object] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        """Its db_path."""
        return self.setup.db_path or self.folder / "store"

    @property
    def running(self) -> Bridge:
        assert self.bridge is not None
        return self.bridge

    @property
    def shim(self) -> Faults:
        assert self.faults is not None
        return self.faults

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Bridge]:
        """A bridge that is ready."""
        variables = self.faults.variables if self.faults else {}
        async with started(self.setup.write(), variables=variables) as self.bridge:
            await self.bridge.ready()
            yield self.bridge

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        """Senders at the bridge, some of whose spans were acknowledged."""
        bridge = self.running
        async with self.load.sending(bridge.address("otlp_grpc"), bridge.address("datakit")):
            await self.more(1000)
            yield

    async def more(self, spans: int = 500) -> None:
        """Return once so many more were acknowledged."""
        with anyio.fail_after(WAIT_S):
            await self.load.more(spans)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the bridge."""
        url = f"http://{self.running.address('web')}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def says(self, text: str) -> None:
        """Return once /readyz says that spans cannot be taken, and why; the process answers all the while."""
        with anyio.fail_after(WAIT_S):
            while True:
                status, said = await self.get("/readyz")
                assert (await self.get("/healthz"))[0] == 200
                if status == 503 and text in said and str(self.store) in said:
                    return
                await anyio.sleep(0.05)

    async def able(self) -> None:
        """Return once /readyz says so."""
        with anyio.fail_after(WAIT_S):
            while True:
                if (await self.get("/readyz"))[0] == 200:
                    return
                await anyio.sleep(0.05)

    async def delivered(self) -> None:
        """Every acknowledged span came out."""
        lost = await self.load.delivered(self.sink, WAIT_S)
        assert lost == 0, (
            f"{lost} of {self.load.acknowledged} acknowledged spans did not come out: {self.sink.totals()}"
        )

    def told(self, cycles: int) -> None:
        """Each process said once a time that it cannot commit, and once that it can again; senders were told why."""
        for worker in {event.get("worker") for event in self.running.log if event["message"] == UNABLE}:
            said = [event["message"] for event in self.running.log if event.get("worker") == worker]
            assert said.count(UNABLE) == said.count(ABLE) <= cycles, self.running.log
        assert self.running.messages().count(UNABLE) >= cycles
        assert not self.load.lasting, self.load.lasting


Scenario = Callable[[Scene, int], Awaitable[None]]


@dataclass(frozen=True)
class Harm:
    """Something that keeps the store from committing, how it is undone, and what senders are told meanwhile."""

    do: Callable[[], object]
    undo: Callable[[], object]
    text: str
    stay_s: float = 1.0


async def _harmed(scene: Scene, harms: Sequence[Harm]) -> None:
    """Each under load, one after another."""
    waits = []
    async with scene.started() as bridge:
        async with scene.loaded():
            for harm in harms:
                scene.load.refusals.clear()
                harm.do()
                await scene.says(harm.text)
                with anyio.fail_after(WAIT_S):
                    await scene.load.refused(harm.text)
                await anyio.sleep(harm.stay_s)
                harm.undo()
                at = time.monotonic()
                await scene.more()
                waits.append(time.monotonic() - at)
                await scene.able()
        await scene.delivered()
        scene.told(len(harms))
        assert await bridge.stop() == 0
    scene.figures["resumed_after_s"] = round(max(waits), 2)


async def disk_full(scene: Scene, cycles: int) -> None:
    """Somebody else's file fills the disk of the store."""
    assert scene.disk is not None
    await _harmed(scene, [Harm(scene.disk.fill, scene.disk.make_room, "full")] * cycles)


async def filled_by_itself(scene: Scene, cycles: int) -> None:
    """A backend that is away makes the store fill its disk: spans are refused before there is no way out of it.

    Once the backend is back what is stored leaves, and then there is room, although no byte of the disk was given back
    by anybody.
    """
    assert scene.disk is not None
    scene.load.pause_s = 0.0
    scene.sink.always("unavailable")
    async with scene.started() as bridge:
        async with scene.loaded():
            with anyio.fail_after(WAIT_S):
                await scene.load.refused("full")
            await scene.says("full")
            left = scene.disk.free_bytes
            assert left > 0, "not a byte is left to let go what is stored"
            stored = scene.load.acknowledged
            scene.sink.always("ok")
            at = time.monotonic()
            await scene.more(2000)
            scene.figures["resumed_after_s"] = round(time.monotonic() - at, 2)
        await scene.delivered()
        assert await bridge.stop() == 0
    scene.figures |= {"stored_spans": stored, "free_bytes_when_full": left}


async def full_at_start(scene: Scene, cycles: int) -> None:
    """A start without room ends with a text that names path and cause; the next one, with room, finds everything."""
    assert scene.disk is not None
    scene.setup.window = "2s"
    async with scene.started() as bridge:
        async with scene.loaded():
            await scene.more()
        await bridge.kill()
    scene.disk.fill()
    async with started(scene.setup.write()) as bridge:
        code = await bridge.ended()
        assert code == 2, (code, bridge.log, bridge.text)
        assert "inputs.ebpftrace.db_path: cannot use" in bridge.text, bridge.text
        assert str(scene.store) in bridge.text
        assert "Traceback" not in bridge.text
        scene.figures["said"] = bridge.text.strip().replace(str(scene.folder), "")
    scene.disk.make_room()
    async with scene.started() as bridge:
        await scene.delivered()
        assert await bridge.stop() == 0


async def refusals(scene: Scene, cycles: int) -> None:
    """A file system the kernel made read-only; EIO on writes; EIO on fsync, after which nobody may be acknowledged."""
    shim = scene.shim
    harms = [
        Harm(
            lambda: shim.set(write_errno=errno.EROFS, open_errno=errno.EROFS),
            lambda: shim.set(write_errno=0, open_errno=0),
            "disk I/O error",
        ),
        Harm(lambda: shim.set(write_errno=errno.EIO), lambda: shim.set(write_errno=0), "disk I/O error"),
        Harm(lambda: shim.set(sync_errno=errno.EIO), lambda: shim.set(sync_errno=0), "disk I/O error"),
    ]
    await _harmed(scene, harms * cycles)


async def locked(scene: Scene, cycles: int) -> None:
    """Another program has the database locked for longer than anybody waits for it."""
    other: list[sqlite3.Connection] = []

    def lock() -> None:
        other.append(sqlite3.connect(scene.store / "espan.db", isolation_level=None, timeout=30))
        other[-1].execute("BEGIN EXCLUSIVE")

    await _harmed(scene, [Harm(lock, lambda: other.pop().close(), "locked", 30.0 if cycles > 1 else 1.0)] * cycles)


async def slow_sync(scene: Scene, cycles: int) -> None:
    """A second for each fsync: senders wait or are pushed back, memory stays, and the process answers."""
    scene.load.pause_s = 0.0
    async with scene.started() as bridge:
        async with scene.loaded():
            before = scene.load.acknowledged
            memory = psutil.Process(bridge.pid).memory_info().rss
            scene.shim.set(sync_delay_us=1_000_000)
            slowest = 0.0
            end = time.monotonic() + 5 * cycles
            while time.monotonic() < end:
                at = time.monotonic()
                assert (await scene.get("/healthz"))[0] == 200
                slowest = max(slowest, time.monotonic() - at)
                await anyio.sleep(0.1)
            taken = scene.load.acknowledged - before
            grown = psutil.Process(bridge.pid).memory_info().rss - memory
            assert taken > 0, "nothing was taken"
            assert slowest < 1.0, f"/healthz took {slowest:.2f} s"
            assert grown < 150 << 20, f"memory grew by {grown} bytes"
            scene.shim.set(sync_delay_us=0)
            await scene.more(2000)
        await scene.delivered()
        assert not scene.load.lasting, scene.load.lasting
        assert await bridge.stop() == 0
    scene.figures |= {"taken": taken, "slowest_healthz_s": round(slowest, 3), "grown_mib": grown >> 20}


# --- damaged files ---------------------------------------------------------------------------------------------------


def _break_pages(path: Path, share: float, seed: int) -> int:
    """Copy the log over, then overwrite some pages, never the first, always that which every write needs; how many.

    A write of ours goes with it, after which no connection trusts the pages it has in memory.
    """
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE espan_store SET version = version")
        draw = random.Random(seed)
        pages = path.stat().st_size // PAGE
        chosen = [page for page in range(1, pages) if page == 1 or draw.random() < share]
        with path.open("r+b") as file:
            for page in chosen:
                file.seek(page * PAGE)
                file.write(draw.randbytes(PAGE))
        connection.execute("COMMIT")
    return len(chosen)


async def broken_under_it(scene: Scene, cycles: int) -> None:
    """Pages are overwritten while the bridge runs: it saves what can be read, and goes on by itself."""
    workers = scene.setup.workers
    pattern = "ingest-?.db" if workers > 1 else "espan.db"
    waits, broken = [], 0
    async with scene.started() as bridge:
        async with scene.loaded():
            for cycle in range(cycles):
                await scene.more(2000)
                for path in scene.store.glob(pattern):
                    broken += _break_pages(path, 0.3, cycle)
                at = time.monotonic()
                await bridge.logged(AGAIN, cycle + 1)
                await bridge.logged("ready", cycle + 2)
                await scene.able()
                waits.append(time.monotonic() - at)
                scene.load.spans.clear()
                scene.load.points.clear()
                await scene.more(1000)
        await scene.delivered()
        assert await bridge.stop() == 0
    aside = [path for path in scene.store.glob(f"{pattern}.damaged-*") if not path.name.endswith(("-wal", "-shm"))]
    assert len(aside) >= cycles, aside
    saved = [e for e in bridge.log if e["message"].startswith("database is damaged")]
    scene.figures |= {"broken_pages": broken, "noticed_and_resumed_after_s": round(max(waits), 2)}
    scene.figures |= {k: v for k, v in saved[-1].items() if k in ("batch", "payload", "tick") or "unreadable" in k}


async def broken_at_start(scene: Scene, cycles: int) -> None:
    """Some pages are garbage at a start after kill -9: all other rows are taken over and delivered."""
    scene.setup.window = "30s"
    async with scene.started() as bridge:
        async with scene.loaded():
            await scene.more(5000)
        await bridge.kill()
    acknowledged = scene.load.acknowledged
    path = scene.store / "espan.db"
    broken = _break_pages(path, 0.05, 1)
    scene.setup.window = "1s"
    async with scene.started() as bridge:
        with anyio.fail_after(WAIT_S):
            while True:
                came = scene.sink.totals().distinct
                await anyio.sleep(3)
                if came and came == scene.sink.totals().distinct:
                    break
        async with scene.loaded():
            await scene.more(500)
        assert await bridge.stop() == 0
    assert came > acknowledged // 2, f"only {came} of {acknowledged} spans were saved"
    assert list(scene.store.glob("espan.db.damaged-*"))
    scene.figures |= {"broken_pages": broken, "acknowledged_before": acknowledged, "saved": came}


# --- clocks ----------------------------------------------------------------------------------------------------------

HOUR_NS = 3600 * 10**9


async def clock_jumps(scene: Scene, cycles: int) -> None:
    """The wall clock jumps an hour while the bridge runs, and over a restart, back and forth: traces leave in time."""
    longest = 0.0
    for cycle in range(cycles):
        for offset in (HOUR_NS, -HOUR_NS):
            async with scene.started() as bridge:
                async with scene.loaded():
                    scene.shim.set(clock_offset_ns=offset)
                    await scene.more(1000)
                at = time.monotonic()
                await scene.delivered()
                longest = max(longest, time.monotonic() - at)
                async with scene.loaded():
                    await scene.more(200)
                if cycle % 2:
                    assert await bridge.stop() == 0
                else:
                    await bridge.kill()
    async with scene.started() as bridge:
        await scene.delivered()
        assert await bridge.stop() == 0
    assert longest < 15, f"what had come before the clock jumped left after {longest:.1f} s"
    scene.figures["longest_wait_s"] = round(longest, 2)


# --- all of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Needs:
    scenario: Scenario
    disk_mib: int = 0
    shim: bool = False
    workers: int = 1


SCENARIOS: Mapping[str, _Needs] = {
    "disk_full": _Needs(disk_full, disk_mib=48),
    "disk_full_workers": _Needs(disk_full, disk_mib=48, workers=2),
    "filled_by_itself": _Needs(filled_by_itself, disk_mib=40),
    "full_at_start": _Needs(full_at_start, disk_mib=24),
    "refusals": _Needs(refusals, shim=True),
    "locked": _Needs(locked),
    "slow_sync": _Needs(slow_sync, shim=True),
    "broken_under_it": _Needs(broken_under_it),
    "broken_under_it_workers": _Needs(broken_under_it, workers=2),
    "broken_at_start": _Needs(broken_at_start),
    "clock_jumps": _Needs(clock_jumps, shim=True),
}


async def play(name: str, folder: Path, cycles: int = 1) -> dict[str, object]:
    """One scenario in an empty folder; its figures. Raises NotPermitted, NoCompiler where it cannot be had here."""
    needs = SCENARIOS[name]
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(running_sink())
        setup = Setup(folder, workers=needs.workers).export_to("backend", "otlp_grpc", sink.grpc_port)
        # the same ones after every start, those the bridge makes by itself included
        *ports, agents = free_ports(4)
        setup.ports = dict(zip(setup.ports, ports, strict=True))
        setup.exporters += AGENTS.format(port=agents)
        scene = Scene(folder, sink, SteadyLoad(), setup)
        if needs.disk_mib:
            scene.disk = stack.enter_context(small_disk(folder / "disk", needs.disk_mib))
            setup.db_path = scene.disk.path / "store"
        if needs.shim:
            scene.store.mkdir()
            scene.faults = stack.enter_context(faults(folder, scene.store))
        await needs.scenario(scene, cycles)
        totals = sink.totals()
        counts = {"acknowledged": scene.load.acknowledged, "delivered": totals.distinct, "copies": totals.copies}
        return {**counts, "pushed_back": scene.load.pushed_back, "cycles": cycles, **scene.figures}


def run(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    """Every scenario; figures by name."""
    cycles = int(options.get("cycles", 5 if long else 1))
    names = options["only"].split(",") if "only" in options else list(SCENARIOS)
    figures: dict[str, object] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = anyio.run(play, name, Path(folder), cycles)
            except (NotPermitted, NoCompiler) as exc:
                found = {"skipped": str(exc)}
        figures |= {f"{name}.{key}": value for key, value in found.items()}
    return figures
