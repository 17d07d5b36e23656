"""SIGTERM under load, the successor on the same store and ports already waiting: nothing is lost, no edge changes.

The successor is started while its predecessor serves. It waits for the lock on db_path; then the predecessor is told
to stop, answers what it took, refuses the rest as retryable, and lets go. Senders only ever try again. In every other
round a backend does not answer at that time, so that the grace period ends before everything is delivered.

Options: ROUNDS (300 at most), SEED, RATE (spans a second), WORKERS (numbers of ingest processes, as "1,2"), LIMIT_S (no
more rounds after so long, each number of ingest processes by itself; none in the long form).
"""

import random
import re
import signal
import statistics
import time
from collections.abc import Mapping

import aiohttp
import anyio

from tests.support.bridge_process import Bridge
from tests.torture.kills import SPANS_A_TRACE, until_ready, until_sent
from tests.torture.lives import READY_S, Scene, scene
from tests.torture.traffic import Stream

ROUNDS, ROUNDS_LONG = 4, 100
LIMIT_S = 40
RATE = 900.0
WINDOW_S = 0.5
GRACE_S = 2.0
SERVED_S = 1.5
WAITING = "another bridge uses db_path; waiting for it to end"
UNDELIVERED = "stopped; what is not delivered leaves after the next start"
UNDELIVERED_TICKS = re.compile(r'^exporter_queue_size\{exporter="dataway"\} [1-9]', re.M)
LOOKS, LOOK_S = 10, 0.05
"""A tick that is there so many times one after another is one that nobody answers for."""
OVER_S = 20.0
"""How long after its grace period a stopped bridge has to be gone; then it only closes files, on a busy machine."""


class Rounds:
    """Hands the store from one bridge to the next."""

    def __init__(self, at: Scene, draw: random.Random, stream: Stream, *, rounds: int, limit_s: float) -> None:
        self._at, self._draw, self._stream, self._rounds = at, draw, stream, rounds
        self._until = time.monotonic() + limit_s
        self.stops_s: list[float] = []
        self.gaps_s: list[float] = []
        """From the signal until the successor was open to senders."""
        self.left_over = 0
        """Stops that could not deliver everything within the grace period."""

    async def run(self) -> None:
        """One life, its successor inside it, and so on; the last one delivers what is there."""
        async with self._at.life() as bridge:
            await self._from(bridge, 0)

    async def _from(self, bridge: Bridge, number: int) -> None:
        await until_ready(bridge)
        await anyio.sleep(self._draw.uniform(self._at.window_s, SERVED_S))
        if number == self._rounds or (number > 1 and time.monotonic() > self._until):
            self._stream.stop()
            await until_sent(self._stream)
            await self._at.delivered(self._stream)
            assert await bridge.stop() == 0
            return
        async with self._at.life() as successor:
            await successor.logged(WAITING)
            await self._hand_over(bridge, successor, silent=number % 2 == 1)
            await self._from(successor, number + 1)

    async def _hand_over(self, bridge: Bridge, successor: Bridge, *, silent: bool) -> None:
        """Stop a bridge; while its last spans are on their way the backend may not answer."""
        backend = self._at.backends["dataway"]
        if silent:
            backend.ask("silent")
            await self._something_undelivered()
        begun_s = time.time()
        bridge.signal(signal.SIGTERM)
        assert await bridge.ended() == 0
        self.stops_s.append(time.time() - begun_s)
        if silent:
            backend.ask("answering")
        await until_ready(successor)
        self.gaps_s.append(time.time() - begun_s)
        (stopped,) = (event for event in bridge.log if event["message"] == UNDELIVERED)
        self.left_over += any(stopped["undelivered_ticks"].values())

    async def _something_undelivered(self) -> None:
        """Return once the bridge has a tick that the silent backend does not answer for."""
        url = f"http://127.0.0.1:{self._at.ports['web']}/metrics"
        with anyio.fail_after(READY_S):
            async with aiohttp.ClientSession() as session:
                looks = 0
                while looks < LOOKS:
                    async with session.get(url) as answer:
                        looks = looks + 1 if UNDELIVERED_TICKS.search(await answer.text()) else 0
                    await anyio.sleep(LOOK_S)


async def _stopped(at: Scene, handed: Rounds, stream: Stream) -> dict[str, object]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run)
        await handed.run()
    verdict = at.verdict(stream)
    wrong = [*verdict.wrong, *(f"a bridge said {error}" for error in at.errors)]
    if (longest_s := max(handed.stops_s)) > GRACE_S + OVER_S:
        wrong.append(f"a stop took {longest_s:.1f} s, with shutdown_grace = {GRACE_S:g} s")
    if len(handed.stops_s) > 1 and not handed.left_over:
        wrong.append("every stop delivered everything: nothing was left for the next start")
    figures = {
        "seed": stream.seed,
        "stops": len(handed.stops_s),
        "stops that left something undelivered": handed.left_over,
        **verdict.figures,
        "stop s, median": round(statistics.median(handed.stops_s), 2),
        "stop s, longest": round(longest_s, 2),
        "signal to successor open s, median": round(statistics.median(handed.gaps_s), 2),
        "signal to successor open s, longest": round(max(handed.gaps_s), 2),
    }
    assert not wrong, f"{'; '.join(wrong)}: {figures}"
    return figures


def run(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    """Stop bridges of one process, then such with two ingest processes."""
    rounds = int(options.get("ROUNDS", ROUNDS_LONG if long else ROUNDS))
    limit_s = float(options.get("LIMIT_S", "inf" if long else LIMIT_S))
    rate, seed = float(options.get("RATE", RATE)), int(options.get("SEED", time.time_ns() % 1_000_000))
    print(f"seed {seed}", flush=True)
    figures: dict[str, object] = {}
    for workers in (int(text) for text in options.get("WORKERS", "1,2").split(",")):
        draw = random.Random(seed + workers)
        with scene(draw, workers=workers, window_s=WINDOW_S, grace=f"{GRACE_S:g}s") as at:
            stream = Stream(seed, rate / SPANS_A_TRACE, at.ports)
            handed = Rounds(at, draw, stream, rounds=rounds, limit_s=limit_s)
            found = anyio.run(_stopped, at, handed, stream)
        figures |= {f"workers = {workers}, {key}": value for key, value in found.items()}
    return figures
