"""The committed figures, tests/bench/figures.json: what each case was, in itself and in calibration loops."""

import json
from collections.abc import Iterable
from pathlib import Path

from tests.bench.cases import CASES, SHORT_CASES
from tests.bench.table import Line

FILE = Path(__file__).with_name("figures.json")
DIGITS = 4


def read() -> dict[str, dict[str, float]]:
    """By case name: `value` as it was measured, `normal` for comparison between machines."""
    return dict(json.loads(FILE.read_text())) if FILE.exists() else {}


def write(lines: Iterable[Line]) -> None:
    """Put what was measured beside what is there; cases that exist no more go."""
    figures = read()
    for line in lines:
        if line.value is not None and line.normal is not None:
            figures[line.case.name] = {"value": _short(line.value), "normal": _short(line.normal)}
    kept = {case.name: figures[case.name] for case in (*CASES, *SHORT_CASES) if case.name in figures}
    FILE.write_text(json.dumps(kept, indent=2) + "\n")


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
