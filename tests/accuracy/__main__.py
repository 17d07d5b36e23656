"""`make accuracy`: how many links are right, on recorded systems and made-up ones, beside the reference's rule.

    python -m tests.accuracy [--only TEXT] [--shared FOLDER] [--seed N] [--assembler]

Recordings and tools are those of the shared folder: espanize.py turns recorded traces into eSpans whose parents are
known and breaks what the case says, `espan-bridge link` links them, score.py counts. docs/accuracy.md keeps the table.
Ends with 1 if a goal was missed or a run does not count.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.accuracy.cases import CASES
from tests.accuracy.scoring import TRACES, Outcome, run
from tests.accuracy.systems import SYSTEMS

COLUMNS = (
    "case",
    "reference: in-process",
    "bridge: in-process",
    "at most",
    "cross-process",
    "whole traces (reference)",
    "least process",
    "CPU s",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/ and tools/")
    parser.add_argument("--seed", type=int, default=1, help="of the made-up systems")
    parser.add_argument("--assembler", action="store_true", help="link as the service does, not as one window")
    arguments = parser.parse_args()
    tools = arguments.shared / "tools"
    if not (tools / "espanize.py").is_file():
        print(f"{tools}: no espanize.py there: nothing to measure with (--shared says where it is)")
        return 1
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="accuracy-") as name:
        folder = Path(name)
        for case in (c for c in CASES if arguments.only in c.name):
            recording = arguments.shared / "data" / f"{case.recording}.csv.gz"
            if case.recording in SYSTEMS:
                recording = folder / f"{case.recording}.csv"
                if not recording.exists():
                    SYSTEMS[case.recording].record(recording, traces=TRACES, seed=arguments.seed)
            outcomes.append(run(case, recording, folder, tools, incremental=arguments.assembler))
            print(line(outcomes[-1]), flush=True)
    print("\n" + calibration(outcomes))
    missed = [f"{o.case.name}: {', '.join(o.missed) or 'does not count'}" for o in outcomes if o.missed or not o.counts]
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "every goal reached"))
    return bool(missed)


def line(outcome: Outcome) -> str:
    """One row of the table."""
    ours, theirs = outcome.bridge, outcome.reference
    where, recall, edges = outcome.worst
    cells = (
        f"{outcome.case.recording} `{outcome.case.options}`",
        _pair(theirs["in-process"]),
        _pair(ours["in-process"]) + (" **missed**" if outcome.missed else ""),
        "" if outcome.bound is None else f"{outcome.bound:.3f}",
        _pair(ours["cross-process"]),
        f"{ours['whole_traces']:.3f} ({theirs['whole_traces']:.3f})",
        f"{recall:.3f} of {edges}: {where}",
        f"{outcome.cpu_s:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def _pair(edges: dict[str, float | None]) -> str:
    return " / ".join("-" if edges[name] is None else f"{edges[name]:.3f}" for name in ("recall", "precision"))


def calibration(outcomes: list[Outcome]) -> str:
    """Of the edges said to be so sure, how many are right; all cases together, and the worst one."""
    lines = ["| confidence | edges | right | least in one case of 50 edges or more |", "|---|---|---|---|"]
    for step in sorted({step for o in outcomes for step in o.bridge["confidence"]}):
        tables = [o.bridge["confidence"][step] for o in outcomes if step in o.bridge["confidence"]]
        edges = sum(n for n, _ in tables)
        right = sum(n * share for n, share in tables) / edges
        least = min((share for n, share in tables if n >= 50), default=None)
        lines.append(f"| {step} | {edges} | {right:.3f} | {'-' if least is None else f'{least:.3f}'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
