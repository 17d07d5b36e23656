"""A fresh environment without a compiler, and a bridge that is run from there, away from the source tree."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import aiohttp
import anyio

from tests.support.bridge_process import Bridge
from tests.support.received import spans_of_lines

COMMAND_S = 600
SPANS = 198
"""What `simulate` sends in a second at a rate of 200: whole traces."""
PAGE = ("/", "/static/page.js", "/api/openapi.json", "/readyz")
SETTINGS = """
shutdown_grace = "10s"
[[inputs.ebpftrace]]
db_path = "store"
window = "1s"
sampling_rate = 1.0
[store]
flush_on_stop = true
[receivers]
profiles = ["deepflow"]
[receivers.otlp_grpc]
port = 0
[receivers.otlp_http]
port = 0
[web]
port = 0
[telemetry]
log_format = "json"
[exporters.lines]
type = "file"
path = "out.jsonl"
"""


class Installed:
    """An environment of its own: programs are those in it, and no others are on the path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=COMMAND_S)
        dropped = ("PYTHON", "ENV_", "OTEL_", "CC", "CFLAGS", "CXX", "LD", "VIRTUAL_ENV")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        self.environ = kept | {"PATH": str(folder / "bin"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        found = [name for name in ("cc", "gcc", "clang", "c99") if shutil.which(name, path=self.environ["PATH"])]
        assert not found, f"{found} would compile here"

    def program(self, name: str) -> str:
        """The path of one of its programs."""
        return str(self._folder / "bin" / name)

    def run(self, name: str, *words: str | Path, cwd: Path | None = None) -> str:
        """What a program printed. Raises AssertionError with all of it where its exit code is not 0."""
        command = [self.program(name), *map(str, words)]
        done = subprocess.run(
            command,
            cwd=cwd or self._folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def install_dependencies(self, project: Path) -> None:
        """What the project asks for, from wheels: none of it needs a compiler either."""
        wanted = tomllib.loads(project.read_text())["project"]["dependencies"]
        self.run("python", "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary", ":all:", *wanted)

    def wheel_of(self, sdist: Path, folder: Path) -> Path:
        """What pip makes of an sdist here."""
        self.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, sdist)
        (made,) = folder.glob("*.whl")
        return made

    def install(self, wheel: Path) -> None:
        """In the place of what was there before; nothing that it asks for may be missing."""
        self.run("python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", wheel)
        self.run("python", "-m", "pip", "check")


def try_bridge(there: Installed, folder: Path, *, version: str, compiled: bool) -> None:
    """Check, run, send, look at the page, stop. Raises AssertionError with the first thing that is wrong."""
    folder.mkdir(exist_ok=True)
    (folder / "bridge.toml").write_text(SETTINGS)
    where = there.run("python", "-c", "import bridge; print(bridge.__file__)", cwd=folder)
    assert where.startswith(str(Path(there.program("python")).parents[1])), where
    said = there.run("espan-bridge", "--version", cwd=folder)
    assert said == f"espan-bridge {version}\n", said
    there.run("espan-bridge", "check", "--config", "bridge.toml", cwd=folder)
    anyio.run(_run, there, folder, compiled)
    spans = len(list(spans_of_lines((folder / "out.jsonl").read_text().splitlines())))
    assert spans == SPANS, f"{spans} of {SPANS} spans came out"


async def _run(there: Installed, folder: Path, compiled: bool) -> None:
    command = (there.program("espan-bridge"), "run", "--config", "bridge.toml")
    process = await anyio.open_process(command, cwd=folder, env=there.environ, stdin=None, stdout=None)
    bridge = Bridge(process)
    async with process, anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.read)
        try:
            await bridge.ready()
            await _use(there, folder, bridge)
            code = await bridge.stop()
        finally:
            if process.returncode is None:
                process.kill()
    assert code == 0, f"exit code {code}: {bridge.log} {bridge.text}"
    (kernels,) = [event["compiled_kernel"] for event in bridge.log if "compiled_kernel" in event]
    assert kernels is compiled, f"compiled_kernel is {kernels}"


async def _use(there: Installed, folder: Path, bridge: Bridge) -> None:
    """Send what is simulated, and read the page."""
    target = f"http://{bridge.address('otlp_grpc')}"
    words = ("simulate", "--endpoint", target, "--rate", "200", "--duration", "1s")
    report = await anyio.to_thread.run_sync(lambda: there.run("espan-bridge", *words, cwd=folder))
    assert f"acknowledged  {SPANS} spans" in report, report
    async with aiohttp.ClientSession(f"http://{bridge.address('web')}") as client:
        for path in PAGE:
            async with client.get(path) as answer:
                assert answer.status == 200, f"{path}: {answer.status}"
                assert await answer.read(), f"{path} is empty"
