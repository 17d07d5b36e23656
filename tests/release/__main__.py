"""`make dist`: the sdist and the wheel, built as they would be released, looked into, installed and run.

    python -m tests.release [--quick]

- The sdist is built from this folder, the wheel from the sdist, each in an environment of its own. auditwheel says
  which Linuxes the wheel fits, and the wheel is named so.
- Both hold what they should, file by file (`contents`).
- The wheel is installed into a fresh environment with no compiler on the path, and a bridge is run from there, away
  from this folder (`installed`).
- The sdist is installed without a compiler: the bridge runs with the plain twins of its kernels, and says so.

Both end up in dist/. --quick keeps neither and compiles without optimisation. Raises AssertionError with the output of
the tool that failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bridge import __version__
from tests.release.contents import check_sdist, check_wheel
from tests.release.installed import Installed, try_bridge

ROOT = Path(__file__).resolve().parents[2]
BUILD_S = 900
QUICK = {"CFLAGS": "-g0 -O0"}
"""In the place of Python's own flags, which a release is compiled with."""
STARTED = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def tool(*command: str | Path, flags: Mapping[str, str] | None = None) -> None:
    """Run a module of this environment; its output only matters where it fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = os.environ | {"PATH": path} | dict(flags or {})
    words = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"


def only(folder: Path, pattern: str) -> Path:
    """The one file of this name."""
    (found,) = folder.glob(pattern)
    return found


def build_wheel(sdist: Path, folder: Path, flags: Mapping[str, str] | None) -> Path:
    """A wheel of what the sdist holds, named after the Linuxes it fits; debug information would be most of it."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    tool("build", "--wheel", "--outdir", folder / "linux", only(folder / "source", "*"), flags=flags)
    tool("auditwheel", "repair", "--strip", "--wheel-dir", folder / "manylinux", only(folder / "linux", "*.whl"))
    return only(folder / "manylinux", "*.whl")


def release(folder: Path, flags: Mapping[str, str] | None) -> tuple[Path, Path]:
    """The sdist and the wheel, once everything about them was tried."""
    tool("build", "--sdist", "--outdir", folder / "sdist", ROOT)
    sdist = only(folder / "sdist", "*.tar.gz")
    check_sdist(sdist, ROOT)
    say(f"{sdist.name}: {sdist.stat().st_size / 1e6:.1f} MB")
    with ThreadPoolExecutor() as side:
        wheel_built = side.submit(build_wheel, sdist, folder, flags)
        there = Installed(folder / "venv")
        there.install_dependencies(ROOT / "pyproject.toml")
        say("a fresh environment has the dependencies")
        plain = there.wheel_of(sdist, folder / "plain")
        say("the sdist becomes a wheel without a compiler")
        wheel = wheel_built.result()
    check_wheel(wheel, ROOT)
    say(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    for what, path, compiled in (("the wheel", wheel, True), ("the sdist without a compiler", plain, False)):
        there.install(path)
        try_bridge(there, folder / path.parent.name, version=__version__, compiled=compiled)
        say(f"{what}: installed, checked, run, stopped; compiled kernels: {'yes' if compiled else 'no'}")
    return sdist, wheel


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.release")
    parser.add_argument("--quick", action="store_true", help="compile without optimisation, keep nothing")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        made = release(Path(folder), QUICK if quick else None)
        if not quick:
            (ROOT / "dist").mkdir(exist_ok=True)
            for path in made:
                say(f"dist/{Path(shutil.copy(path, ROOT / 'dist')).name}")


if __name__ == "__main__":
    main()
