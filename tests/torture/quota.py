"""The store's quota: a backend that is away fills the store, again and again; nothing acknowledged is lost by it.

With at_quota = "push_back", each cycle: OpenTelemetry's stub sends until every sender is refused (RESOURCE_EXHAUSTED
with RetryInfo), and a DataKit agent's body is held, then refused and counted; the files of the store stay below the
quota all the while; the backend comes back, the backlog drains, senders are taken again, and the files shrink. In the
end the backend has every acknowledged span. With "drop_oldest": several times the quota is acknowledged while one
backend is away; another one has all of it, the first gets the newest part, and what it never gets is counted span by
span.

KEYs: CYCLES, QUOTA (MiB), WORKERS (default: 1, then 2), MODES (default: push_back,drop_oldest; the latter sends one
quota more than there are cycles).
"""

import itertools
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import anyio
import grpc.aio
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from tests.support.bridge_process import Bridge, Setup, started
from tests.support.received import spans_of
from tests.support.senders import stock_stub
from tests.support.sink import Sink, running_sink

MIB = 1 << 20
SPANS = 8
SPAN_BYTES = 32 << 10
"""Of a span, in an attribute that cannot be packed: a store is filled by few of them."""
SENDERS = 4
AGAIN_S = 0.05
LOOK_S = 0.02
WAIT_S = 120.0
HOLD_S = 1
REFUSALS = 5
"""In a row and of each sender, after which the store counts as full."""
SHRUNK = 4
"""The part of the quota that the files take at most once all is delivered."""

SETTINGS = """
[receivers.datakit]
port = 0
hold = "{hold}s"
[linker]
late_window = "2s"
[store]
max_bytes = "{quota}MiB"
at_quota = "{at_quota}"
"""


@dataclass
class Senders:
    """Senders that go on until they are told to stop, each request until it is acknowledged."""

    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0
    in_row: list[int] = field(default_factory=lambda: [0] * SENDERS)
    faults: list[str] = field(default_factory=list)
    """Refusals after which a stock sender drops the data."""
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _stopping: bool = False
    _news: anyio.Event = field(default_factory=anyio.Event)

    @asynccontextmanager
    async def sending(self, address: str) -> AsyncIterator[None]:
        """Send while the context is open; leaving it waits until each has its last request acknowledged."""
        self._stopping = False
        async with anyio.create_task_group() as tasks:
            for sender in range(SENDERS):
                tasks.start_soon(self._send, sender, address)
            yield
            self._stopping = True

    async def more(self, spans: int) -> None:
        """Return once so many further spans were acknowledged."""
        wanted = len(self.acknowledged) + spans
        while len(self.acknowledged) < wanted:
            await self._changed()

    async def all_refused(self) -> None:
        """Return once every sender was refused several times in a row."""
        while min(self.in_row) < REFUSALS:
            await self._changed()

    async def _changed(self) -> None:
        self._news = anyio.Event()
        await self._news.wait()

    async def _send(self, sender: int, address: str) -> None:
        async with stock_stub(address) as stub:  # a connection of its own: with two workers both have some
            while not self._stopping:
                request = self._request()
                while not await self._taken(stub, request, sender):  # noqa: ASYNC110 -- as senders do
                    await anyio.sleep(AGAIN_S)
                self.acknowledged |= {s.span_id.hex() for s in request.resource_spans[0].scope_spans[0].spans}
                self._news.set()

    async def _taken(self, stub: TraceServiceStub, request: ExportTraceServiceRequest, sender: int) -> bool:
        try:
            await stub.Export(request, timeout=20)
        except grpc.aio.AioRpcError as exc:
            self.refused += 1
            self.in_row[sender] += 1
            if not _comes_again(exc):
                self.faults.append(f"{exc.code()}: {exc.details()}")
            self._news.set()
            return False
        self.in_row[sender] = 0
        return True

    def _request(self) -> ExportTraceServiceRequest:
        request, now_ns = ExportTraceServiceRequest(), time.time_ns()
        scope = request.resource_spans.add().scope_spans.add()
        for _ in range(SPANS):
            number = next(self._numbers)
            span = scope.spans.add(
                trace_id=number.to_bytes(16, "big"),
                span_id=number.to_bytes(8, "big"),
                name="large",
                start_time_unix_nano=now_ns,
                end_time_unix_nano=now_ns,
            )
            span.attributes.add(key="body").value.bytes_value = os.urandom(SPAN_BYTES)
        return request


def _comes_again(exc: grpc.aio.AioRpcError) -> bool:
    """Whether a stock sender sends again what was refused so."""
    details = dict(exc.trailing_metadata() or ()).get("grpc-status-details-bin")
    if exc.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE) or not details:
        return False
    return any(detail.Is(RetryInfo.DESCRIPTOR) for detail in Status.FromString(details).details)


@dataclass
class Scene:
    """A bridge whose files are measured."""

    bridge: Bridge
    store: Path
    largest_bytes: int = 0

    @property
    def bytes(self) -> int:
        """What all files in the store's folder take."""
        total = 0
        for path in self.store.iterdir():
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue  # SQLite removes its logs
        return total

    async def measure(self) -> None:
        """Look again and again how large the files are; until cancelled."""
        while True:
            self.largest_bytes = max(self.largest_bytes, self.bytes)
            await anyio.sleep(LOOK_S)

    async def shrinks(self, to_bytes: int) -> None:
        """Return once the files take no more than this."""
        with anyio.move_on_after(WAIT_S):
            while self.bytes > to_bytes:  # noqa: ASYNC110 -- files tell nobody
                await anyio.sleep(LOOK_S)
            return
        raise AssertionError(f"the files still take {self.bytes} bytes, and not {to_bytes}")

    async def count(self, name: str, *labels: str) -> float:
        """The sum of a metric's values that have these labels."""
        url = f"http://{self.bridge.address('web')}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.M)
        return sum(float(value) for found, value in lines if all(label in found for label in labels))

    async def becomes(self, wanted: float, name: str, *labels: str) -> None:
        """Return once a metric has this value: ingest processes report once a second."""
        with anyio.move_on_after(WAIT_S):
            while await self.count(name, *labels) != wanted:  # noqa: ASYNC110 -- another process
                await anyio.sleep(0.1)
            return
        raise AssertionError(f"{name} {labels} is {await self.count(name, *labels)}, and not {wanted}")


@asynccontextmanager
async def running(folder: Path, setup: Setup, *, quota_mib: int, at_quota: str) -> AsyncIterator[Scene]:
    """A bridge with this quota."""
    more = folder / "quota.toml"
    more.write_text(SETTINGS.format(hold=HOLD_S, quota=quota_mib, at_quota=at_quota))
    async with started(setup.write(), more) as bridge:
        await bridge.ready()
        scene = Scene(bridge, folder / "store")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.measure)
            yield scene
            tasks.cancel_scope.cancel()
        assert await bridge.stop() == 0, "the bridge did not stop as it should"


async def delivered(sink: Sink, spans: set[str]) -> None:
    """Return once the sink has all of these."""
    with anyio.move_on_after(WAIT_S):
        while sink.totals().distinct < len(spans):
            sink.arrived.clear()
            await sink.arrived.wait()
    missing = spans - {span.span_id for span in spans_of(sink.bodies)}
    assert not missing, f"{len(missing)} of {len(spans)} acknowledged spans were not delivered"


async def agent_is_held(scene: Scene) -> None:
    """A DataKit body at the quota is held, then refused, which is counted."""
    url = f"http://{scene.bridge.address('datakit')}/v1/bpftracing?input=ebpf-net%2Fbpftracing"
    line = b'dketrace ebpf_span_type="entry",direction="incoming",req_seq=1i,resp_seq=2i,start=1i,duration=1i 1'
    before, begun_s = await scene.count("receiver_refused_spans_total", "held_too_long"), time.monotonic()
    async with aiohttp.ClientSession() as session, session.post(url, data=line) as answer:
        status = answer.status
    held_s = time.monotonic() - begun_s
    assert status == 503, f"at the quota an agent was answered {status}"
    assert held_s >= HOLD_S, f"an agent's body was held {held_s:.2f} s, and not {HOLD_S}"
    await scene.becomes(before + 1, "receiver_refused_spans_total", "held_too_long")


async def push_back(folder: Path, *, workers: int, cycles: int, quota_mib: int) -> dict[str, object]:
    """See the module."""
    senders, quota = Senders(), quota_mib * MIB
    async with running_sink(always="unavailable") as sink:
        setup = Setup(folder, workers=workers).export_to("a", "otlp_grpc", sink.grpc_port)
        async with running(folder, setup, quota_mib=quota_mib, at_quota="push_back") as scene:
            filled_mib, smallest_bytes = [], quota
            for _ in range(cycles):
                sink.always("unavailable")
                before = len(senders.acknowledged)
                with anyio.fail_after(WAIT_S):
                    async with senders.sending(scene.bridge.address("otlp_grpc")):
                        await senders.all_refused()
                        await agent_is_held(scene)
                        filled_mib.append((len(senders.acknowledged) - before) * SPAN_BYTES / MIB)
                        sink.always("ok")
                        await senders.more(10 * SPANS)
                await delivered(sink, senders.acknowledged)
                await scene.shrinks(quota // SHRUNK)
                smallest_bytes = min(smallest_bytes, scene.bytes)
            assert await scene.count("exporter_send_failed_spans_total") == 0, "spans were lost"
            assert await scene.count("store_refused_batches_total", 'reason="quota"') > 0
            assert await scene.count("receiver_refused_requests_total", 'reason="quota"') > 0
    assert not senders.faults, f"refusals after which senders drop what they have: {senders.faults[:3]}"
    assert scene.largest_bytes <= quota, f"the files took {scene.largest_bytes} bytes, above the quota of {quota}"
    assert min(filled_mib) > quota_mib / 2, f"senders were refused after {min(filled_mib):.0f} MiB"
    return {
        "cycles": cycles,
        "spans": len(senders.acknowledged),
        "lost": 0,
        "refused_requests": senders.refused,
        "quota_mib": quota_mib,
        "largest_mib": round(scene.largest_bytes / MIB, 1),
        "shrunk_to_mib": round(smallest_bytes / MIB, 1),
    }


async def drop_oldest(folder: Path, *, workers: int, cycles: int, quota_mib: int) -> dict[str, object]:
    """See the module."""
    senders, quota = Senders(), quota_mib * MIB
    async with running_sink() as sound, running_sink(always="unavailable") as away:
        setup = Setup(folder, workers=workers).export_to("sound", "otlp_grpc", sound.grpc_port)
        setup.export_to("away", "otlp_grpc", away.grpc_port)
        async with running(folder, setup, quota_mib=quota_mib, at_quota="drop_oldest") as scene:
            with anyio.fail_after(2 * WAIT_S):
                async with senders.sending(scene.bridge.address("otlp_grpc")):
                    await senders.more((1 + cycles) * quota // SPAN_BYTES)
            await delivered(sound, senders.acknowledged)
            away.always("ok")
            spans = len(senders.acknowledged)
            with anyio.fail_after(WAIT_S):
                while True:
                    given_up = await scene.count("exporter_send_failed_spans_total", 'exporter="away"')
                    if given_up + away.totals().distinct >= spans:
                        break
                    await anyio.sleep(0.1)
            await scene.becomes(0, "exporter_queue_size", 'exporter="away"')
            given_up = await scene.count("exporter_send_failed_spans_total", 'exporter="away"', 'reason="quota"')
            got = {span.span_id for span in spans_of(away.bodies)}
            assert given_up == spans - len(got), f"{given_up} counted as lost, {spans - len(got)} are"
            assert given_up > 0, "nothing was given up"
            assert await scene.count("exporter_send_failed_spans_total", 'exporter="sound"') == 0
            await scene.shrinks(quota // SHRUNK)
    assert scene.largest_bytes <= quota, f"the files took {scene.largest_bytes} bytes, above the quota of {quota}"
    assert not senders.faults, f"refusals after which senders drop what they have: {senders.faults[:3]}"
    return {
        "drop_oldest_spans": spans,
        "drop_oldest_given_up": int(given_up),
        "drop_oldest_delivered_late": len(got),
        "drop_oldest_largest_mib": round(scene.largest_bytes / MIB, 1),
    }


MODES = {"push_back": push_back, "drop_oldest": drop_oldest}


def run(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    """See the module; the figures of each number of workers under its own names."""
    quota_mib, cycles = (
        int(options.get("QUOTA", "512" if long else "64")),
        int(options.get("CYCLES", "10" if long else "1")),
    )
    figures: dict[str, object] = {}
    for workers in [int(options["WORKERS"])] if "WORKERS" in options else [1, 2]:
        for mode in options.get("MODES", ",".join(MODES)).split(","):
            with tempfile.TemporaryDirectory(prefix="quota-") as folder:
                play = partial(MODES[mode], Path(folder), workers=workers, cycles=cycles, quota_mib=quota_mib)
                figures |= {f"workers_{workers}_{name}": value for name, value in anyio.run(play).items()}
    return figures
