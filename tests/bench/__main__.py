"""`make bench`: what a span costs the bridge, as whole processes on loopback.

    python -m tests.bench [--rate N] [--seconds S] [--quick]

The bridge runs pinned to one core; generator and sink share another. Sampling 1.0, window 20 s, every span has an id of
its own, the sink counts distinct ids. CPU seconds are those of all processes and threads of the bridge, from before
the first span until the last came out. A run whose generator or sink needed more than 80 % of its core says so and does
not count. Ratios are what to compare: a calibration loop (pure Python, fixed work) is timed in the same run.
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
GOAL_CPU_S = 15.0
GOAL_RSS_MB = 400
RSS_RATE = 16_667

CONFIG = """
[[inputs.ebpftrace]]
db_path = "{folder}/store"
window = "{window}s"
sampling_rate = 1.0
[receivers.otlp_grpc]
port = 0
[receivers.otlp_http]
port = 0
[web]
port = 0
[telemetry]
log_format = "json"
[exporters.sink]
type = "otlp_grpc"
endpoint = "http://127.0.0.1:{sink}"
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """One run."""

    name: str
    spans: int
    distinct: int
    copies: int
    seconds: float
    bridge_cpu_s: float
    bridge_cpu_busy_s: float
    peak_mb: float
    generator_share: float
    sink_share: float

    @property
    def cpu_per_million(self) -> float:
        return self.bridge_cpu_s / self.spans * 1e6

    @property
    def counts(self) -> str:
        """Why the run does not count, "" when it does."""
        busy = [n for n, share in (("generator", self.generator_share), ("sink", self.sink_share)) if share > LIMIT]
        return f"does not count: {' and '.join(busy)} above {LIMIT:.0%} of a core" if busy else ""


@contextmanager
def process(*command: str, cores: set[int]) -> Iterator[subprocess.Popen[str]]:
    def pin() -> None:
        os.sched_setaffinity(0, cores)

    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=pin)  # noqa: PLW1509 -- no threads here
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
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/totals", timeout=60) as answer:  # noqa: S310 -- our own sink
        return json.load(answer)


def run(name: str, *, rate: int, seconds: float, batch: int, threads: str) -> Figures:
    """One load, from start to the last span delivered."""
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = {cores[0]}, {cores[-1]}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="espan-bench-")))
        sink = stack.enter_context(process(sys.executable, "-m", "tests.support.sink", cores=theirs))
        ports = json.loads(until(sink.stdout, "grpc_port"))
        config = folder / "bridge.toml"
        config.write_text(CONFIG.format(folder=folder, window=WINDOW_S, sink=ports["grpc_port"]))
        bridge = stack.enter_context(
            process(sys.executable, "-m", "bridge", "run", "--config", str(config), cores=mine)
        )
        ready = json.loads(until(bridge.stdout, "ready"))
        before, sink_before = cpu_s(bridge.pid), cpu_s(sink.pid)
        started = time.monotonic()
        command = (
            sys.executable, "-m", "bridge", "simulate", "--endpoint", f"http://{ready['otlp_grpc']}", "--rate", str(rate),
            "--duration", f"{seconds}s", "--batch", str(batch), "--threads", threads,
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
        busy_cpu = cpu_s(bridge.pid) - before
        sent = int(report.split("acknowledged")[1].split()[0])
        deadline = time.monotonic() + WINDOW_S + 60
        while time.monotonic() < deadline and (totals := sink_totals(ports["http_port"]))["spans"] < sent:
            time.sleep(0.5)
        total_s = time.monotonic() - started
        if "behind" in report:
            print(f"  {name}: {report.split('behind')[1].strip()}")
        return Figures(
            name, sent, totals["distinct"], totals["copies"], loaded_s, cpu_s(bridge.pid) - before, busy_cpu,
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
        f"generator {figures.generator_share:.0%}  sink {figures.sink_share:.0%}  {figures.counts}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=25_000, help="spans a second of the cost run")
    parser.add_argument("--seconds", type=float, default=40, help="length of each run's load")
    parser.add_argument("--batch", type=int, default=512, help="spans a request")
    parser.add_argument("--threads", choices=("exact", "agent"), default="exact")
    parser.add_argument("--quick", action="store_true", help="one short run")
    args = parser.parse_args()
    loop_s = calibration_s()
    print(
        f"calibration loop: {loop_s:.2f} s; goals: {GOAL_CPU_S:g} CPU-s per million, {GOAL_RSS_MB} MB at {RSS_RATE}/s"
    )
    stage_table(args.batch, args.threads)
    seconds = 10 if args.quick else args.seconds
    runs = [
        run(
            f"OTLP/gRPC -> OTLP/gRPC, {args.batch} a request",
            rate=args.rate,
            seconds=seconds,
            batch=args.batch,
            threads=args.threads,
        )
    ]
    show(runs[0], loop_s)
    if not args.quick:
        runs.append(
            run(
                f"the same at {RSS_RATE}/s",
                rate=RSS_RATE,
                seconds=seconds + WINDOW_S,
                batch=args.batch,
                threads=args.threads,
            )
        )
        show(runs[1], loop_s)
    whole = all(f.distinct == f.spans for f in runs)
    print("no span lost, none folded" if whole else "SPANS LOST")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
