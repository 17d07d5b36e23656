"""A process with a store of its own, to be killed: `python -m tests.support.store_child hold|write FOLDER`."""

import itertools
import os
import sys
from pathlib import Path

import anyio
from anyio import to_thread

from bridge.store import SqliteStore
from bridge.telemetry import Instruments
from tests.support.stored import departure_of, random_batch, rows_of

APPENDERS = 16
BATCHES_A_TICK = 5


def spans_of(seed: int) -> int:
    """How many spans the batch of this seed has."""
    return seed % 60


def say(*words: object) -> None:
    """One line to the parent, whole or not at all."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def hold(store: SqliteStore) -> None:
    """Own the folder until the parent goes."""
    async with store.running():
        say("ready")
        await to_thread.run_sync(sys.stdin.read)


async def write(store: SqliteStore) -> None:
    """Append and commit ticks without end; say what was committed, each once its call has returned.

    `batch NUMBER SEED`, and `tick NUMBER SEED BATCH,BATCH,...`: all rows of these batches left in it.
    """
    seeds = itertools.count()
    waiting: list[tuple[int, int]] = []

    async def append() -> None:
        for seed in seeds:
            number = await store.append(random_batch(seed, spans_of(seed)), seed)
            say("batch", number, seed)
            waiting.append((number, spans_of(seed)))
            if len(waiting) >= BATCHES_A_TICK:
                await tick()

    async def tick() -> None:
        leaving, seed = waiting[:BATCHES_A_TICK], waiting[0][0]
        del waiting[:BATCHES_A_TICK]
        number = await store.commit_tick(departure_of(rows_of(*leaving), seed), seed)
        say("tick", number, seed, ",".join(str(batch) for batch, _ in leaving))

    async with store.running():
        await store.register(["nobody"])
        async with anyio.create_task_group() as tasks:
            for _ in range(APPENDERS):
                tasks.start_soon(append)


if __name__ == "__main__":
    anyio.run({"hold": hold, "write": write}[sys.argv[1]], SqliteStore(Path(sys.argv[2]), instruments=Instruments()))
