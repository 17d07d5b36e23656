"""kill -9 at random moments under load, again and again: nothing that was acknowledged is lost, no edge changes.

Senders go on all the time; two backends outlive every bridge. A bridge is killed while it starts, while it serves, or
while it stops; of one with ingest processes these are killed, too, by themselves. Then the stream ends, the last life
delivers what is there, and everything that came is compared with what was acknowledged and with what is true.

Options: KILLS, SEED, RATE (spans a second), WORKERS (numbers of ingest processes, as "1,2"), LIMIT_S (no more kills
after so long, each number of ingest processes by itself; none in the long form).
"""

import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import psutil

from tests.support.bridge_process import Bridge
from tests.torture.lives import READY_S, Scene, scene
from tests.torture.traffic import Stream

KILLS, KILLS_LONG = 50, 1000
LIMIT_S = 50
RATE, RATE_LONG = 700.0, 900.0
SPANS_A_TRACE = 9
WINDOW_S = 0.5
MOMENTS = {"starting": 3, "serving": 5, "stopping": 2}
"""And how often each is chosen."""
SERVED_S = 1.6
STOPPING_S = 0.4
FIRST_START_S = 1.2
"""Until it is known how long a start takes."""
CHILD_FIRST = 0.5
"""How often an ingest process is killed before the bridge's own."""
GONE_S = 20.0
CHILD_ENDED = "an ingest process ended; it is started again"


@dataclass(eq=False)
class Killer:
    """Kills bridges until there were enough kills."""

    at: Scene
    draw: random.Random
    kills: int
    limit_s: float
    done: Counter[str] = field(default_factory=Counter)
    orphans: int = 0
    """Ingest processes that were still there long after their bridge was killed."""

    async def run(self) -> None:
        """One life after the other."""
        until = time.monotonic() + self.limit_s
        while self.done.total() < self.kills and time.monotonic() < until:
            moment = self.draw.choices(list(MOMENTS), list(MOMENTS.values()))[0]
            async with self.at.life() as bridge:
                family = await getattr(self, f"_{moment}")(bridge)
                killed_s = time.time()
                with suppress(ProcessLookupError):
                    bridge.signal(signal.SIGKILL)
                await bridge.ended()
            self.at.killed(killed_s)
            await self._gone(family)

    async def _starting(self, bridge: Bridge) -> list[psutil.Process]:
        """Kill at any time up to a little after a start usually ends: while it imports, recovers, opens its ports."""
        usually_s = statistics.median(self.at.starts_s) if self.at.starts_s else FIRST_START_S
        await anyio.sleep(self.draw.uniform(0, 1.2 * usually_s))
        self.done["while starting" if "ready" not in bridge.messages() else "while serving"] += 1
        return children(bridge)

    async def _serving(self, bridge: Bridge) -> list[psutil.Process]:
        await until_ready(bridge)
        while self.done.total() < self.kills - 1 and bridge.workers() and self.draw.random() < CHILD_FIRST:
            await anyio.sleep(self.draw.uniform(0, SERVED_S / 2))
            if family := children(bridge):  # none where all were killed and none was started again yet
                self.draw.choice(family).kill()
                self.done["of an ingest process"] += 1
        await anyio.sleep(self.draw.uniform(0, SERVED_S))
        self.done["while serving"] += 1
        return children(bridge)

    async def _stopping(self, bridge: Bridge) -> list[psutil.Process]:
        await until_ready(bridge)
        await anyio.sleep(self.draw.uniform(0, SERVED_S))
        family = children(bridge)
        bridge.signal(signal.SIGTERM)
        with anyio.move_on_after(self.draw.uniform(0, STOPPING_S)) as killed:
            await bridge.ended()
        self.done["while stopping"] += killed.cancelled_caught  # or it was faster
        return family

    async def _gone(self, family: list[psutil.Process]) -> None:
        """Return once no ingest process is left: the next bridge listens where they did."""
        with anyio.move_on_after(GONE_S) as late:
            while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family):  # noqa: ASYNC110 -- other processes
                await anyio.sleep(0.01)
        self.orphans += late.cancelled_caught


def children(bridge: Bridge) -> list[psutil.Process]:
    """Its ingest processes, ready or not."""
    try:
        return psutil.Process(bridge.pid).children()
    except psutil.NoSuchProcess:
        return []


async def _killed(at: Scene, killer: Killer, stream: Stream) -> dict[str, object]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run)
        await killer.run()
        async with at.life() as last:
            await until_ready(last)
            await anyio.sleep(at.window_s)  # so that not all that is compared was torn
            stream.stop()
            await until_sent(stream)
            await at.delivered(stream)
            assert await last.stop() == 0
    verdict = at.verdict(stream)
    starts = sorted(at.starts_s)
    wrong = [*verdict.wrong, *(f"a bridge said {error}" for error in at.errors if CHILD_ENDED not in error)]
    if killer.orphans:
        wrong.append(f"{killer.orphans} times an ingest process outlived its bridge")
    figures = {
        "seed": stream.seed,
        "kills": killer.done.total(),
        **{f"kills {moment}": count for moment, count in sorted(killer.done.items())},
        **verdict.figures,
        "restart s, median": round(statistics.median(starts), 2),
        "restart s, longest": round(starts[-1], 2),
    }
    assert not wrong, f"{'; '.join(wrong)}: {figures}"
    return figures


async def until_ready(bridge: Bridge) -> None:
    """Return once it is open to senders."""
    with anyio.fail_after(READY_S):
        await bridge.ready()


async def until_sent(stream: Stream) -> None:
    """Return once nothing is on its way to the bridge."""
    with anyio.fail_after(READY_S):
        while not stream.finished:  # noqa: ASYNC110 -- the senders are a task group of their own
            await anyio.sleep(0.05)


def run(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    """Kill bridges of one process, then such with two ingest processes."""
    kills = int(options.get("KILLS", KILLS_LONG if long else KILLS))
    rate = float(options.get("RATE", RATE_LONG if long else RATE))
    limit_s = float(options.get("LIMIT_S", "inf" if long else LIMIT_S))
    seed = int(options.get("SEED", time.time_ns() % 1_000_000))
    print(f"seed {seed}", flush=True)
    counts = [int(text) for text in options.get("WORKERS", "1,2").split(",")]
    figures: dict[str, object] = {}
    for i, workers in enumerate(counts):
        draw = random.Random(seed + workers)
        share = kills * (i + 1) // len(counts) - kills * i // len(counts)
        with scene(draw, workers=workers, window_s=WINDOW_S) as at:
            stream = Stream(seed, rate / SPANS_A_TRACE, at.ports)
            found = anyio.run(_killed, at, Killer(at, draw, share, limit_s), stream)
        figures |= {f"workers = {workers}, {key}": value for key, value in found.items()}
    return figures
