#!/usr/bin/env python3
"""The bridge at work: plays recorded eSpans into it and shows the traces that come out.

    demo.py [--keep]

Three processes beside this one: the bridge (SQLite in a temporary folder, window 2 s, every trace kept), a sink (an
OTLP backend made of OpenTelemetry's own service classes, see sink.py) and a player (the OpenTelemetry SDK's exporter,
see play.py). Ends by itself; with --keep it stays up until Ctrl-C and says what listens where.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.exporters.trees import render_traces

HERE = Path(__file__).resolve().parent
RECORDING = HERE / "online-boutique" / "agent.otlp.jsonl.gz"
SHOWN_TRACES = 3
DEADLINE_S = 45.0

CONFIG = """
[[inputs.ebpftrace]]
db_path = "{folder}/store"
window = "2s"
sampling_rate = 1.0

[receivers.otlp_grpc]
port = {grpc}
[receivers.otlp_http]
port = {http}
[web]
port = {web}
[telemetry]
log_format = "json"

[exporters.demo]
type = "otlp_grpc"
endpoint = "http://127.0.0.1:{sink}"
"""


@contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A child process that gets SIGTERM when the context ends."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=30)
        if child.stdout:
            child.stdout.close()


def line_of(stream: IO[str] | None, word: str) -> str:
    """The first line that contains the word; the stream's end before it is an error."""
    for line in stream or ():
        if word in line:
            return line
    raise SystemExit(f"a process of the demo ended before it was {word}; its messages stand above")


def trace_ids_and_methods(bodies: list[bytes]) -> tuple[int, set[bytes], Counter[str]]:
    """Number of spans, their trace ids, and how many edges were found by each method."""
    spans, traces, methods = 0, set[bytes](), Counter[str]()
    for body in bodies:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in group.scope_spans:
                for span in scope.spans:
                    spans += 1
                    traces.add(span.trace_id)
                    found = {a.key: a.value.string_value for a in span.attributes if a.key == "espan.link.method"}
                    methods[found.get("espan.link.method", "unlinked" if not span.parent_span_id else "as sent")] += 1
    return spans, traces, methods


def received(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.pb"))]


def wait_for(folder: Path, spans: int) -> list[bytes]:
    """The sink's requests once they hold this many spans; gives up loudly after a while."""
    deadline, known = time.monotonic() + DEADLINE_S, 0
    while time.monotonic() < deadline:
        if len(list(folder.glob("*.pb"))) > known:
            bodies = received(folder)
            known = len(bodies)
            if trace_ids_and_methods(bodies)[0] >= spans:
                return bodies
        time.sleep(0.1)
    raise SystemExit(
        f"only {trace_ids_and_methods(received(folder))[0]} of {spans} spans came out in {DEADLINE_S:.0f} s"
    )


def show(bodies: list[bytes], sent: int) -> None:
    """Some traces as trees, then what became of everything."""
    lines = "\n".join(render_traces(bodies, width=int(os.environ.get("COLUMNS", "120"))))
    trees = sorted(lines.strip().split("\n\n"), key=lambda tree: tree.count("\n"), reverse=True)
    print("\nThe largest traces that came out. The last column says how the edge to the parent was found.\n")
    print("\n\n".join(trees[:SHOWN_TRACES]), end="\n\n")
    spans, traces, methods = trace_ids_and_methods(bodies)
    edges = ", ".join(f"{name} {count}" for name, count in sorted(methods.items()) if name != "unlinked")
    print(f"spans in    {sent}\nspans out   {spans}\ntraces out  {len(traces)}\nedges       {edges}")
    print(f"unlinked    {methods['unlinked']} (roots of the {len(traces)} traces)")


def stay(bridge: subprocess.Popen[str]) -> None:
    """Show what the bridge logs until Ctrl-C."""
    try:
        for line in bridge.stdout or ():
            print(line, end="")
    except KeyboardInterrupt:
        print("\nstopping")
    else:
        raise SystemExit("the bridge ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="stay up until Ctrl-C")
    keep = parser.parse_args().keep
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="espan-demo-")))
        inbox = folder / "sink"
        inbox.mkdir()
        sink = stack.enter_context(process(sys.executable, str(HERE / "sink.py"), "--output", str(inbox)))
        sink_port = int(line_of(sink.stdout, "listening on").split()[-1])
        ports = {"grpc": 4317, "http": 4318, "web": 4319} if keep else {"grpc": 0, "http": 0, "web": 0}
        config = folder / "bridge.toml"
        config.write_text(CONFIG.format(folder=folder, sink=sink_port, **ports))
        command = (sys.executable, "-m", "bridge", "run", "--config", str(config))
        bridge = stack.enter_context(process(*command, stderr=subprocess.STDOUT))
        ready = json.loads(line_of(bridge.stdout, "ready"))
        print(f"the bridge receives on {ready['otlp_grpc']} (gRPC) and {ready['otlp_http']} (HTTP), window 2 s")
        play = (sys.executable, str(HERE / "play.py"), str(RECORDING), "--endpoint", f"http://{ready['otlp_grpc']}")
        with process(*play) as player:
            sent = json.loads(line_of(player.stdout, "spans"))["spans"]
        print(f"a second process sent {sent} recorded eSpans of Online Boutique; waiting for the window to pass")
        show(wait_for(inbox, sent), sent)
        if keep:
            print(
                f"\nstill running: OTLP/gRPC on {ready['otlp_grpc']}, OTLP/HTTP on {ready['otlp_http']}, health and "
                f"metrics on http://{ready['web']}/metrics; what comes out lies in {inbox}. Ctrl-C ends it.",
                flush=True,
            )
            stay(bridge)


if __name__ == "__main__":
    main()
