"""`make fuzz`: tries inputs of every decoder, each in a process of its own, and says how many.

Inputs that fail lie in tests/fuzz/crashes; `python -m tests.fuzz --keep FILE` makes a regression of one.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
MEMORY = "/dev/shm"  # noqa: S108 -- folders in it are made under names that nobody can foresee
INPUTS = re.compile(r"(?:stat::number_of_executed_units:|^inputs) +(\d+)", re.MULTILINE)


def run(
    name: str, seconds: int, *, by_chance: bool, root: Path = HERE.parents[1], environ: Mapping[str, str] = os.environ
) -> tuple[int, int, str]:
    """(exit code, inputs tried, what it said) of one target, with the code in `root`."""
    command = [sys.executable, "-m", "tests.fuzz.engine", name, str(seconds), str(HERE)]
    # in memory: settings are written for each input
    with TemporaryDirectory(prefix="fuzz-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as scratch:
        done = subprocess.run(
            [*command, *(["--by-chance"] if by_chance else [])],
            cwd=root,
            env={**environ, "TMPDIR": scratch},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds * 3 + 300,
            check=False,
        )
    said = done.stdout + done.stderr
    found = INPUTS.findall(said)
    return done.returncode, int(found[-1]) if found else 0, said


def told(said: str) -> str:
    """Of what a process said the part that is about its end."""
    lines = said.splitlines()
    first = next((i for i, line in enumerate(lines) if "Uncaught Python exception" in line), len(lines) - 40)
    return "\n".join(line for line in lines[max(0, first) :] if not line.startswith("INFO:"))


def keep(path: Path, names: list[str]) -> Path:
    """Put an input among the regressions of its target."""
    name = max((n for n in names if path.name.startswith(f"{n}-")), key=len)
    folder = HERE / "regressions" / name
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, folder / path.name.removeprefix(f"{name}-")))


def main() -> int:
    """Fuzz what is asked for; 1 where something failed."""
    from tests.fuzz.sanitized import sanitized_copy
    from tests.fuzz.targets import TARGETS

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--target", default="", help="one of " + ", ".join(TARGETS) + "; all without it")
    options.add_argument("--seconds", type=int, default=60, help="for each target")
    options.add_argument("--by-chance", action="store_true", help="without atheris")
    options.add_argument("--sanitize", action="store_true", help="kernels built with sanitizers; without atheris")
    options.add_argument("--keep", type=Path, help="make a regression of this file instead")
    args = options.parse_args()
    if args.keep:
        print(keep(args.keep, list(TARGETS)))
        return 0
    names = [args.target] if args.target else list(TARGETS)
    if not args.sanitize:
        return fuzz(names, args.seconds, by_chance=args.by_chance)
    root, environ = sanitized_copy(HERE.parents[1])
    try:
        return fuzz(names, args.seconds, by_chance=True, root=root, environ=environ)
    finally:
        shutil.rmtree(root.parent, ignore_errors=True)


def fuzz(
    names: list[str],
    seconds: int,
    *,
    by_chance: bool,
    root: Path = HERE.parents[1],
    environ: Mapping[str, str] = os.environ,
) -> int:
    """One target after another; 1 where one failed."""
    failed = False
    for name in names:
        code, inputs, said = run(name, seconds, by_chance=by_chance, root=root, environ=environ)
        failed |= code != 0
        print(f"{name:18} {inputs:>10,} inputs in {seconds} s{f'  FAILED (exit {code})' if code else ''}", flush=True)
        if code:
            print(told(said))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
