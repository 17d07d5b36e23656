"""Linked points to points as they leave: with the bytes they came with, but for what linking decided.

A point of an eSpan loses the fields in `REPLACED_KEYS` and is given, behind all others, what was decided as
fields; docs/datakit-mapping.md says how they are written. Global tags are added where a point has no field of that key.
What is cut out and put in is whole fields: everything else stays byte for byte, also what we do not know. No point
leaves with a key twice, nor without a time if its `start` says one: see `bridge.codec.points.repairs`.

`PointSplicer` does the cutting: compiled where that could be built, and `PlainPointSplicer`, its twin in plain Python,
elsewhere; slower, but with the same output.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bridge.codec.decided import confidence_of
from bridge.codec.points.mapping import DECIDED_KEYS, REPLACED_KEYS, SPAN_LINKS
from bridge.codec.points.point_writer import value_field
from bridge.codec.points.repairs import key_of, repaired
from bridge.codec.wire import field, fields
from bridge.errors import InvalidData
from bridge.spans import ClockOffsets, Decisions, Encoding, Method, Outcome, SpanLinks

I64Array = NDArray[np.int64]
U32Array = NDArray[np.uint32]

MAX_TAGS: Final = 64
"""So many global tags there may be."""

# Tags of PBPoints and PBPoint: field number << 3 | 2.
_ARR, _FIELDS = 0x0A, 0x12

_NO_CLOCK: Final = np.zeros(0, np.uint32)
_METHODS: Final = tuple(m for m in Method if m)
_NOT_TAGS: Final = DECIDED_KEYS | {SPAN_LINKS}
_WITH_LINKS: Final = REPLACED_KEYS | {SPAN_LINKS.encode()}


def tag_fields(tags: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Global tags for a splicer, in the order of their keys; those that linking writes, and empty ones, are none."""
    named = sorted((key, text) for key, text in tags.items() if key and text and key not in _NOT_TAGS)
    return [(key.encode(), value_field(key, text, True)) for key, text in named]


def link_fields(links: SpanLinks, rows: int) -> list[bytes]:
    """For each row the field that holds the links it carries, empty for most of them."""
    found: dict[int, list[dict[str, str]]] = {}
    for row, hi, lo, span in zip(*(column.tolist() for _, column in links.items()), strict=True):
        if not 0 <= row < rows:
            raise ValueError("a link at a row that is not there")
        found.setdefault(row, []).append({"trace_id": f"{hi:016x}{lo:016x}", "span_id": f"{span:016x}"})
    texts = {row: json.dumps(own, separators=(",", ":")) for row, own in found.items()}
    return [value_field(SPAN_LINKS, texts[row], False) if row in texts else b"" for row in range(rows)] if texts else []


def clock_fields(offsets: ClockOffsets) -> list[bytes]:
    """What a point says of the clock of its host, for each clock."""
    rows = zip(*(column.tolist() for _, column in offsets.items()), strict=True)
    return [
        value_field("espan_clock_reference", f"{reference:016x}", False)
        + value_field("espan_clock_offset_ns", offset, False)
        + value_field("espan_clock_uncertainty_ns", uncertainty, False)
        for reference, offset, uncertainty in rows
    ]


class PlainPointSplicer:
    """Points as they leave: each with its tag and length as a field `arr` of PBPoints.

    data: payload of each block. block, start, end: shape (n,); point i is data[block[i]][start[i]:end[i]]. decisions:
    n rows; those of outcome EXPORT are eSpans, all others keep the fields they came with. tags: key and field of each
    global tag, at most `MAX_TAGS`. links: a field for each of the n rows, of which those of eSpans are appended; or
    none. clocks: fields that an eSpan is given for its clock; clock: shape (n,), its number in `clocks` from 1, 0 for
    none; or empty.

    Raises InvalidData where a point lies outside its payload or is no protobuf message, and ValueError where columns
    differ in length, there are too many tags or a row's clock is not there.
    """

    sizes: I64Array
    """Shape (n,): bytes of each point with tag and length."""

    def __init__(
        self,
        data: Sequence[bytes],
        block: U32Array,
        start: I64Array,
        end: I64Array,
        decisions: Decisions,
        tags: Sequence[tuple[bytes, bytes]],
        links: Sequence[bytes],
        clocks: Sequence[bytes] = (),
        clock: U32Array = _NO_CLOCK,
    ) -> None:
        n = len(decisions)
        if {block.size, start.size, end.size, len(links) or n, clock.size or n} != {n} or len(tags) > MAX_TAGS:
            raise ValueError(f"PointSplicer: columns of unequal length, or more than {MAX_TAGS} tags")
        if clock.size and int(clock.max()) > len(clocks):
            raise ValueError("PointSplicer: a row whose clock is not there")
        said = [b"", *clocks]
        confidence = confidence_of(decisions).tolist()
        self._points: list[bytes] = []
        for i, (number, begin, stop) in enumerate(zip(block.tolist(), start.tolist(), end.tolist(), strict=True)):
            if number >= len(data) or not 0 <= begin <= stop <= len(data[number]):
                raise InvalidData(f"span {i} lies outside its payload")
            try:
                point = repaired(data[number][begin:stop])
            except InvalidData as exc:
                raise InvalidData(f"span {i}: its bytes are no protobuf message: {exc}") from exc
            if decisions.outcome[i] == Outcome.EXPORT:
                link = links[i] if links else b""
                added = _decided(decisions, i, confidence[i]) + (said[clock[i]] if clock.size else b"") + link
                point = _tagged(point, tags, _WITH_LINKS if link else REPLACED_KEYS) + added
            elif tags:
                point = _tagged(point, tags, frozenset())
            self._points.append(field(_ARR, point))
        self.sizes = np.array([len(point) for point in self._points], np.int64)

    def write(self, start: int, stop: int) -> bytes:
        """The points [start, stop), one after another. Raises IndexError where they are not there."""
        if not 0 <= start <= stop <= len(self._points):
            raise IndexError(f"points {start} to {stop} of {len(self._points)}")
        return b"".join(self._points[start:stop])


def _tagged(point: bytes, tags: Sequence[tuple[bytes, bytes]], replaced: frozenset[bytes]) -> bytes:
    """What stays of a point, and the tags it has no field of."""
    kept, keys = [], set[bytes | None]()
    for tag, raw, value in fields(point):
        key = key_of(value) if tag == _FIELDS else None
        if key not in replaced:
            kept.append(raw)
            keys.add(key)
    return b"".join([*kept, *(text for key, text in tags if key not in keys)])


def _decided(decisions: Decisions, i: int, confidence: float) -> bytes:
    """What linking says of point i, as fields."""
    hi, lo, parent = int(decisions.trace_hi[i]), int(decisions.trace_lo[i]), int(decisions.parent_span_id[i])
    ebpf_parent = int(decisions.ebpf_parent_id[i])
    decimal = decisions.encode[i] == Encoding.DEC
    values: dict[str, str | float] = {
        "span_id": f"{decisions.span_id[i]:016x}",
        "trace_id": str(lo) if decimal else f"{hi:016x}{lo:016x}",
        "parent_id": "0" if not parent else str(parent) if decimal else f"{parent:016x}",
        "ebpf_trace_id": f"{decisions.ebpf_trace_hi[i]:016x}{decisions.ebpf_trace_lo[i]:016x}",
        "ebpf_parent_id": f"{ebpf_parent:016x}" if ebpf_parent else "0",
    }
    if decisions.method[i] in _METHODS:
        values["espan_link_method"] = Method(decisions.method[i]).name.lower()
        values["espan_link_confidence"] = confidence
    return b"".join(value_field(key, value, False) for key, value in values.items())


if TYPE_CHECKING:
    PointSplicer = PlainPointSplicer
else:
    try:
        from bridge.codec.points._point_splice import PointSplicer
    except ImportError:  # no C compiler was there when the bridge was installed
        PointSplicer = PlainPointSplicer
