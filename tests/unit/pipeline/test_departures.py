"""Counting of what left, against a plain count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.pipeline.departures import VERDICTS, left_traces
from bridge.spans import Decisions, Outcome

ROW = st.tuples(st.sampled_from(list(Outcome)), st.integers(0, 2), st.integers(0, 2))


def decisions(rows: list[tuple[Outcome, int, int]]) -> Decisions:
    outcome, high, low = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return Decisions.from_columns(len(rows), outcome=outcome, ebpf_trace_hi=high, ebpf_trace_lo=low)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=12))
def test_traces_are_counted_by_verdict(rows: list[tuple[Outcome, int, int]]) -> None:
    """Each id once, though copies and ordinary spans stand between; all spans of a trace share a verdict."""
    verdict_of = {(high, low): list(VERDICTS)[(high + low) % 2] for _, high, low in rows}
    rows = sorted((verdict_of[h, lo] if o in VERDICTS else o, h, lo) for o, h, lo in rows)
    rows.sort(key=lambda row: row[1:])
    left = {(h, lo) for o, h, lo in rows if o in VERDICTS}
    plain = [VERDICTS[verdict_of[trace]] for trace in left]
    assert left_traces(decisions(rows)) == {verdict: plain.count(verdict) for verdict in set(plain)}


@pytest.mark.parametrize("outcome", [Outcome.FOLDED, Outcome.PASS])
def test_copies_and_ordinary_spans_are_no_traces(outcome: Outcome) -> None:
    """They count as spans only."""
    assert left_traces(decisions([(outcome, 1, 1)])) == {}
