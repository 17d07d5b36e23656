"""Serialized ExportTraceServiceRequests to batches of spans."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.codec.digest import digests
from bridge.codec.espan import hash_of
from bridge.codec.otlp_scan import Refusal, Scan, resource_texts, scan_request
from bridge.codec.rows import faulty_keys, span_columns
from bridge.spans import Context, PayloadBlock, PayloadFormat, SpanBatch, SpanColumns


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
        faulty=faulty_keys(columns.faults),
    )


def _columns(scan: Scan, offsets: NDArray[np.int64], peer: str) -> SpanColumns:
    names = [_resource_hashes(context, peer) for context in scan.contexts]
    sender_service = np.array(names, np.uint64).reshape(-1, 2)
    return span_columns(
        scan.rows,
        digest=digests(scan.data, offsets),
        sender=sender_service[scan.context, 0],
        service=sender_service[scan.context, 1],
    )


def _resource_hashes(context: Context, peer: str) -> tuple[int, int]:
    host, service = resource_texts(context.resource_spans)
    return hash_of(host or peer), hash_of(service)


def _rejection(refusals: tuple[Refusal, ...], refused: int, path: str) -> str:
    told = [f"{path.format(r.resource, r.scope, r.span)}: {r.reason}" for r in refusals]
    if refused > len(told):
        told.append(f"and {refused - len(told)} more")
    return "; ".join(told)
