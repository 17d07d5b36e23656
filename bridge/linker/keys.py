"""What rows can be related by, as 64-bit keys: rows that share one are grouped; a thread's rows share a timeline."""

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bridge.linker.times import ends
from bridge.spans import Kind, SpanColumns
from bridge.spans.ids import mix

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]
RowKeys = tuple[U64Array, U64Array, I64Array]
"""Group keys, timeline (0 for a row that is not `placed`) and end on the clock of ktime of each row."""

NET: Final = 0
"""The net id; a row without a usable one is keyed by (span id, digest) instead, so that its exact copies meet it."""
THREAD: Final = 1
"""The thread trace id."""
TRACE: Final = 2
"""The trace id found in headers."""
OWN: Final = 3
"""(own trace id, own span id): what a child's headers would name."""
NAMED: Final = 4
"""(header trace id, header parent id): the span that the headers name. Meets OWN keys."""
LANES: Final = 5

_FACTORS: Final = tuple(
    np.uint64(f) for f in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
)
_COPY: Final = LANES
_TIMELINE: Final = LANES + 1


def _key(salt: int, *columns: U64Array) -> U64Array:
    total = np.full(columns[0].size, (salt + 1) * 0x9FB21C651E98DF25 & 0xFFFFFFFFFFFFFFFF, np.uint64)
    for factor, column in zip(_FACTORS, columns, strict=False):
        total += column * factor
    keys = mix(total)
    keys[keys == 0] = 1
    return keys


def group_keys(columns: SpanColumns) -> U64Array:
    """Keys of each row, shape (n, LANES), 0 where the row has none of that lane.

    A row with faults has its copy key only: it is a trace of its own. An ordinary row has its OWN key only, by which
    eSpans find it as the span their headers name.
    """
    keys = np.zeros((len(columns), LANES), np.uint64)
    espan = columns.kind != Kind.ORDINARY
    sound = espan & (columns.faults == 0)
    net = sound & ((columns.req_seq | columns.resp_seq) != 0)
    _fill(keys, NET, net, NET, columns.req_seq, columns.resp_seq)
    _fill(keys, NET, espan & ~net, _COPY, columns.span_id, columns.digest)
    _fill(keys, THREAD, sound & (columns.thread_trace_id != 0), THREAD, columns.thread_trace_id)
    _fill_header_keys(keys, columns, sound, ~espan)
    return keys


def _fill_header_keys(
    keys: U64Array, columns: SpanColumns, sound: NDArray[np.bool_], ordinary: NDArray[np.bool_]
) -> None:
    own_trace = (columns.trace_hi | columns.trace_lo) != 0
    own_id = np.where(ordinary, columns.span_id, columns.sent_span_id)
    _fill(keys, OWN, (sound | ordinary) & own_trace & (own_id != 0), OWN, columns.trace_hi, columns.trace_lo, own_id)
    app = (columns.app_trace_hi | columns.app_trace_lo) != 0
    header = sound & (app | (own_trace & (columns.parent_id != 0)))
    if not header.any():
        return
    high = np.where(app, columns.app_trace_hi, columns.trace_hi)
    low = np.where(app, columns.app_trace_lo, columns.trace_lo)
    parent = np.where(app, columns.app_parent, columns.parent_id)
    _fill(keys, TRACE, header, TRACE, high, low)
    _fill(keys, NAMED, header & (parent != 0), OWN, high, low, parent)


def _fill(keys: U64Array, lane: int, rows: NDArray[np.bool_], salt: int, *columns: U64Array) -> None:
    if rows.all():
        keys[:, lane] = _key(salt, *columns)
    elif rows.any():
        keys[rows, lane] = _key(salt, *(c[rows] for c in columns))


def thread_keys(thread_trace_id: U64Array) -> U64Array:
    """The THREAD keys of sound eSpans."""
    return np.where(thread_trace_id != 0, _key(THREAD, thread_trace_id), np.uint64(0))


def timelines(sender: U64Array, pid: U64Array, tid: U64Array, tid_usr: U64Array) -> U64Array:
    """The timelines of rows that are `placed`: one per sender, process and thread (of user space where it has one)."""
    return _key(_TIMELINE, sender, pid, np.where(tid_usr != 0, tid_usr, tid))


def placed(columns: SpanColumns) -> NDArray[np.bool_]:
    """Which rows stand on the timeline of a thread: sound entries and exits that say where and when they were."""
    on: NDArray[np.bool_] = (columns.kind == Kind.ENTRY) | (columns.kind == Kind.EXIT)
    on &= (columns.faults == 0) & ((columns.tid | columns.tid_usr) != 0) & (columns.ktime != 0)
    return on


def entry_ends(columns: SpanColumns) -> I64Array:
    """When entries end on the clock of ktime: the last moment at which an exit may belong to them."""
    return ends(columns.ktime, columns.start_ns, columns.end_ns)


def row_keys_plain(columns: SpanColumns) -> RowKeys:
    """All that rows are grouped and put on timelines by, as `group_keys`, `timelines` and `entry_ends` say."""
    lines, on = np.zeros(len(columns), np.uint64), np.flatnonzero(placed(columns))
    lines[on] = timelines(columns.sender[on], columns.pid[on], columns.tid[on], columns.tid_usr[on])
    return group_keys(columns), lines, entry_ends(columns)


if TYPE_CHECKING:
    row_keys = row_keys_plain
else:
    try:
        from bridge.linker._keys import row_keys
    except ImportError:  # no C compiler was there when the bridge was installed
        row_keys = row_keys_plain
