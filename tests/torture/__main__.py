"""`make torture`: breaks things for real and at length, and prints what became of it.

    python -m tests.torture [--only NAME,...] [--short] [--write] [KEY=VALUE ...]

Each scenario is a module of this folder with `run(long, options)`, which returns its figures and raises AssertionError
where a promise was broken; its docstring says what it does and which KEYs it knows. All are run, whatever becomes of
one. `--write` keeps the figures in tests/torture/figures.json; those of scenarios that did not run stay. The exit code
is 1 where a promise was broken or a scenario failed.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

SCENARIOS = ("kills", "terms", "exporter_faults", "overload", "disk", "quota", "rotation", "soak")
"""Modules, in the order they are run in."""
FILE = Path(__file__).with_name("figures.json")
VERSIONS = ("espan-bridge", "numpy", "grpcio", "aiohttp", "protobuf", "sqlalchemy")

Figures = Mapping[str, object]


def say(text: str) -> None:
    print(text, flush=True)


def known() -> list[str]:
    """Scenarios that are there."""
    return [name for name in SCENARIOS if importlib.util.find_spec(f"tests.torture.{name}")]


def run(name: str, *, long: bool, options: Mapping[str, str]) -> tuple[Figures, str]:
    """The figures of a scenario, and what was broken, "" where nothing was."""
    try:
        return importlib.import_module(f"tests.torture.{name}").run(long=long, options=options), ""
    except AssertionError as exc:
        return {}, f"a promise was broken: {exc}"
    except Exception:  # noqa: BLE001 -- the next scenario is run whatever became of this one
        return {}, traceback.format_exc()


def table(name: str, figures: Figures, took_s: float) -> str:
    """The figures of one scenario, one a line."""
    width = max(map(len, figures), default=0)
    lines = [f"  {key.ljust(width)}  {_text(value)}" for key, value in figures.items()]
    return "\n".join([f"{name}, {took_s:.0f} s", *lines])


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def write(done: Mapping[str, Figures], *, long: bool) -> None:
    """Keep the figures beside those of other scenarios."""
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "form": "long" if long else "short",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {package: version(package) for package in VERSIONS},
    }
    kept |= {name: {**about, "figures": figures} for name, figures in done.items()}
    FILE.write_text(json.dumps({name: kept[name] for name in SCENARIOS if name in kept}, indent=2) + "\n")


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names).difference(SCENARIOS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(SCENARIOS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_names, default=SCENARIOS, metavar="NAME,...", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--short", action="store_true", help="as the tests do it")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {FILE.name}")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="what a scenario is told")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its processes end, too
    options = dict(option.split("=", 1) for option in args.options)
    done, broken = dict[str, Figures](), list[str]()
    for name in (name for name in known() if name in args.only):
        say(f"{name} ...")
        begun = time.monotonic()
        figures, what = run(name, long=not args.short, options=options)
        if what:
            broken.append(name)
            say(f"{name}: {what}\n")
        else:
            done[name] = figures
            say(f"{table(name, figures, time.monotonic() - begun)}\n")
    if args.write:
        write(done, long=not args.short)
    say(f"broken: {', '.join(broken)}" if broken else "every promise was kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
