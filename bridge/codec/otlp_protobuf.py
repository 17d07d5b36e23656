"""Serialized ExportTraceServiceRequests to batches of spans."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridge.codec.digest import digests
from bridge.codec.espan import hash_of
from bridge.codec.otlp_scan import Refusal, Scan, resource_texts, scan_request
from bridge.spans import Context, Kind, PayloadBlock, PayloadFormat, SpanBatch, SpanColumns, convention, derive_span_ids

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

U64Array = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of one request."""

    batch: SpanBatch
    rejected: int
    """Ordinary spans with invalid ids; they are not in the batch."""
    rejection: str
    """Why and where they were rejected, for the first few of them; empty if none was."""
    faulty: dict[str, int]
    """How many eSpans of the batch have a key that is missing though required or unreadable, by key."""


def decode_request(data: bytes, *, peer: str) -> Decoded:
    """Decode a serialized ExportTraceServiceRequest that came from this address; an empty one has no spans.

    Each span keeps its own bytes exactly as sent. Raises InvalidData, which says what is wrong and where, if
    opentelemetry-proto would not read the request as a whole.
    """
    return decoded(scan_request(data), peer=peer)


def decoded(scan: Scan, *, peer: str, path: str = "resource_spans[{}].scope_spans[{}].spans[{}]") -> Decoded:
    """A scanned request as a batch. `path` names a span in the rejection."""
    offsets = np.concatenate(([0], np.cumsum(scan.lengths)))
    payload = PayloadBlock(PayloadFormat.OTLP_SPAN, scan.data, offsets, scan.contexts, scan.context)
    columns = _columns(scan, offsets, peer)
    return Decoded(
        batch=SpanBatch(columns, payload),
        rejected=scan.refused,
        rejection=_rejection(scan.refusals, scan.refused, path),
        faulty=_faulty(columns.faults),
    )


def _columns(scan: Scan, offsets: NDArray[np.int64], peer: str) -> SpanColumns:
    rows = scan.rows
    columns: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(rows[name]) for name in SpanColumns.dtypes() if name not in _DERIVED
    }
    columns["digest"] = digests(scan.data, offsets)
    columns["span_id"] = _span_ids(rows, columns["digest"])
    columns["sent_span_id"][columns["kind"] == Kind.ORDINARY] = 0
    names = [_resource_hashes(context, peer) for context in scan.contexts]
    sender_service = np.array(names, np.uint64).reshape(-1, 2)
    columns["sender"] = sender_service[scan.context, 0]
    columns["service"] = sender_service[scan.context, 1]
    return SpanColumns(**columns)


def _span_ids(rows: NDArray[np.void], digest: U64Array) -> U64Array:
    ids: U64Array = rows["sent_span_id"].copy()
    without = np.flatnonzero(ids == 0)
    if without.size:
        some = rows[without]
        # int64 columns enter as their bit pattern
        identity = tuple(some[name].astype(np.uint64) for name in _IDENTITY)
        ids[without] = derive_span_ids(identity, some["keys_present"], digest[without], ids[without])
    return ids


def _resource_hashes(context: Context, peer: str) -> tuple[int, int]:
    host, service = resource_texts(context.resource_spans)
    return hash_of(host or peer), hash_of(service)


def _rejection(refusals: tuple[Refusal, ...], refused: int, path: str) -> str:
    told = [f"{path.format(r.resource, r.scope, r.span)}: {r.reason}" for r in refusals]
    if refused > len(told):
        told.append(f"and {refused - len(told)} more")
    return "; ".join(told)


def _faulty(faults: NDArray[np.uint32]) -> dict[str, int]:
    if not faults.any():
        return {}
    counts = {key: int(np.count_nonzero(faults & bit)) for key, bit in convention.FAULT.items()}
    return {key: count for key, count in counts.items() if count}
