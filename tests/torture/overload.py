"""Ten times what a bridge can keep, in the memory it was given: senders are pushed back, nothing it took is lost.

The bridge is a process with a small `memory_limit`. What it can take for long is as many spans as fit into memory, a
window: that, times ten, is offered as an open loop by one process for each protocol, each with so many connections that
the bridge is never waited for. Beside them run programs with OpenTelemetry's own SDK, processor and exporters. One
backend takes everything; another refuses everything, where there is a dead one.

Options: OVERLOAD_MEMORY (MiB), OVERLOAD_SECONDS, OVERLOAD_WINDOW (seconds), OVERLOAD_TIMES, OVERLOAD_WORKERS,
OVERLOAD_PROTOCOLS (as "grpc,datakit"), OVERLOAD_DEAD (0 or 1), OVERLOAD_STOCK (0 or 1), OVERLOAD_CALLS.
"""

import json
import os
import re
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tests.bench.children import Child, child

CORES = os.sched_getaffinity(0)
RECEIVERS = {"grpc": "otlp_grpc", "http": "otlp_http", "datakit": "datakit"}
CONNECTIONS = {"grpc": 24, "http": 24, "datakit": 48}
BATCH = {"grpc": 512, "http": 512, "datakit": 256}
STOCK_RATE = 200
MIB = 1 << 20
POLL_S, DELIVERY_S, FLOODED_S = 0.02, 90.0, 120.0
EXPORTER = """
[exporters.{name}]
type = "otlp_grpc"
endpoint = "{endpoint}"
max_batch_bytes = "1MiB"
retry = {{initial = "200ms", max = "1s"}}
"""
CONFIG = """
shutdown_grace = "1s"
memory_limit = "{memory}MiB"
workers = {workers}
[[inputs.ebpftrace]]
db_path = "{folder}/store"
window = "{window}s"
sampling_rate = 1.0
[receivers.otlp_grpc]
port = 0
[receivers.otlp_http]
port = 0
[receivers.datakit]
host = "127.0.0.1"
port = 0
hold = "90s"
[web]
port = 0
[telemetry]
log_format = "json"
"""


@dataclass(frozen=True, slots=True)
class Overload:
    """What is done to which bridge."""

    memory: int = 280
    """MiB."""
    seconds: float = 8.0
    window: int = 10
    times: float = 10.0
    workers: int = 1
    protocols: tuple[str, ...] = ("grpc", "http", "datakit")
    dead: bool = True
    stock: bool = True
    calls: int = 1
    """Under way at once on each gRPC connection."""


def run(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    """All protocols at once with a dead backend beside the live one; in the long form each by itself for ten minutes,
    too, with ingest processes as well as without."""
    short = chosen(Overload(), options)
    if not long:
        return overload(short)
    lasting = chosen(Overload(memory=400, seconds=600, window=20, stock=False), options)
    cases = {"all": short, "workers": replace(short, workers=2, memory=short.memory + 280)} | {
        f"{protocol}{', dead backend' if dead else ''}": replace(lasting, protocols=(protocol,), dead=dead)
        for protocol in lasting.protocols
        for dead in (False, True)
    }
    return {f"{name}: {key}": value for name, case in cases.items() for key, value in overload(case).items()}


def chosen(usual: Overload, options: Mapping[str, str]) -> Overload:
    """The usual overload with what is asked for by name."""
    known = {
        "MEMORY": ("memory", int),
        "SECONDS": ("seconds", float),
        "WINDOW": ("window", int),
        "TIMES": ("times", float),
        "WORKERS": ("workers", int),
        "PROTOCOLS": ("protocols", lambda text: tuple(text.split(","))),
        "DEAD": ("dead", lambda text: text != "0"),
        "CALLS": ("calls", int),
        "STOCK": ("stock", lambda text: text != "0"),
    }
    given = {name.removeprefix("OVERLOAD_"): text for name, text in options.items() if name.startswith("OVERLOAD_")}
    asked = {field: read(given[name]) for name, (field, read) in known.items() if name in given}
    return replace(usual, **asked)


class Memory:
    """Resident memory of a process and its children together, looked at all the time; the most of it is kept."""

    def __init__(self, bridge: Child) -> None:
        self._process = psutil.Process(bridge.pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def now(self) -> int:
        """All of it, in bytes."""
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def _watch(self) -> None:
        while not self._ended.wait(POLL_S):
            self.peak = max(self.peak, self.now())


def overload(load: Overload) -> dict[str, object]:
    """One overload from start to last delivery; its figures. Raises AssertionError where a promise is broken."""
    with tempfile.TemporaryDirectory(prefix="overload-") as folder, ExitStack() as stack:
        sink = stack.enter_context(child("sink", "tests.bench.otlp_sink", cores=CORES))
        exporters = EXPORTER.format(name="alive", endpoint=sink.event("endpoint")["endpoint"])
        if load.dead:
            dead = stack.enter_context(child("dead backend", "tests.bench.otlp_sink", cores=CORES))
            exporters += EXPORTER.format(name="dead", endpoint=dead.event("endpoint")["endpoint"])
            dead.ask("close")
        config = Path(folder) / "bridge.toml"
        values = {"memory": load.memory, "workers": load.workers, "window": load.window, "folder": folder}
        config.write_text(CONFIG.format(**values) + exporters)
        bridge = stack.enter_context(child("bridge", "bridge", "run", "--config", str(config), cores=CORES))
        ready = bridge.event('"ready"')
        memory = stack.enter_context(Memory(bridge))
        idle = memory.now()
        sustained = ready["max_waiting_spans"] / load.window
        floods, stock = _offer(load, ready, load.times * sustained)
        bridge.check()
        spans, requests = _sum(floods, "spans"), _sum(floods, "answers")
        refused = metrics(ready["web"])
        ended = sum(sender["ended"] for sender in stock)
        acknowledged = spans["taken"] + ended
        delivered = _delivered(sink, acknowledged)
        figures: dict[str, object] = {
            "memory limit, MiB": load.memory,
            "idle memory, MiB": idle // MIB,
            "peak memory, MiB": memory.peak // MIB,
            "seconds": load.seconds,
            "sustained at this memory, spans/s": round(sustained),
            "offered, spans/s": round(spans["offered"] / load.seconds),
            "offered, requests": requests["offered"],
            "acknowledged, requests": requests["taken"],
            "acknowledged, spans": spans["taken"],
            "acknowledged, spans/s": round(spans["taken"] / load.seconds),
            "pushed back, requests": requests["pushed_back"],
            "pushed back by reason": refused,
            "waited for an answer instead, requests": requests["not_sent"],
            "ended by stock senders, spans": ended,
            "delivered, spans": delivered["distinct"],
            "lost, spans": acknowledged - delivered["distinct"],
        }
        print(json.dumps(figures), flush=True)
        _check(load, figures, requests, stock)
    return figures


def _offer(load: Overload, ready: Mapping[str, Any], rate: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run all senders to their end; what each came to."""
    with ExitStack() as stack:
        floods, stock = [], []
        for seed, protocol in enumerate(load.protocols, 1):
            arguments = {
                "protocol": protocol,
                "address": ready[RECEIVERS[protocol]],
                "rate": rate / len(load.protocols),
                "seconds": load.seconds,
                "connections": CONNECTIONS[protocol],
                "batch": BATCH[protocol],
                "calls": load.calls if protocol == "grpc" else 1,
                "seed": seed,
            }
            floods.append(stack.enter_context(_started("tests.support.flood", arguments)))
        for protocol in ("grpc", "http") if load.stock else ():
            endpoint = f"http://{ready[RECEIVERS[protocol]]}"
            arguments = {"protocol": protocol, "endpoint": endpoint, "rate": STOCK_RATE, "seconds": load.seconds}
            stock.append(stack.enter_context(_started("tests.support.stock_sender", arguments)))
        patience_s = load.seconds + FLOODED_S
        return [f.event('"done"', patience_s) for f in floods], [s.event('"done"', patience_s) for s in stock]


@contextmanager
def _started(module: str, arguments: Mapping[str, object]) -> Iterator[Child]:
    given = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    with child(f"{module} {arguments['protocol']}", module, *given, cores=CORES) as started:
        yield started


def _sum(reports: list[dict[str, Any]], kind: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report[kind])
    return total


def _delivered(sink: Child, spans: int) -> dict[str, Any]:
    """What the sink has once it has so many spans, or when nothing has come for too long."""
    deadline, last = time.monotonic() + DELIVERY_S, -1
    while time.monotonic() < deadline:
        came = sink.ask("spans")["spans"]
        if came >= spans and (totals := sink.ask("totals"))["distinct"] >= spans:
            return totals
        if came != last:
            deadline, last = time.monotonic() + DELIVERY_S, came
        time.sleep(POLL_S)
    return sink.ask("totals")


def metrics(web: str) -> dict[str, int]:
    """Requests the bridge refused or held, by receiver and reason."""
    with urllib.request.urlopen(f"http://{web}/metrics") as answer:
        text = answer.read().decode()
    refused = re.findall(r'^receiver_refused_requests_total\{reason="(\w+)",receiver="(\w+)"\} (\S+)$', text, re.M)
    refused += re.findall(r'^receiver_refused_requests_total\{receiver="(\w+)",reason="(\w+)"\} (\S+)$', text, re.M)
    held = re.findall(r'^(receiver_held_requests)_total\{receiver="(\w+)"\} (\S+)$', text, re.M)
    return {" ".join(sorted((one, other))): int(float(number)) for one, other, number in refused + held}


def _check(load: Overload, figures: Mapping[str, Any], requests: Counter[str], stock: list[dict[str, Any]]) -> None:
    odd = set(requests) - {"offered", "taken", "pushed_back", "not_sent"}
    assert not odd, f"requests were answered with {odd}: {requests}"
    assert figures["lost, spans"] == 0, f"{figures['lost, spans']} acknowledged spans were not delivered"
    assert figures["peak memory, MiB"] <= load.memory, f"{figures['peak memory, MiB']} MiB at their height"
    pushed = requests["pushed_back"] + requests["not_sent"]
    assert pushed > requests["taken"], "this was no overload"
    for sender in stock:
        assert not sender["failures"], f"a stock sender gave up: {sender['failures'][:3]}"
        assert sender["flushed"], "a stock sender could not deliver what it had"
