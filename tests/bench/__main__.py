"""`make bench`: what a span costs the bridge, as whole processes on loopback.

    python -m tests.bench [--path otlp|datakit] [--rate N] [--seconds S] [--quick]

The bridge runs pinned to one core; generator and sink share another. Sampling 1.0, window 20 s, every span has an id of
its own, the sink counts distinct ids. CPU seconds are those of all processes and threads of the bridge, from before
the first span until the last came out. A run whose generator and sink together had more than 80 % of their core in use
says so and does not count. Ratios are what to compare: a calibration loop (pure Python, fixed work) is timed beside it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from tests.bench.stages import stage_table

WINDOW_S = 20
LIMIT = 0.8
GOAL_RSS_MB = 400
RSS_RATE = 16_667
RETAINED_S = 4 * WINDOW_S + 10
"""Spans wait for one window and are remembered for three: memory is at its full height only after that."""

CONFIG = """
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
[web]
port = 0
[telemetry]
log_format = "json"
[exporters.sink]
{exporter}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way through the bridge: what comes in, what goes out."""

    name: str
    receiver: str
    """Whose address spans are sent to."""
    protocol: str
    batch: int
    sink: tuple[str, ...]
    """Module and options of the backend."""
    exporter: str
    """Settings of the exporter, with the ports and the URL the backend says."""
    totals_port: str
    """Under which of the backend's ports its totals are."""
    goal_cpu_s: float


WAYS = {
    "otlp": Way(
        "OTLP/gRPC -> OTLP/gRPC",
        "otlp_grpc",
        "grpc",
        512,
        ("tests.support.sink",),
        'type = "otlp_grpc"\nendpoint = "http://127.0.0.1:{grpc_port}"',
        "http_port",
        15.0,
    ),
    "datakit": Way(
        "DataKit -> Dataway",
        "datakit",
        "datakit",
        256,
        ("tests.support.dataway", "--quick"),
        'type = "dataway"\nurl = "{url}"',
        "port",
        20.0,
    ),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One run."""

    name: str
    spans: int
    distinct: int
    copies: int
    seconds: float
    bridge_cpu_s: float
    peak_mb: float
    generator_share: float
    sink_share: float

    @property
    def cpu_per_million(self) -> float:
        return self.bridge_cpu_s / self.spans * 1e6

    @property
    def driver_share(self) -> float:
        """Share of their core that generator and sink, which share it, had in use."""
        return self.generator_share + self.sink_share

    @property
    def counts(self) -> str:
        """Whether the run counts: a driver without room to spare measures itself."""
        verdict = "counts" if self.driver_share <= LIMIT else "DOES NOT COUNT"
        return f"{verdict}: generator and sink at {self.driver_share:.0%} of their core, {LIMIT:.0%} allowed"


@contextmanager
def process(*command: str, cores: set[int]) -> Iterator[subprocess.Popen[str]]:
    def pin() -> None:
        os.sched_setaffinity(0, cores)

    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=pin)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=60)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children, all threads."""
    parent = psutil.Process(pid)
    times = [p.cpu_times() for p in (parent, *parent.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def until(stream: IO[str] | None, word: str) -> str:
    seen = []
    for line in stream or ():
        if word in line:
            return line
        seen.append(line)
    raise SystemExit("".join(seen))


def sink_totals(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/totals", timeout=60) as answer:
        return json.load(answer)


def run(name: str, way: Way, *, rate: int, seconds: float, batch: int, threads: str) -> Figures:
    """One load, from start to the last span delivered."""
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = {cores[0]}, {cores[-1]}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="espan-bench-")))
        sink = stack.enter_context(process(sys.executable, "-m", *way.sink, cores=theirs))
        ports = json.loads(until(sink.stdout, "port"))
        config = folder / "bridge.toml"
        config.write_text(CONFIG.format(folder=folder, window=WINDOW_S, exporter=way.exporter.format(**ports)))
        bridge = stack.enter_context(
            process(sys.executable, "-m", "bridge", "run", "--config", str(config), cores=mine)
        )
        ready = json.loads(until(bridge.stdout, "ready"))
        before, sink_before = cpu_s(bridge.pid), cpu_s(sink.pid)
        started = time.monotonic()
        command = (
            sys.executable, "-m", "bridge", "simulate", "--endpoint", f"http://{ready[way.receiver]}",
            "--protocol", way.protocol, "--rate", str(rate), "--duration", f"{seconds}s", "--batch", str(batch),
            "--threads", threads,
        )  # fmt: skip
        with process(*command, cores=theirs) as generator:
            watched = psutil.Process(generator.pid)
            generator_cpu = 0.0
            while generator.poll() is None:
                times = watched.cpu_times()
                generator_cpu = times.user + times.system
                time.sleep(0.2)
            report = generator.communicate()[0]
            if generator.returncode:
                raise SystemExit(report)
        loaded_s = time.monotonic() - started
        sent = int(report.split("acknowledged")[1].split()[0])
        deadline = time.monotonic() + WINDOW_S + 60
        while time.monotonic() < deadline and (totals := sink_totals(ports[way.totals_port]))["distinct"] < sent:
            time.sleep(0.5)
        total_s = time.monotonic() - started
        if "behind" in report:
            print(f"  {name}: {report.split('behind')[1].strip()}")
        return Figures(
            name, sent, totals["distinct"], totals["copies"], loaded_s, cpu_s(bridge.pid) - before,
            peak_mb(bridge.pid), generator_cpu / loaded_s, (cpu_s(sink.pid) - sink_before) / total_s,
        )  # fmt: skip


def calibration_s() -> float:
    """Fixed work in pure Python: how fast this machine is just now."""
    started, total = time.perf_counter(), 0
    for i in range(5_000_000):
        total += i * i % 7
    return time.perf_counter() - started


def show(figures: Figures, loop_s: float) -> None:
    lost = figures.spans - figures.distinct
    print(
        f"{figures.name:34s} {figures.spans:9d} spans  {figures.spans / figures.seconds:8.0f}/s  "
        f"{figures.cpu_per_million:6.2f} CPU-s per million ({figures.cpu_per_million / loop_s:5.1f} loops)  "
        f"peak {figures.peak_mb:5.0f} MB  lost {lost}  copies {figures.copies}  "
        f"generator {figures.generator_share:.0%}  sink {figures.sink_share:.0%}\n  {figures.counts}"
    )


def summary(runs: dict[str, list[Figures]]) -> int:
    """Compare the runs with the goals; the exit code is 1 where spans were lost."""
    for path, (cost, *others) in runs.items():
        print(f"{WAYS[path].name}: {cost.cpu_per_million:.1f} of {WAYS[path].goal_cpu_s:g} CPU s per million spans")
        for figures in others:
            print(f"  memory at {RSS_RATE}/s: {figures.peak_mb:.0f} of {GOAL_RSS_MB} MB")
    whole = all(f.distinct == f.spans for of_path in runs.values() for f in of_path)
    print("no span lost, none folded" if whole else "SPANS LOST")
    return 0 if whole else 1


def runs_of(way: Way, args: argparse.Namespace, loop_s: float) -> Iterator[Figures]:
    """The cost run, and unless it is to be quick one at a million spans a minute."""
    batch, seconds = args.batch or way.batch, 10 if args.quick else args.seconds
    loads = [(f"{way.name}, {batch} a request", args.rate, seconds)]
    if not args.quick:
        loads.append((f"{way.name} at {RSS_RATE}/s", RSS_RATE, max(seconds, RETAINED_S)))
    for name, rate, load_s in loads:
        figures = run(name, way, rate=rate, seconds=load_s, batch=batch, threads=args.threads)
        show(figures, loop_s)
        yield figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", choices=tuple(WAYS), help="one way through the bridge; all of them if left out")
    parser.add_argument("--rate", type=int, default=25_000, help="spans a second of the cost run")
    parser.add_argument("--seconds", type=float, default=40, help="length of each run's load")
    parser.add_argument("--batch", type=int, help="spans a request; if left out what is usual: 512, DataKit 256")
    parser.add_argument("--threads", choices=("exact", "agent"), default="exact")
    parser.add_argument("--quick", action="store_true", help="short runs")
    args = parser.parse_args()
    loop_s = calibration_s()
    print(f"calibration loop: {loop_s:.2f} s; goal for memory: {GOAL_RSS_MB} MB at {RSS_RATE}/s")
    paths = [args.path] if args.path else list(WAYS)
    if "otlp" in paths:
        stage_table(args.batch or WAYS["otlp"].batch, args.threads)
    return summary({path: list(runs_of(WAYS[path], args, loop_s)) for path in paths})


if __name__ == "__main__":
    sys.exit(main())
