"""What must hold of what came out, whatever was done to the bridge meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.torture.traffic import RETRYABLE, Stream, Truth

U64 = NDArray[np.uint64]
Open = Sequence[tuple[float, float]]
"""From when to when senders could have been served, in seconds since the epoch: the lives of the bridge."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts; `wrong` says which promises were broken."""

    figures: dict[str, object]
    wrong: list[str]


def judge(stream: Stream, came: Mapping[str, U64], lives: Open, window_s: float) -> Verdict:
    """Compare what each exporter's backend was sent (see `backend.COLUMNS`) with what was acknowledged and is true."""
    truth, taken = stream.truth(), [s for s in stream.sent if s.acknowledged_s < np.inf]
    acknowledged = _all([s.ids for s in taken])
    whole = _whole_traces(stream, truth, lives, window_s)
    figures: dict[str, object] = {
        "spans acknowledged": int(acknowledged.size),
        "spans never acknowledged": int(truth.ids.size - acknowledged.size),
        "traces": int(np.unique(truth.traces).size),
        "traces compared": int(whole.size),
    }
    wrong = [f"a sender was answered {a!r}" for a in sorted(set(stream.answers) - RETRYABLE)]
    firsts = {}
    for name, rows in came.items():
        first, differing = _distinct(rows)
        firsts[name] = first
        lost = int(np.setdiff1d(acknowledged, first[:, 0]).size)
        unknown = int(np.setdiff1d(first[:, 0], truth.ids).size)
        misplaced = _wrong_edges(first, truth, whole)
        other = misplaced.size
        figures |= {
            f"{name}: delivered": len(first),
            f"{name}: lost": lost,
            f"{name}: copies": len(rows) - len(first),
            f"{name}: copies that differ": differing,
            f"{name}: spans in a wrong place": other,
        }
        for count, what in ((lost, "acknowledged spans lost"), (differing, "spans with copies that differ"),
                            (unknown, "spans nobody sent"), (other, "spans with another parent or trace")):  # fmt: skip
            if count:
                wrong.append(f"{name}: {count} {what}")
        if other:
            wrong.append(_told(int(misplaced[0]), first, stream, truth, lives))
    if unequal := _unequal(list(firsts.values())):
        wrong.append(f"{unequal} spans have other ids at one exporter than at another")
    if not whole.size:
        wrong.append("no trace was sent in time: the machine is too slow to say anything about links")
    return Verdict(figures, wrong)


def _whole_traces(stream: Stream, truth: Truth, lives: Open, window_s: float) -> U64:
    """Numbers of traces that were acknowledged whole and in time.

    In time: from when the first of its requests was sent until the last was acknowledged, no life of the bridge was
    open to senders for half a window. Others may have left without their last spans.
    """
    first, last = {}, {}
    lost = set[int]()
    for sent in stream.sent:
        for trace in np.unique(sent.traces).tolist():
            first[trace] = min(first.get(trace, np.inf), sent.first_s)
            last[trace] = max(last.get(trace, 0.0), sent.acknowledged_s)
            if sent.acknowledged_s == np.inf:
                lost.add(trace)
    numbers = np.array(sorted(first.keys() - lost), np.uint64)
    begin, end = (np.array([times[n] for n in numbers.tolist()]) for times in (first, last))
    longest = np.zeros(numbers.size)
    for opened, closed in lives:
        longest = np.maximum(longest, np.minimum(end, closed) - np.maximum(begin, opened))
    return numbers[longest < window_s / 2]


def _distinct(rows: U64) -> tuple[U64, int]:
    """One row of each span, ascending; how many spans have copies that differ."""
    different = np.unique(rows, axis=0)
    _, at, versions = np.unique(different[:, 0], return_index=True, return_counts=True)
    return different[at], int((versions > 1).sum())


def _wrong_edges(first: U64, truth: Truth, whole: U64) -> U64:
    """Ids of spans of whole traces without their true parent, or not in one trace with the others of theirs alone.

    A span of another trace that is not whole is let be: the linker may have found the next best place for it.
    """
    at = np.searchsorted(truth.ids, first[:, 0])
    known = (at < truth.ids.size) & (truth.ids[np.minimum(at, truth.ids.size - 1)] == first[:, 0])
    compared = known & np.isin(truth.traces[np.minimum(at, truth.ids.size - 1)], whole)
    rows, at = first[compared], at[compared]
    traces = truth.traces[at]
    wrong = rows[:, 3] != truth.parents[at]
    _, ids = np.unique(rows[:, 1:3], axis=0, return_inverse=True)
    pairs = np.unique(np.stack([traces, ids.reshape(-1).astype(np.uint64)]), axis=1)
    for axis, column in ((0, traces), (1, ids.reshape(-1))):
        value, count = np.unique(pairs[axis], return_counts=True)
        wrong |= np.isin(column, value[count > 1])
    return rows[wrong, 0]


def _told(span: int, first: U64, stream: Stream, truth: Truth, lives: Open) -> str:
    """How the trace of this span came to be sent, and what came out: for whoever has to find out why."""
    trace = truth.traces[np.searchsorted(truth.ids, span)]
    parts = [
        (s.first_s, s.acknowledged_s, f"{s.protocol} {[f'{i:x}' for i in s.ids[s.traces == trace].tolist()]}")
        for s in stream.sent
        if trace in s.traces
    ]
    sent = [f"{first_s:.3f}-{last_s:.3f} {what}" for first_s, last_s, what in sorted(parts)]
    begin, end = min(parts)[0], max(parts)[0]
    at = np.isin(first[:, 0], truth.ids[truth.traces == trace])
    came = [f"{i:x} in {high:x}{low:x} under {parent:x}" for i, high, low, parent, _ in first[at].tolist()]
    parents = dict(zip(truth.ids.tolist(), truth.parents.tolist(), strict=True))
    true = [f"{i:x} under {parents[i]:x}" for i in truth.ids[truth.traces == trace].tolist()]
    near = [f"{a:.3f}-{b:.3f}" for a, b in lives if b > begin - 10 and a < end + 10]
    return "\n".join(
        [
            f"trace {trace}, sent:",
            *sent,
            "lives:",
            *near,
            "came:",
            *came,
            "true:",
            *true,
            "",
        ]
    )


def _unequal(firsts: list[U64]) -> int:
    """Spans of which two backends were told other ids."""
    both = np.concatenate([np.zeros((0, 5), np.uint64), *firsts])[:, :4]
    _, versions = np.unique(np.unique(both, axis=0)[:, 0], return_counts=True)
    return int((versions > 1).sum())


def _all(parts: Sequence[U64]) -> U64:
    return np.concatenate([np.zeros(0, np.uint64), *parts])
