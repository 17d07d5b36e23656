"""Runs one case: recording to eSpans, eSpans to links by both linkers, links to scores."""

import csv
import json
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.accuracy.baseline import link_as_the_reference, spans_of
from tests.accuracy.bound import upper_bound
from tests.accuracy.cases import Case
from tests.accuracy.incremental import BATCH

TRACES = 600


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case; scores are score.py's."""

    case: Case
    reference: dict[str, Any]
    bridge: dict[str, Any]
    cpu_s: float
    """Of the whole command, start of Python included."""
    worst: tuple[str, float, int]
    """The process with the least recall of in-process edges: name, recall, edges."""
    bound: float | None
    """What could be right at most, where that is less than all."""

    @property
    def counts(self) -> bool:
        """Whether every span came out, once."""
        return self.bridge["delivered"] == self.bridge["spans"] and self.bridge["copies"] == 0

    @property
    def missed(self) -> list[str]:
        """Names of goals that were not reached."""
        case, inside = self.case, self.bridge["in-process"]
        across = self.bridge["cross-process"]
        got = {
            "recall": (inside["recall"], case.recall),
            "precision": (inside["precision"], case.precision),
            "whole": (self.bridge["whole_traces"], case.whole),
            "across": (across["recall"], case.across),
        }
        return [name for name, (value, goal) in got.items() if (value or 0) < goal]


def run(case: Case, recording: Path, folder: Path, tools: Path, *, incremental: bool = False) -> Outcome:
    """Build, link, score. Raises SystemExit with what a tool said that failed.

    incremental: link as the service does, tick by tick.
    """
    base = folder / "case"
    cut = ("--batch", str(BATCH)) if incremental else ()
    _python(str(tools / "espanize.py"), str(recording), "--out", str(base), *cut, *case.options.split())
    spans, truth = folder / "case.otlp.jsonl", folder / "case.truth.csv"
    ours, theirs = folder / "bridge.jsonl", folder / "reference.jsonl"
    before = _children_cpu_s()
    if incremental:
        _python("-m", "tests.accuracy.incremental", str(spans), str(ours))
    else:
        _python("-m", "bridge", "link", str(spans), "--output", str(ours), "--no-use-app-trace-id")
    cpu_s = _children_cpu_s() - before
    link_as_the_reference(spans, theirs)
    scores = _score(tools, truth, theirs), _score(tools, truth, ours)
    bound = upper_bound(spans, truth) if case.threadless else None
    return Outcome(case, *scores, cpu_s, _worst(spans, truth, ours), bound)


def _python(*arguments: str) -> str:
    try:
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as exc:
        raise SystemExit(f"{' '.join(arguments)}: {exc.stderr}") from exc


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _score(tools: Path, truth: Path, linked: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(_python(str(tools / "score.py"), str(truth), str(linked), "--json"))
    return scores


def _worst(spans: Path, truth: Path, linked: Path) -> tuple[str, float, int]:
    process = {s["spanId"]: _process(s, values) for s, values in spans_of(spans)}
    got = {s["spanId"]: s.get("parentSpanId", "") for s, _ in spans_of(linked)}
    edges, right = Counter[str](), Counter[str]()
    with truth.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "exit" and row["parent_span_id"]:
                where = process[row["span_id"]]
                edges[where] += 1
                right[where] += got.get(row["span_id"]) == row["parent_span_id"]
    where = min(edges, key=lambda one: (right[one] / edges[one], one))
    return where, right[where] / edges[where], edges[where]


def _process(span: dict[str, Any], values: dict[str, Any]) -> str:
    return f"{values['process_name']} ({values['pid']})"
