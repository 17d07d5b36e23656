"""Serialized ExportTraceServiceRequests to batches of spans."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bridge.codec.digest import offsets_of
from bridge.codec.espan import hash_of
from bridge.codec.limits import RequestLimits, check_contexts, cut_out
from bridge.codec.otlp_scan import Refusal, Scan, resource_texts, scan_request
from bridge.codec.rows import faulty_keys, span_columns
from bridge.codec.together import Together
from bridge.errors import InvalidData, TooLarge
from bridge.spans import Context, PayloadBlock, PayloadFormat, SpanBatch


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of one request."""

    batch: SpanBatch
    rejected: int
    """Ordinary spans with invalid ids, and spans that are too large; they are not in the batch."""
    rejection: str
    """Why and where they were rejected, for the first few of them; empty if none was."""
    faulty: dict[str, int]
    """How many eSpans of the batch have a key that is missing though required or unreadable, by key."""
    oversized: int = 0
    """How many of the rejected ones are too large."""


def decode_request(data: bytes, *, peer: str, limits: RequestLimits = RequestLimits()) -> Decoded:  # noqa: B008 - frozen
    """Decode a serialized ExportTraceServiceRequest that came from this address; an empty one has no spans.

    Each span keeps its own bytes exactly as sent; one that is too large is rejected by itself. Raises InvalidData,
    which says what is wrong and where, if opentelemetry-proto would not read the request as a whole, and TooLarge for
    one that has more than the limits allow.
    """
    return decoded(scan_request(data, limits), peer=peer, limits=limits, request_bytes=len(data))


def decode_requests(
    requests: Sequence[tuple[bytes, str, int]],
    limits: RequestLimits = RequestLimits(),  # noqa: B008 - frozen
) -> Together | None:
    """Decode serialized requests, each with the address it came from and its number of spans, as if they were one.

    Messages of protobuf one after another are one message, whose repeated fields stand one after another. None where
    not every span of every request is taken: then each is to be decoded by itself, which says what is wrong. A request
    must be one whose spans `count_spans` could count: one that is cut off would run on into the next.
    """
    datas, peers, counts = zip(*requests, strict=True)
    size = sum(map(len, datas))
    if max(counts) > limits.max_spans:
        return None
    try:
        scan = scan_request(datas, spans=sum(counts))
        check_contexts(scan.contexts, size)
    except (InvalidData, TooLarge):
        return None
    if scan.refused or (size > limits.max_span_bytes and _without_oversized(scan, limits)[1]):
        return None
    return Together(_batch(scan, [hash_of(peer) for peer in peers], np.array(counts)))


def decoded(
    scan: Scan,
    *,
    peer: str,
    limits: RequestLimits,
    request_bytes: int,
    path: str = "resource_spans[{}].scope_spans[{}].spans[{}]",
) -> Decoded:
    """A scanned request as a batch. `path` names a span in the rejection. Raises TooLarge for too many contexts."""
    check_contexts(scan.contexts, request_bytes)
    oversized = 0
    # nothing in a smaller request is larger than that
    if request_bytes > limits.max_span_bytes:
        scan, oversized = _without_oversized(scan, limits)
    rejections = [limits.rejection(oversized)] if oversized else []
    if scan.refused:
        rejections.insert(0, _rejection(scan.refusals, scan.refused, path))
    batch = _batch(scan, [hash_of(peer)])
    return Decoded(
        batch=batch,
        rejected=scan.refused + oversized,
        rejection="; ".join(rejections),
        faulty=faulty_keys(batch.columns.faults),
        oversized=oversized,
    )


def _without_oversized(scan: Scan, limits: RequestLimits) -> tuple[Scan, int]:
    """Only the spans that are not too large, and how many were."""
    oversized = limits.oversized(scan.lengths, scan.contexts, scan.context)
    if oversized is None:
        return scan, 0
    kept = ~oversized
    used, context = np.unique(scan.context[kept], return_inverse=True)
    rest = replace(
        scan,
        rows=scan.rows[kept],
        data=cut_out(scan.data, scan.lengths, kept),
        lengths=scan.lengths[kept],
        digest=scan.digest[kept],
        contexts=tuple(scan.contexts[number] for number in used.tolist()),
        context=context.astype(np.uint32),
    )
    return rest, int(np.count_nonzero(oversized))


def _batch(scan: Scan, peers: Sequence[int], counts: NDArray[np.int64] | None = None) -> SpanBatch:
    """The spans, sent by the first peer or, with counts, so many by each; peers are hashes of addresses."""
    offsets = offsets_of(scan.lengths)
    names = np.array([_resource_hashes(context) for context in scan.contexts], np.uint64).reshape(-1, 2)
    sender, service = names[scan.context, 0], names[scan.context, 1]
    if not names[:, 0].all():  # 0: a resource without a host, of which the peer is taken for one
        of_peer = np.array(peers, np.uint64) if counts is None else np.repeat(np.array(peers, np.uint64), counts)
        sender = np.where(sender == 0, of_peer, sender)
    columns = span_columns(scan.rows, digest=scan.digest, sender=sender, service=service)
    payload = PayloadBlock(PayloadFormat.OTLP_SPAN, scan.data, offsets, scan.contexts, scan.context)
    return SpanBatch(columns, payload)


def _resource_hashes(context: Context) -> tuple[int, int]:
    host, service = resource_texts(context.resource_spans)
    return hash_of(host), hash_of(service)


def _rejection(refusals: tuple[Refusal, ...], refused: int, path: str) -> str:
    told = [f"{path.format(r.resource, r.scope, r.span)}: {r.reason}" for r in refusals]
    if refused > len(told):
        told.append(f"and {refused - len(told)} more")
    return "; ".join(told)
