"""Rows that left: what later rows may still be related to, with the decisions on them, narrow."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bridge.linker.slots import I32Array, SlotStore
from bridge.spans import Decisions, SpanColumns

_TRACE: Final = ("trace_hi", "trace_lo", "ebpf_trace_hi", "ebpf_trace_lo", "encode")
REPEATED: Final = frozenset(("sender", "service"))
"""Columns of which a system has few values."""
_UNUSED: Final = ("service",)
"""Columns that no link is made by."""
_NOT_ASKED: Final = ("parent_span_id", "method", "confidence")
"""Decisions that no later row depends on; of the eBPF parent only whether there is one."""


def packed(columns: SpanColumns) -> dict[str, NDArray[np.generic]]:
    """Columns in the form slots keep: the end as a length, the sent span id as its difference from the span id."""
    values: dict[str, NDArray[np.generic]] = dict(columns.items())
    values["end_ns"] = columns.end_ns - columns.start_ns
    values["sent_span_id"] = columns.sent_span_id ^ columns.span_id
    return values


def unpacked(values: dict[str, NDArray[np.generic]]) -> SpanColumns:
    """Columns back from what slots kept; a column that was not kept is 0."""
    start, span_id = values["start_ns"], values["span_id"]
    values["end_ns"] = start + values["end_ns"]  # type: ignore[operator]  # numbers, whatever their width
    values["sent_span_id"] = span_id ^ values["sent_span_id"]  # type: ignore[operator]
    for name in _UNUSED:
        values.setdefault(name, np.zeros(start.size, SpanColumns.dtypes()[name]))
    return SpanColumns(**values)  # type: ignore[arg-type]


def _dtypes() -> dict[str, DTypeLike]:
    dtypes: dict[str, DTypeLike] = {n: d for n, d in SpanColumns.dtypes().items() if n not in _UNUSED}
    dtypes.update({f"d_{n}": d for n, d in Decisions.dtypes().items() if n not in (*_TRACE, *_NOT_ASKED)})
    return dtypes | {"d_trace": np.int32, "d_order": np.uint32}


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Slots, most of which follow upon one another, as runs."""

    starts: I32Array
    lengths: I32Array

    @classmethod
    def of(cls, slots: I32Array) -> "_Runs":
        at = np.concatenate([np.zeros(min(slots.size, 1), np.intp), np.flatnonzero(np.diff(slots) != 1) + 1])
        return cls(slots[at], np.diff(at, append=slots.size).astype(np.int32))

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def slots(self) -> I32Array:
        before = np.cumsum(self.lengths) - self.lengths
        runs = np.repeat(self.starts - before, self.lengths)
        return (runs + np.arange(runs.size)).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class _Tick:
    left_ns: int
    rows: _Runs
    traces: I32Array
    mark: int
    """The group index's mark after these rows were indexed."""


class Remembered:
    """Rows that left, by slot, in ticks that are forgotten in the order they left."""

    def __init__(self) -> None:
        self._rows = SlotStore(_dtypes(), REPEATED)
        self._traces = SlotStore({n: Decisions.dtypes()[n] for n in _TRACE})
        self._ticks: deque[_Tick] = deque()
        self._order, self._left_ns = 0, -1

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def capacity(self) -> int:
        """Slots are below this."""
        return self._rows.capacity

    @property
    def row_bytes(self) -> float:
        """Bytes of columns per row at present."""
        traces = self._traces.row_bytes * len(self._traces) / max(1, len(self._rows))
        return self._rows.row_bytes + traces

    def put(
        self, columns: SpanColumns, decisions: Decisions, left_ns: NDArray[np.int64], rows: NDArray[np.intp]
    ) -> tuple[I32Array, I32Array]:
        """Keep these rows; return their slots and, beside them, the slot of each row's trace ids.

        left_ns: when each of the `rows` left. `close_tick` must follow, for all rows that left at one time together.
        """
        traces = self._put_traces(decisions, left_ns, rows)
        slots = self._rows.allocate(rows.size)
        # rows of one trace get slots side by side; all are written as they stand
        every = rows.size == len(columns)
        by = _inverse(rows) if every else slice(None)
        mine = (columns, decisions) if every else (columns.take(rows), decisions.take(rows))
        values: Mapping[str, NDArray[np.generic]] = packed(mine[0]) | {
            "d_outcome": mine[1].outcome,
            "d_span_id": mine[1].span_id ^ mine[0].span_id,
            "d_ebpf_parent_id": (mine[1].ebpf_parent_id != 0).astype(np.uint64),
            "d_trace": traces[by],
            "d_order": np.zeros(rows.size, np.uint32),
        }
        self._rows.put(slots[by], values)
        return slots, traces

    def _put_traces(self, decisions: Decisions, left_ns: NDArray[np.int64], rows: NDArray[np.intp]) -> I32Array:
        """Trace ids once per run of rows that share them and leave together."""
        if not rows.size:
            return np.empty(0, np.int32)
        starts = np.ones(rows.size, np.bool_)
        starts[1:] = left_ns[1:] != left_ns[:-1]
        for name in _TRACE:
            column = getattr(decisions, name)[rows]
            starts[1:] |= column[1:] != column[:-1]
        first = decisions.take(rows[starts])
        slots = self._traces.allocate(len(first))
        self._traces.put(
            slots,
            {n: getattr(first, n) for n in _TRACE}
            | {
                "ebpf_trace_hi": first.ebpf_trace_hi ^ first.trace_hi,
                "ebpf_trace_lo": first.ebpf_trace_lo ^ first.trace_lo,
            },
        )
        of_rows: I32Array = slots[np.cumsum(starts) - 1]
        return of_rows

    def take(self, slots: I32Array) -> tuple[SpanColumns, Decisions, NDArray[np.int64]]:
        """Columns, decisions and order of leaving of rows; an eBPF parent's id reads 1, what was not kept 0."""
        values = self._rows.take(slots)
        kept = {n.removeprefix("d_"): values.pop(n) for n in tuple(values) if n.startswith("d_")}
        columns = unpacked(values)
        kept |= self._traces.take(kept.pop("trace").astype(np.int32))
        order = kept.pop("order").astype(np.int64)
        kept["span_id"] = kept["span_id"] ^ columns.span_id  # type: ignore[operator]
        for name, base in (("ebpf_trace_hi", "trace_hi"), ("ebpf_trace_lo", "trace_lo")):
            kept[name] = kept[name] ^ kept[base]  # type: ignore[operator]
        kept |= {name: np.zeros(slots.size, Decisions.dtypes()[name]) for name in _NOT_ASKED}
        return columns, Decisions(**kept), order  # type: ignore[arg-type]

    def close_tick(self, left_ns: int, rows: I32Array, traces: I32Array, mark: int) -> None:
        """Note that these rows left at this time; ticks are closed in order of time."""
        if left_ns != self._left_ns:
            self._order, self._left_ns = self._order + 1, left_ns
        self._rows.put_one("d_order", rows, np.full(rows.size, self._order, np.uint32))
        first = np.ones(traces.size, np.bool_)
        first[1:] = traces[1:] != traces[:-1]  # rows of one trace stand together
        self._ticks.append(_Tick(left_ns, _Runs.of(rows), traces[first], mark))

    def forget(self, before_ns: int, most: int) -> tuple[I32Array, int, int] | None:
        """Free the rows that left at or before this time, then the oldest until no more than `most` are left.

        Returns their slots, the last tick's mark, and how many of them the time would have kept; None for no rows.
        """
        gone: list[_Tick] = []
        left = len(self)
        early = 0
        while self._ticks and (self._ticks[0].left_ns <= before_ns or left > most):
            tick = self._ticks.popleft()
            gone.append(tick)
            left -= len(tick.rows)
            early += len(tick.rows) if tick.left_ns > before_ns else 0
        if not gone:
            return None
        rows = np.concatenate([t.rows.slots() for t in gone])
        self._rows.release(rows)
        self._traces.release(np.concatenate([t.traces for t in gone]))
        return rows, gone[-1].mark, early


def _inverse(order: NDArray[np.intp]) -> NDArray[np.intp]:
    inverse = np.empty_like(order)
    inverse[order] = np.arange(order.size)
    return inverse
