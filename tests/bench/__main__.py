"""`make bench`: what a span costs the bridge, as whole processes on loopback, against the committed figures.

    python -m tests.bench [--only TEXT ...] [--write | --curves] | --ci | --stages

The bridge runs on one core, generator and sink share another. Sampling 1.0, window 20 s unless a case needs none, every
span has an id of its own, the sink counts distinct ids. CPU seconds are those of all processes and threads of the
bridge, from before the first span until the last came out. A run whose generator and sink had more than 80 % of their
core in use says so and does not count. `ratio` compares with the committed figures, each in calibration loops of its
own run. The exit code is 1 where a span was lost or a run failed, and never because of a figure.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from tests.bench import committed
from tests.bench.cases import CASES, RUNS, SHORT_CASES, Bench, Case, Outcome, Skipped
from tests.bench.children import RunFailed
from tests.bench.curves import curves
from tests.bench.stages import stage_table
from tests.bench.table import Line, number, table

FALLBACK_LIMIT = 100_000.0
LIMIT_CASES = {"otlp": "lossless on one core, OTLP", "datakit": "lossless on one core, DataKit"}


def say(text: str) -> None:
    print(text, flush=True)


def outcomes(cases: Sequence[Case]) -> dict[str, Outcome]:
    """Every run that these cases are read off, in the order of RUNS."""
    then = committed.read()
    limits = {way: then.get(name, {}).get("value", FALLBACK_LIMIT) for way, name in LIMIT_CASES.items()}
    bench, wanted = Bench(say, limits), {case.run for case in cases}
    found = {}
    for name, run in RUNS.items():
        if name not in wanted:
            continue
        try:
            found[name] = run(bench)
        except Skipped as exc:
            found[name] = Outcome({}, 1.0, (str(exc),))
        except RunFailed as exc:
            say(f"{exc}")
            found[name] = Outcome({}, 1.0, ("FAILED, see above",), failed=True)
        say(f"  {name}: {', '.join(f'{k} {number(v)}' for k, v in found[name].values.items()) or found[name].notes[0]}")
    return found


def line(case: Case, outcome: Outcome, *, first: bool) -> Line:
    """A case beside what is committed; the first of a run has the run's notes."""
    was, value = committed.read().get(case.name, {}), outcome.values.get(case.value)
    normal = None if value is None else case.normal(value, outcome.loop_s)
    return Line(case, value, normal, was.get("value"), was.get("normal"), outcome.notes if first else ())


def compare(cases: Sequence[Case], *, write: bool) -> bool:
    """Measure, print the table, and keep the figures where asked to; whether all went well."""
    found = outcomes(cases)
    firsts = {case.run: case for case in reversed(cases)}
    lines = [line(case, found[case.run], first=firsts[case.run] is case) for case in cases]
    say(f"\n{table(lines)}")
    if write:
        committed.write(lines)
    return not any(outcome.broken for outcome in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="TEXT",
        help="cases, or points of curves, with one of these in their names",
    )
    parser.add_argument("--write", action="store_true", help="keep what is measured as the committed figures")
    parser.add_argument("--ci", action="store_true", help="half a minute's worth")
    parser.add_argument("--curves", action="store_true", help="how cost grows; takes half an hour")
    parser.add_argument("--stages", action="store_true", help="each stage of the OTLP path by itself, in one process")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its processes end, too
    if args.stages:
        stage_table(512, "exact")
        return 0
    if args.curves:
        return int(curves(say, args.only) > 0)
    cases = [case for case in (SHORT_CASES if args.ci else CASES) if any(text in case.name for text in args.only)]
    return 0 if compare(cases, write=args.write) else 1


if __name__ == "__main__":
    sys.exit(main())
