"""Bodies of points to batches of spans, in each of the forms that agents post."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bridge.codec.digest import offsets_of
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
from bridge.codec.together import Together
from bridge.errors import TooLarge
from bridge.spans import Context, PayloadBlock, PayloadFormat, SpanBatch

__all__ = ["DecodedPoints", "InvalidPoints", "decode_bodies", "decode_points", "is_protobuf"]

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
    media_type = _media_type(content_type)
    if media_type in _PROTOBUF:
        return _decoded(scan_points(body, limits.max_spans), Rejections(), limits, "points[{}]", INVALID_PROTOBUF, peer)
    if media_type in _JSON:
        limits.check_json(len(body))
        read = read_json(body, precision, received_ns, limits.max_spans)
        return _converted(read, limits, "points[{}]", INVALID_JSON, peer)
    return _converted(read_lines(body, precision, received_ns, limits.max_spans), limits, "line {}", INVALID_LINE, peer)


def is_protobuf(content_type: str) -> bool:
    """Whether a body of this type is read as protobuf, and may be one of `decode_bodies`."""
    return _media_type(content_type) in _PROTOBUF


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def decode_bodies(
    bodies: Sequence[tuple[bytes, str, int]],
    limits: RequestLimits = RequestLimits(),  # noqa: B008 - frozen
) -> Together | None:
    """Decode bodies of protobuf, each with the address it came from and its number of points, as if they were one.

    As `bridge.codec.otlp_protobuf.decode_requests`: None where not every point of every body is taken, and a body must
    be one whose points `count_points` could count.
    """
    datas, peers, counts = zip(*bodies, strict=True)
    if max(counts) > limits.max_spans:
        return None
    try:
        scan = scan_points(datas, sum(counts), points=sum(counts))
    except (InvalidPoints, TooLarge):
        return None
    if scan.rejections.counts or _without_oversized(scan, limits)[1]:
        return None
    return Together(_batch(scan, [hash_of(peer) for peer in peers], np.array(counts)))


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
        digest=scan.digest[kept],
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
    batch = _batch(scan, [hash_of(peer)])
    return DecodedPoints(batch, dict(rejections.counts), told, faulty_keys(batch.columns.faults))


def _batch(scan: Scan, peers: Sequence[int], counts: NDArray[np.int64] | None = None) -> SpanBatch:
    """The points, sent by the first peer or, with counts, so many by each; peers are hashes of addresses."""
    offsets = offsets_of(scan.lengths)
    # the 0 behind the last text stands for none, which both columns may say
    hashes = np.array([*(hash_of(text) for text in scan.texts), 0], np.uint64)
    sender, nameless = hashes[scan.host], scan.host < 0
    if nameless.any():
        of_peer = np.array(peers, np.uint64) if counts is None else np.repeat(np.array(peers, np.uint64), counts)
        sender = np.where(nameless, of_peer, sender)
    columns = span_columns(scan.rows, digest=scan.digest, sender=sender, service=hashes[scan.service])
    context = np.zeros(scan.lengths.size, np.uint32)
    payload = PayloadBlock(PayloadFormat.POINT, scan.data, offsets, (Context(),), context)
    return SpanBatch(columns, payload)
