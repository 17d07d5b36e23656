"""Bodies of points to batches of spans, in each of the forms that agents post."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bridge.codec.digest import digests
from bridge.codec.espan import hash_of
from bridge.codec.limits import SPAN_TOO_LARGE, RequestLimits, cut_out
from bridge.codec.points.json_points import read_json
from bridge.codec.points.line_protocol import read_lines
from bridge.codec.points.rejections import (
    INVALID_JSON,
    INVALID_LINE,
    INVALID_PROTOBUF,
    NO_POINTS,
    Converted,
    InvalidPoints,
    Rejections,
)
from bridge.codec.points.scan import Scan, scan_points
from bridge.codec.rows import faulty_keys, span_columns
from bridge.spans import Context, PayloadBlock, PayloadFormat, SpanBatch

__all__ = ["DecodedPoints", "InvalidPoints", "decode_points"]

_PROTOBUF: Final = frozenset(("application/protobuf", "application/x-protobuf"))
_JSON: Final = frozenset(("application/json", "application/pbjson"))


@dataclass(frozen=True, slots=True)
class DecodedPoints:
    """What became of one body."""

    batch: SpanBatch
    """The points that are taken, in their order: PayloadFormat.POINT, the bytes of each one serialized PBPoint."""
    rejected: dict[str, int]
    """How many points were not taken, by reason: see bridge.codec.points.rejections.REASONS."""
    rejection: str
    """Number, key and reason of the first few of them; empty if none was rejected."""
    faulty: dict[str, int]
    """How many points of the batch have a key that is missing though required or unreadable, by key."""


def decode_points(
    body: bytes,
    content_type: str,
    *,
    peer: str,
    precision: str = "",
    received_ns: int = 0,
    limits: RequestLimits = RequestLimits(),  # noqa: B008 - frozen
) -> DecodedPoints:
    """Decode a body that came from this address: protobuf, JSON or, whatever else its type, line protocol.

    precision: unit of the times in JSON and line protocol (n, u, ms, s, m, h), as the query says it; where it does not,
    times are ns in JSON and by their magnitude in line protocol. received_ns: when the body came, which is the time of
    points in JSON and line protocol that have none; points in protobuf keep their bytes.

    Raises InvalidPoints where the body as such cannot be read, where none of its points can be taken, or where it has
    none; TooLarge for one that has more than the limits allow. A point that is too large is rejected by itself.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _PROTOBUF:
        return _decoded(scan_points(body, limits.max_spans), Rejections(), limits, "points[{}]", INVALID_PROTOBUF, peer)
    if media_type in _JSON:
        limits.check_json(len(body))
        read = read_json(body, precision, received_ns, limits.max_spans)
        return _converted(read, limits, "points[{}]", INVALID_JSON, peer)
    return _converted(read_lines(body, precision, received_ns, limits.max_spans), limits, "line {}", INVALID_LINE, peer)


def _without_oversized(scan: Scan, limits: RequestLimits) -> tuple[Scan, int]:
    """Only the points that are not too large, and how many were."""
    # none of them is larger than all of them
    if len(scan.data) <= limits.max_span_bytes:
        return scan, 0
    kept = scan.lengths <= limits.max_span_bytes
    rest = replace(
        scan,
        rows=scan.rows[kept],
        data=cut_out(scan.data, scan.lengths, kept),
        lengths=scan.lengths[kept],
        host=scan.host[kept],
        service=scan.service[kept],
    )
    return rest, scan.lengths.size - rest.lengths.size


def _converted(converted: Converted, limits: RequestLimits, path: str, error_code: str, peer: str) -> DecodedPoints:
    scan = scan_points(converted.points, limits.max_spans)
    scan.rejections.told[:] = [(converted.numbers[number], what) for number, what in scan.rejections.told]
    return _decoded(scan, converted.rejections, limits, path, error_code, peer)


def _decoded(
    scan: Scan, before: Rejections, limits: RequestLimits, path: str, error_code: str, peer: str
) -> DecodedPoints:
    rejections = Rejections(before.counts + scan.rejections.counts, before.told + scan.rejections.told)
    told = rejections.text(path)
    scan, oversized = _without_oversized(scan, limits)
    if oversized:
        told = "; ".join(filter(None, (told, limits.rejection(oversized))))
        rejections.counts[SPAN_TOO_LARGE] = oversized
    if not scan.lengths.size:
        raise InvalidPoints(error_code, told, rejections.counts) if told else InvalidPoints(NO_POINTS, "no points")
    offsets = np.concatenate(([0], np.cumsum(scan.lengths)))
    # the text behind the last stands for none, which both columns may say
    hashes = np.array([*(hash_of(text) for text in scan.texts), 0], np.uint64)
    from_peer = np.append(hashes[:-1], np.uint64(hash_of(peer)))
    columns = span_columns(
        scan.rows, digest=digests(scan.data, offsets), sender=from_peer[scan.host], service=hashes[scan.service]
    )
    context = np.zeros(scan.lengths.size, np.uint32)
    payload = PayloadBlock(PayloadFormat.POINT, scan.data, offsets, (Context(),), context)
    return DecodedPoints(SpanBatch(columns, payload), dict(rejections.counts), told, faulty_keys(columns.faults))
