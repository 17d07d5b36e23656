"""Backends that misbehave in every way there is, under load; then they are well again, and the bridge has to notice.

Four exporters, to OTLP/gRPC and a Dataway behind TLS, to OTLP/HTTP, and to one backend that is always well. A fault
lasts a while, and when it ends, traces that are sent from then on must arrive within a window and five seconds, while
what piled up is delivered beside them, oldest first, with at least half of what the backend takes. The backend that is
well must not notice any of it. In the end every acknowledged span is there, and copies of one are equal.

Connections keep a fault that ended (see `front`), so that a bridge that clings to one stays ill.

Options: FAULT_S (how long each fault lasts), RATE (spans a second), FAULTS (names, each for all exporters at once),
PROTOCOLS (those of the exporters whose backends misbehave). For the full rate: RATE=16667 PROTOCOLS=grpc.
"""

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from os import sched_getaffinity
from pathlib import Path

import aiohttp
import anyio
import numpy as np
from anyio.to_thread import run_sync
from numpy.typing import NDArray

from tests.bench.children import Child, child
from tests.support.bridge_process import Bridge, Setup, started
from tests.support.certificates import Authority
from tests.support.dataway import TOKEN
from tests.torture.faulty_backend import PROTOCOLS, STATUS
from tests.torture.traffic import Stream

NAMES = ("refuse", "hang", "slow", "reset", "half_closed", "unavailable", "throttled", "unauthenticated", "partial",
         "expired", "gone")  # fmt: skip
"""Faults of `faulty_backend`; "gone" is one of all three, and their name is gone with them."""
SHORT: Sequence[tuple[float, Mapping[str, str]]] = (
    (8.0, {"grpc": "hang", "http": "refuse", "dataway": "throttled"}),
    (3.0, {"grpc": "gone", "http": "gone", "dataway": "gone"}),
    (3.0, {"grpc": "partial", "http": "reset", "dataway": "slow"}),
    (3.0, {"grpc": "expired", "http": "half_closed", "dataway": "unauthenticated"}),
)
"""How long, and which faults."""
HOST = "backend.test"
WINDOW_S = 1.0
PROMISE_S = 5.0
SETTLE_S = 1.5
"""Between what is judged of one fault and the next fault, besides a window."""
SPANS_A_TRACE = 9
HEADROOM = 5.0
"""How much faster than the load a backend is."""
HALF = 0.45
"""Least share of the backlog while there is one; a little less than half for what is cut off at either end."""
POLL_S = 0.1
CATCH_UP_S = 60.0
DEFAULT_TIMEOUTS_S = 60.0
"""Faults that are shorter are met with shorter timeouts than the settings' own: they have to be noticed."""
ORDERED = 0.7
"""Least rank correlation of the backlog's order with that of sending: those bodies alone are out of order that a dead
backend was asked with by turns, which are many in a short one. Newest first would be -1, any order 0."""
FRESH_S = 4.0
"""What was sent within this time before a backend was well again may count as new."""
FEW_S = 7.0
"""A backlog of less time says nothing about shares and order: it is hardly more than those bodies."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One fault of some backends. Times are seconds since the epoch."""

    faults: Mapping[str, str]
    began_s: float
    healed_s: float
    caught_up_s: float
    """When about everything that had been acknowledged was delivered."""


@dataclass(frozen=True, slots=True)
class Came:
    """What one backend took: of each span the first copy, ordered by arrival."""

    ids: NDArray[np.uint64]
    arrived_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    """When the request with the span was sent first."""
    copies: int
    differing: int
    """Spans whose copies are not equal."""
    lost: int


@dataclass(eq=False)
class Scene:
    """The processes, and what was done to them."""

    faulty: Child
    well: Child
    bridge: Bridge
    stream: Stream
    hosts: Path
    protocols: Sequence[str]
    episodes: list[Episode] = field(default_factory=list)

    async def ask(self, backend: Child, command: str) -> dict[str, dict[str, int]]:
        return await run_sync(backend.ask, command)

    async def episode(self, faults: Mapping[str, str], fault_s: float) -> None:
        """Have these faults for so long, then wait until what piled up is delivered."""
        began_s = time.time()
        if "gone" in faults.values():
            self.hosts.write_text("127.0.0.1 localhost\n")
        await self.ask(self.faulty, "fault " + " ".join(f"{p}={fault}" for p, fault in faults.items()))
        await anyio.sleep(fault_s)
        await self._check_metrics(faults)
        self.hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
        await self.ask(self.faulty, "fault")
        healed_s = time.time()
        await self._caught_up(CATCH_UP_S + 2 * fault_s)
        # where nothing had piled up, what is sent within another second is judged
        self.episodes.append(Episode(faults, began_s, healed_s, max(time.time(), healed_s + 1.0)))
        await anyio.sleep(WINDOW_S + SETTLE_S)

    async def _check_metrics(self, faults: Mapping[str, str]) -> None:
        url = f"http://{self.bridge.address('web')}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        for exporter in (*faults, "well"):
            fault = faults.get(exporter, "partial")
            up = f'exporter_up{{exporter="{exporter}"}} {float(fault == "partial")}'
            assert up in text, f"{exporter} has the fault {fault!r}, and /metrics does not say {up}"

    async def _caught_up(self, within_s: float) -> None:
        """Return once all but what a window holds is delivered."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            waiting = self.stream.traces_a_second * SPANS_A_TRACE * (WINDOW_S + 1.5)
            counts = await self.ask(self.faulty, "count")
            if min(counts[p]["distinct"] for p in self.protocols) >= self.stream.acknowledged - waiting:
                return
            await anyio.sleep(POLL_S)
        raise AssertionError(f"the backlog is not delivered: {counts}, {self.stream.acknowledged} acknowledged")

    async def finish(self) -> dict[str, int]:
        """Stop the stream and wait until everything is delivered. Returns how many spans were told to be refused."""
        self.stream.stop()
        deadline = time.monotonic() + CATCH_UP_S
        while time.monotonic() < deadline:
            faulty, well = await self.ask(self.faulty, "count"), await self.ask(self.well, "count")
            counts = [*(faulty[p] for p in self.protocols), well["http"]]
            if self.stream.finished and min(count["distinct"] for count in counts) >= self.stream.acknowledged:
                break
            await anyio.sleep(POLL_S)
        return {p: faulty[p]["partly"] for p in self.protocols}


def run(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    """The whole scenario; figures by fault and exporter."""
    fault_s = float(options.get("FAULT_S", 600))
    rate = float(options.get("RATE", 1000 if long else 350))
    chosen = options.get("FAULTS", "")
    names = chosen.split(",") if chosen else NAMES if long else ()
    protocols = options.get("PROTOCOLS", ",".join(PROTOCOLS)).split(",")
    figures: dict[str, object] = {"spans a second": rate}
    # each of the long ones has a scene of its own: what came is kept in memory
    scenes = [[(fault_s, _for_all(protocols, name))] for name in names] or [SHORT]
    for rounds in scenes:
        figures |= anyio.run(_scene, rounds, rate, protocols, long)
    return figures


def _for_all(protocols: Sequence[str], fault: str) -> dict[str, str]:
    """This fault for each of them; certificates are shown behind TLS only."""
    return {protocol: fault for protocol in protocols if (protocol, fault) != ("http", "expired")}


async def _scene(
    rounds: Sequence[tuple[float, Mapping[str, str]]], rate: float, protocols: Sequence[str], long: bool
) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="espan-torture-") as path:
        folder = Path(path)
        async with AsyncExitStack() as stack:
            cores = sched_getaffinity(0)
            capacity = str(rate * HEADROOM)
            _put_certificates(folder)
            module = "tests.torture.faulty_backend"
            reads = "ids" if long else "whole"
            faulty = stack.enter_context(child("faulty", module, capacity, reads, str(folder), cores=cores))
            well = stack.enter_context(child("well", module, capacity, reads, cores=cores))
            hosts = folder / "hosts"
            prefix = _own_names(hosts)
            rounds = [(s, faults) for s, faults in rounds if prefix or "gone" not in faults.values()]
            ports = faulty.event("grpc"), well.event("grpc")
            patient = min(fault_s for fault_s, _ in rounds) >= DEFAULT_TIMEOUTS_S
            setup = _settings(folder, *ports, protocols, HOST if prefix else "localhost", patient)
            bridge = await stack.enter_async_context(started(setup.write(), prefix=prefix))
            await bridge.ready()
            port = int(bridge.address("otlp_grpc").rpartition(":")[2])
            stream = Stream(1, rate / SPANS_A_TRACE, {"grpc": port}, ("grpc",))
            at = Scene(faulty, well, bridge, stream, hosts, protocols)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.run)
                await anyio.sleep(WINDOW_S + 1)
                for fault_s, faults in rounds:
                    await at.episode(faults, fault_s)
                partly = await at.finish()
            refused = await _refused(bridge)
            assert await bridge.stop() == 0
            return {"names can be taken away": bool(prefix)} | _judge(at, folder, partly, refused)


def _put_certificates(folder: Path) -> None:
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    for name, days in (("good", 30), ("expired", -1)):
        cert, key = authority.issue(HOST, "localhost", days=days)
        (folder / f"{name}.pem").write_bytes(cert)
        (folder / f"{name}.key").write_bytes(key)


def _own_names(hosts: Path) -> tuple[str, ...]:
    """What a command is run with that finds names in this file and nowhere else; nothing where that is forbidden."""
    hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
    resolver = hosts.with_name("resolv.conf")
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    mounts = f'mount --bind "{hosts}" /etc/hosts && mount --bind "{resolver}" /etc/resolv.conf && exec "$@"'
    for options in ("-m", "-rm"):
        prefix = ("unshare", options, "sh", "-c", mounts, "sh")
        try:
            subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            continue
        return prefix
    return ()


def _settings(
    folder: Path, faulty: Mapping[str, int], well: Mapping[str, int], protocols: Sequence[str], host: str, patient: bool
) -> Setup:
    timeout = "" if patient else 'timeout = "1s"\n'
    tls = f'tls = {{ca_file = "{folder}/ca.pem"}}\n'
    kinds = {
        "grpc": f'type = "otlp_grpc"\nendpoint = "https://{host}:{faulty["grpc"]}"\n{timeout}{tls}',
        "http": f'type = "otlp_http"\nendpoint = "http://{host}:{faulty["http"]}"\n{timeout}',
        "dataway": f'type = "dataway"\nurl = "https://{host}:{faulty["dataway"]}?token={TOKEN}"\n{timeout}{tls}',
    }
    setup = Setup(folder, window=f"{WINDOW_S:g}s", tick="200ms", grace="20s")
    setup.exporters = "".join(f"\n[exporters.{protocol}]\n{kinds[protocol]}" for protocol in protocols)
    setup.exporters += f'\n[exporters.well]\ntype = "otlp_http"\nendpoint = "http://127.0.0.1:{well["http"]}"\n'
    return setup


async def _refused(bridge: Bridge) -> dict[str, int]:
    """Spans each exporter counts as lost."""
    url = f"http://{bridge.address('web')}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        lines = (await answer.text()).splitlines()
    found: dict[str, int] = dict.fromkeys((*PROTOCOLS, "well"), 0)
    for line in lines:
        if line.startswith("exporter_send_failed_spans_total{"):
            found[line.partition('exporter="')[2].partition('"')[0]] += int(float(line.rpartition(" ")[2]))
    return found


# --- what came of it -------------------------------------------------------------------------------------------------


def _judge(at: Scene, folder: Path, partly: Mapping[str, int], refused: Mapping[str, int]) -> dict[str, object]:
    figures: dict[str, object] = {"spans acknowledged": at.stream.acknowledged}
    wrong = []
    came = _all_came(at, folder)
    for name, of in came.items():
        figures |= {f"{name}: lost": of.lost, f"{name}: copies": of.copies}
        miscounted = abs(refused[name] - partly.get(name, 0))
        for count, what in (
            (of.lost, "acknowledged spans lost"),
            (of.differing, "spans with copies that differ"),
            (miscounted, "spans wrongly counted as refused"),
        ):
            if count:
                wrong.append(f"{name}: {count} {what}")
    for episode in at.episodes:
        for name, fault in episode.faults.items():
            _judge_episode(episode, f"{name}, {fault}", came[name], fault, figures, wrong)
    well = came["well"].arrived_s - came["well"].sent_s
    figures["well: longest delay, s"] = round(float(well.max()), 2)
    if well.max() > WINDOW_S + PROMISE_S:
        wrong.append(f"the backend that was well got a span after {well.max():.1f} s")
    assert not wrong, "\n".join([*wrong, str(figures)])
    return figures


def _judge_episode(
    episode: Episode, what: str, came: Came, fault: str, figures: dict[str, object], wrong: list[str]
) -> None:
    healed_s, caught_up_s = episode.healed_s, episode.caught_up_s
    new = (came.sent_s >= healed_s) & (came.sent_s < caught_up_s)
    delays = (came.arrived_s - came.sent_s)[new]
    assert delays.size, f"{what}: nothing was sent after it was healed"
    figures[f"{what}: first new span after, s"] = round(float((came.arrived_s[new]).min() - healed_s), 2)
    figures[f"{what}: longest delay of a new span, s"] = round(float(delays.max()), 2)
    if delays.max() > WINDOW_S + PROMISE_S:
        wrong.append(f"{what}: a span sent after it was healed came after {delays.max():.1f} s")
    if fault == "partial":
        return
    blocked = int(((came.arrived_s > episode.began_s + 1.5) & (came.arrived_s < healed_s)).sum())
    if blocked and fault in STATUS:
        wrong.append(f"{what}: {blocked} spans came while it took none")
    old = (came.sent_s < healed_s - FRESH_S) & (came.arrived_s > healed_s)
    figures[f"{what}: lasted, s"] = round(healed_s - episode.began_s)
    figures[f"{what}: spans that had piled up"] = int(old.sum())
    if healed_s - episode.began_s < FEW_S:
        return
    first_s, last_s = came.arrived_s[old].min(), came.arrived_s[old].max()
    between = (came.arrived_s >= first_s) & (came.arrived_s <= last_s)
    share = float(old.sum() / between.sum())
    order = _rank_correlation(came.sent_s[old])
    figures[f"{what}: backlog drained in, s"] = round(float(last_s - healed_s), 2)
    figures[f"{what}: share of the backlog meanwhile"] = round(share, 2)
    figures[f"{what}: order of the backlog"] = round(order, 3)
    if share < HALF:
        wrong.append(f"{what}: the backlog had {share:.0%} of what was delivered")
    if order < ORDERED:
        wrong.append(f"{what}: the backlog was not delivered oldest first (rank correlation {order:.2f})")


def _rank_correlation(values: NDArray[np.float64]) -> float:
    """Of these values with their places; equal ones have the same rank."""
    _, ranks = np.unique(values, return_inverse=True)
    return float(np.corrcoef(ranks, np.arange(values.size))[0, 1])


def _all_came(at: Scene, folder: Path) -> dict[str, Came]:
    taken = [sent for sent in at.stream.sent if sent.acknowledged_s < np.inf]
    ids = np.concatenate([sent.ids for sent in at.stream.sent])
    sent_s = np.repeat([sent.first_s for sent in at.stream.sent], [sent.ids.size for sent in at.stream.sent])
    order = np.argsort(ids)
    ids, sent_s = ids[order], sent_s[order]
    acknowledged = np.concatenate([sent.ids for sent in taken])
    came = {}
    for backend, names in ((at.faulty, {p: p for p in at.protocols}), (at.well, {"http": "well"})):
        path = folder / f"{backend.name}.npz"
        backend.ask(f"save {path}")
        with np.load(path) as saved:
            for protocol, name in names.items():
                rows, arrived_s = saved[f"{protocol}_rows"], saved[f"{protocol}_arrived"]
                came[name] = _came(rows, arrived_s, ids, sent_s, acknowledged)
    return came


def _came(
    rows: NDArray[np.uint64],
    arrived_s: NDArray[np.float64],
    ids: NDArray[np.uint64],
    sent_s: NDArray[np.float64],
    acknowledged: NDArray[np.uint64],
) -> Came:
    distinct, first = np.unique(rows[:, 0], return_index=True)
    first.sort()
    found = rows[first, 0]
    at = np.searchsorted(ids, found)
    return Came(
        found,
        arrived_s[first],
        sent_s[at],
        copies=len(rows) - distinct.size,
        differing=len(np.unique(rows, axis=0)) - distinct.size,
        lost=int(np.setdiff1d(acknowledged, distinct).size),
    )
