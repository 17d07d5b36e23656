"""From scanned rows to columns: what the scans of OTLP and of points have in common."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.codec.espan import address, hash_of
from bridge.spans import Kind, SpanColumns, convention, derive_span_ids

try:
    from bridge.codec import _digest
except ImportError:  # not built
    _digest = None  # type: ignore[assignment]

U64Array = NDArray[np.uint64]

ROW: Final = np.dtype(
    [
        *((name, np.uint64) for name in ("req_seq", "resp_seq", "thread_trace_id", "pid", "tid", "tid_usr")),
        *((name, np.int64) for name in ("ktime", "start_ns", "end_ns")),
        *((name, np.uint64) for name in ("src_ip", "dst_ip", "app_trace_hi", "app_trace_lo", "app_parent")),
        *((name, np.uint64) for name in ("trace_hi", "trace_lo", "sent_span_id", "parent_id", "duration_ns")),
        ("request_id", np.uint64),
        *((name, np.uint32) for name in ("faults", "stream_id")),
        *((name, np.uint16) for name in ("src_port", "dst_port")),
        *((name, np.uint8) for name in ("kind", "direction", "app_encode")),
        ("app_flag", np.int8),
        *((name, np.uint8) for name in ("keys_present", "texts")),
    ],
    align=True,
)
"""One scanned span: columns of `SpanColumns`, and what `derive_span_ids` wants; `texts` is the kernels' (TEXT_COLUMNS).

sent_span_id holds the id of ordinary spans, too.
"""
TEXT_COLUMNS: Final = (("pid", 1, hash_of), ("src_ip", 2, address), ("dst_ip", 4, address))
"""(column, bit in `texts`, what becomes of the text). Under the bit the column says where: first byte << 32 | bytes."""
HEADERS: Final = 8
"""Bit in `texts` of an eSpan that reports request headers."""

_DERIVED = ("span_id", "sender", "service", "digest")
_IDENTITY = (
    "kind",
    "direction",
    "req_seq",
    "resp_seq",
    "thread_trace_id",
    "pid",
    "tid",
    "tid_usr",
    "ktime",
    "start_ns",
    "duration_ns",
    "src_ip",
    "src_port",
    "dst_ip",
    "dst_port",
)
"""Fields of a scanned row in the order of `derive_span_ids`."""


def read_texts(rows: NDArray[np.void], data: bytes) -> None:
    """Replace the places of texts in these bytes, which the kernels leave in TEXT_COLUMNS, by what they mean."""
    if not rows["texts"].any():
        return
    for column, bit, meaning in TEXT_COLUMNS:
        for row in np.flatnonzero(rows["texts"] & bit).tolist():
            at, length = divmod(int(rows[column][row]), 2**32)
            rows[column][row] = meaning(data[at : at + length].decode())


def span_columns(rows: NDArray[np.void], *, digest: U64Array, sender: U64Array, service: U64Array) -> SpanColumns:
    """The columns of scanned spans, all arrays of one length; a span without an id gets a derived one."""
    columns: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(rows[name]) for name in SpanColumns.dtypes() if name not in _DERIVED
    }
    columns["span_id"] = span_ids(rows, digest)
    columns["sent_span_id"][columns["kind"] == Kind.ORDINARY] = 0
    return SpanColumns(**columns, digest=digest, sender=sender, service=service)


def span_ids_plain(rows: NDArray[np.void], digest: U64Array) -> U64Array:
    """The id of each scanned span: its own, else a derived one."""
    ids: U64Array = rows["sent_span_id"].copy()
    without = np.flatnonzero(ids == 0)
    if without.size:
        some = rows[without]
        # int64 columns enter as their bit pattern
        identity = tuple(some[name].astype(np.uint64) for name in _IDENTITY)
        ids[without] = derive_span_ids(identity, some["keys_present"], digest[without], ids[without])
    return ids


def faulty_keys(faults: NDArray[np.uint32]) -> dict[str, int]:
    """How many of these `SpanColumns.faults` have each key, without those that none has."""
    if not faults.any():
        return {}
    counts = {key: int(np.count_nonzero(faults & bit)) for key, bit in convention.FAULT.items()}
    return {key: count for key, count in counts.items() if count}


span_ids = span_ids_plain if _digest is None else _digest.span_ids
