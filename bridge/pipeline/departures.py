"""Counts what left in a tick."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bridge.linker import Departed
from bridge.spans import Decisions, Method, Outcome
from bridge.telemetry import Instruments

Code = TypeVar("Code", Method, Outcome)

GROUPS = "groups_"
"""What counts of groups that left begin with; the reason follows."""
VERDICTS = {Outcome.EXPORT: "kept", Outcome.SAMPLED_OUT: "rejected"}


def count_departed(instruments: Instruments, departed: Departed) -> None:
    """Count the spans, edges, traces and oddities of one tick."""
    decisions = departed.departure.decisions
    for outcome, count in _by_code(decisions.outcome, Outcome):
        instruments.left_spans.add(count, {"outcome": outcome.name.lower()})
    for method, count in _by_code(decisions.method[decisions.outcome == Outcome.EXPORT], Method):
        instruments.edges.add(count, {"method": method.name.lower()})
    for verdict, count in left_traces(decisions).items():
        instruments.left_traces.add(count, {"verdict": verdict})
    for kind, count in departed.counts.items():
        if not count:
            continue
        if kind.startswith(GROUPS):
            instruments.left_groups.add(count, {"reason": kind.removeprefix(GROUPS)})
        else:
            instruments.oddities.add(count, {"kind": kind})


def left_traces(decisions: Decisions) -> dict[str, int]:
    """How many eBPF traces were kept and rejected, verdicts that none had left out.

    Rows of one trace stand together, so a trace begins where the id differs from that of the row before.
    """
    espans = (decisions.outcome == Outcome.EXPORT) | (decisions.outcome == Outcome.SAMPLED_OUT)
    high, low = decisions.ebpf_trace_hi[espans], decisions.ebpf_trace_lo[espans]
    begins = np.ones(high.size, np.bool_)
    begins[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    counted = _by_code(decisions.outcome[espans][begins], Outcome)
    return {VERDICTS[outcome]: count for outcome, count in counted}


def _by_code(codes: NDArray[np.uint8], of: type[Code]) -> list[tuple[Code, int]]:
    """How often each code appears, those that do not left out."""
    return [(of(code), count) for code, count in enumerate(np.bincount(codes).tolist()) if count]
