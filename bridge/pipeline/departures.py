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
    for method, count in _by_code(decisions.method, Method, decisions.outcome == Outcome.EXPORT):
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
    outcome, high, low = decisions.outcome, decisions.ebpf_trace_hi, decisions.ebpf_trace_lo
    espans = (outcome == Outcome.EXPORT) | (outcome == Outcome.SAMPLED_OUT)
    if not espans.all():
        outcome, high, low = outcome[espans], high[espans], low[espans]
    begins = np.ones(outcome.size, np.bool_)
    begins[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return {VERDICTS[verdict]: count for verdict, count in _by_code(outcome, Outcome, begins)}


def _by_code(
    codes: NDArray[np.uint8], of: type[Code], among: NDArray[np.bool_] | None = None
) -> list[tuple[Code, int]]:
    """How often each code appears, those that do not left out. among: which rows count; None: all."""
    found = []
    for code in of:
        here = codes == code
        if count := int(np.count_nonzero(here if among is None else here & among)):
            found.append((code, count))
    return found
