"""Every command of the documentation is run: as it stands there, with files of the names it has there.

The blocks are run one by one in a network of their own, so that the ports that are written everywhere are free. What
cannot be run is in a table, line by line with the reason; what is in neither fails.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.documented import ROOT, Block, Command, blocks, commands_of
from tests.support.namespaces import NotPermitted, own_network

JAEGER = "docker run --rm -p 16686:16686 -p 14317:4317 jaegertracing/jaeger:latest"
CLUSTER = "no cluster; tests/interop has kustomize make the objects"
NOT_RUN = {
    JAEGER: "no Docker; tests/interop runs a Jaeger",
    "kubectl diff -k conf/kubernetes/otlp": CLUSTER,
    "kubectl apply -k conf/kubernetes/otlp": CLUSTER,
    "cibuildwheel --output-dir dist dist/espan_bridge-*.tar.gz": "it wants Docker; `make dist` builds for what is here",
}
"""Commands that cannot be run here, without the variables before them, and why."""
RUN = {"", "espan-bridge", "curl"}
NOT_HERE = {"docker", "kubectl", "cibuildwheel"}
DATAKIT_FOLDER = "/usr/local/datakit/conf.d"
DATAKIT = """
[dataway]
urls = ["https://openway.guance.com?token=tkn_0123456789abcdef0123456789abcdef"]
"""
SENDER = """
import sys
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
provider = TracerProvider()
exporter = OTLPSpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
provider.get_tracer("documented").start_span("of an instrumented service").end()
sys.exit(0 if exporter.force_flush() else 1)
"""
READY_S, END_S = 60.0, 60.0
SHORTER = {"--duration": "1s"}
"""Values of options that would take longer than they show."""
HERE_AND_NOW = 1
"""What `check` ends with where the settings are right and a backend is away, as all are in this network."""


class Bridge:
    """A documented `espan-bridge run`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._ready = threading.Event()
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def ready(self) -> None:
        """Return once its receivers are open."""
        assert self._ready.wait(READY_S), self.said
        assert self._process.poll() is None, self.said

    def stop(self) -> None:
        """SIGTERM; it ends well."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(END_S) == 0, self.said
        self._reader.join()

    def kill(self) -> None:
        """Whatever became of it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.said.append(line)
            if " ready " in line:
                self._ready.set()
        self._ready.set()


class Shell:
    """Runs the commands of one block one after another, as somebody who follows the page does."""

    def __init__(self, folder: Path, entering: tuple[str, ...], stack: ExitStack) -> None:
        self._folder, self._entering, self._stack = folder, entering, stack
        self.bridge: Bridge | None = None

    def run(self, command: Command) -> None:
        """To its end; a bridge until it is ready, in the place of the one before."""
        program, *arguments = command.words or ("",)
        if program == "espan-bridge" and arguments[0] == "run":
            self.end()
            self.bridge = Bridge(self._start(command))
            self._stack.callback(self.bridge.kill)
            self.bridge.ready()
            return
        process = self._start(command)
        said, errors = process.communicate("y\n", timeout=END_S)
        allowed = {0, HERE_AND_NOW} if arguments[:1] == ["check"] else {0}
        assert process.returncode in allowed, f"{command.text}: {said} {errors}"
        if process.returncode == HERE_AND_NOW:
            problems = [line for line in errors.splitlines() if line.startswith("  ")]
            assert problems
            assert all(line.startswith(("  dataway.", "  exporters.")) for line in problems), errors

    def end(self) -> None:
        """Stop the bridge, if there is one."""
        if self.bridge is not None:
            self.bridge.stop()
            self.bridge = None

    def _start(self, command: Command) -> "subprocess.Popen[str]":
        words = [word.replace(DATAKIT_FOLDER, str(self._folder)) for word in command.words]
        if words[:1] == ["curl"]:
            if not shutil.which("curl"):
                pytest.skip("curl is not installed")
            words[1:1] = ["--fail"]
        for option, value in SHORTER.items():
            if option in words:
                words[words.index(option) + 1] = value
        return subprocess.Popen(
            [*self._entering, *(words or [sys.executable, "-c", SENDER])],
            cwd=self._folder,
            env=_environ() | dict(command.variables),
            stdin=subprocess.PIPE if words[1:2] != ["run"] else subprocess.DEVNULL,
            stdout=subprocess.PIPE if words[1:2] != ["run"] else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def _environ() -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ENV_", "OTEL_")) and not k.endswith("_proxy")}
    return clean | {"PATH": f"{Path(sys.executable).parent}:{clean['PATH']}"}


@contextmanager
def shell_in(folder: Path) -> Iterator[Shell]:
    """A shell where files are called as on the pages: the samples of conf/, and a DataKit's settings with a Dataway."""
    (folder / "bridge.toml").write_text((ROOT / "conf" / "bridge.toml").read_text())
    (folder / "ebpftrace").mkdir()
    for name in ("ebpftrace.conf", "ebpftrace/ebpftrace.conf"):
        (folder / name).write_text((ROOT / "conf" / "ebpftrace.conf").read_text())
    (folder / "datakit.conf").write_text(DATAKIT)
    try:
        with own_network() as entering, ExitStack() as stack:
            yield Shell(folder, entering, stack)
    except NotPermitted as exc:
        pytest.skip(f"no network of its own can be made here: {exc}")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """One for a block in whose place nothing runs yet."""
    with shell_in(tmp_path) as made:
        yield made
        made.end()


@pytest.fixture(scope="module")
def beside_a_bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One for all blocks that speak to a bridge: one with the sample's settings runs there already."""
    with shell_in(tmp_path_factory.mktemp("beside")) as made:
        made.run(Command("", (), ("espan-bridge", "run", "--config", "bridge.toml")))
        yield made
        made.end()


PLAIN = [block for block in blocks("") if not block.is_drawing]


def to_be_run(block: Block) -> tuple[Command, ...]:
    """Its commands that can be run here."""
    return tuple(c for c in commands_of(block) if not {*c.words[:1]} - RUN)


OURS = {commands: block for block in PLAIN if (commands := to_be_run(block))}
"""Blocks by their commands: what stands on several pages is run once."""


def test_every_line_is_a_command_that_is_run_or_in_the_table() -> None:
    """A new kind of command has to be looked at by somebody; the table holds nothing that is gone."""
    left_out = set()
    for block in PLAIN:
        for command in commands_of(block):
            program = command.words[0] if command.words else ""
            assert program in RUN | NOT_HERE | {"make"}, f"{block}: {command.text}"
            if program in NOT_HERE:
                left_out.add(" ".join(command.words))
                assert " ".join(command.words) in NOT_RUN, f"{block}: say in NOT_RUN why it cannot be run here"
    assert left_out == set(NOT_RUN)


def test_make_targets_are_there() -> None:
    """The targets themselves are run by hand and by CI: `make test` runs this."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {c.words[1] for block in PLAIN for c in commands_of(block) if c.words[:1] == ("make",)}
    assert used
    assert used <= targets


def needs_one(commands: tuple[Command, ...]) -> bool:
    """Whether they speak to a bridge that somebody else started."""
    speaks = any(not c.words or c.words[0] == "curl" or c.words[1] in ("simulate", "outbox") for c in commands)
    return speaks and all(c.words[1:2] != ("run",) for c in commands)


def block_of(commands: tuple[Command, ...]) -> str:
    """Where they stand."""
    return str(OURS[commands])


@pytest.mark.parametrize("commands", [c for c in OURS if not needs_one(c)], ids=block_of)
def test_documented_commands_stand_alone(commands: tuple[Command, ...], shell: Shell) -> None:
    """From top to bottom; each bridge is ready, and ends well on SIGTERM."""
    for command in commands:
        shell.run(command)
    shell.end()


@pytest.mark.parametrize("commands", [c for c in OURS if needs_one(c)], ids=block_of)
def test_documented_commands_speak_to_a_bridge(commands: tuple[Command, ...], beside_a_bridge: Shell) -> None:
    """Beside a bridge that runs, as the pages have it."""
    for command in commands:
        beside_a_bridge.run(command)
