"""What each stage costs by itself, in this process: CPU us per span, all threads."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import numpy as np

from bridge.cli.simulation import SPANS_PER_TRACE, Simulation
from bridge.codec.otlp_encode import encode_requests
from bridge.codec.otlp_protobuf import decode_request
from bridge.linker import Assembler, LinkOptions, WindowOptions
from bridge.spans import LinkedSpans, SpanBatch
from bridge.store import SqliteStore
from bridge.telemetry import Instruments

TRACES = 20_000
TICK_NS = 500_000_000
WINDOW_NS = 2_000_000_000


class Stages:
    """Collects the CPU time of named stages."""

    def __init__(self, spans: int) -> None:
        self._spans, self.table = spans, dict[str, float]()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what the block costs to the stage's time."""
        started = time.process_time()
        yield
        self.table[name] = self.table.get(name, 0.0) + time.process_time() - started

    def show(self) -> None:
        for name, seconds in self.table.items():
            print(f"  {name:28s} {seconds / self._spans * 1e6:6.2f} us a span")
        print(f"  {'all of these':28s} {sum(self.table.values()) / self._spans * 1e6:6.2f} us a span")


def stage_table(batch: int, threads: str) -> None:
    """Run the stages one after another over one load and print what each costs."""
    simulation = Simulation(threads=threads)
    starts = np.uint64(time.time_ns()) + np.arange(TRACES, dtype=np.uint64) * np.uint64(10**5)
    requests = list(simulation.requests(simulation.traces(0, starts), batch))
    stages = Stages(TRACES * SPANS_PER_TRACE)
    with stages.stage("decode"):
        batches = [decode_request(r.data, peer="127.0.0.1").batch for r in requests]
    print(f"stages, {TRACES * SPANS_PER_TRACE} spans, {batch} a request, threads {threads}:")
    anyio.run(_stored, batches, stages)
    stages.show()


async def _stored(batches: list[SpanBatch], stages: Stages) -> None:
    with tempfile.TemporaryDirectory(prefix="espan-bench-") as folder:
        store = SqliteStore(Path(folder), instruments=Instruments())
        async with store.running():
            await store.register(["bench"])
            with stages.stage("store: append"):
                numbers = [0] * len(batches)

                async def append(i: int) -> None:
                    numbers[i] = await store.append(batches[i], i)

                for at in range(0, len(batches), 32):
                    async with anyio.create_task_group() as group:
                        for i in range(at, min(at + 32, len(batches))):
                            group.start_soon(append, i)
            assembler = Assembler(LinkOptions(sampling_rate=1.0), WindowOptions(window_ns=WINDOW_NS))
            now = 0
            ticks = []
            for i, batch in enumerate(batches):
                with stages.stage("link: add"):
                    assembler.add(numbers[i], batch.columns, now)
                if i % 16 == 15 or i == len(batches) - 1:
                    now += TICK_NS
                    ticks.append(await _tick(store, assembler, now, stages))
            while assembler.waiting:
                now += TICK_NS
                ticks.append(await _tick(store, assembler, now, stages))
            for tick in filter(None, ticks):
                with stages.stage("store: read back"):
                    linked = await store.read_tick(tick)
                _encode(linked, stages)
                with stages.stage("store: cursor"):
                    await store.advance("bench", tick)
            with stages.stage("store: forget"):
                await store.forget(now)


async def _tick(store: SqliteStore, assembler: Assembler, now: int, stages: Stages) -> int:
    with stages.stage("link: tick"):
        departed = assembler.tick(now)
    if not len(departed.departure):
        return 0
    with stages.stage("store: commit decisions"):
        return await store.commit_tick(departed.departure, now)


def _encode(linked: LinkedSpans, stages: Stages) -> None:
    with stages.stage("encode"):
        for _ in encode_requests(linked, max_spans=8192, max_bytes=4_000_000):
            pass
