"""Linked spans to the bodies that Dataway takes: PBPoints, or line protocol."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from bridge.codec.otlp_encode import flat_rows, trace_starts
from bridge.codec.points.from_otlp import as_points
from bridge.codec.points.lines import line
from bridge.codec.points.point_pb2 import PBPoints
from bridge.codec.points.splice import PointSplicer, clock_fields, link_fields, tag_fields
from bridge.errors import InvalidData
from bridge.spans import LinkedSpans, Outcome

Form = Literal["protobuf", "line_protocol"]


def encode_points(
    linked: LinkedSpans, *, max_bytes: int, form: Form, global_tags: Mapping[str, str]
) -> Iterator[tuple[bytes, int]]:
    """Bodies and how many points each holds; every row once, in its order. Equal input gives equal bytes.

    A body holds at most `max_bytes` bytes; a point that is larger by itself goes alone. Rows of one trace (equal
    exported or eBPF trace id, rows side by side) share a body as far as that allows. `global_tags` are added to a point
    as tags where it has no such key, but for the keys that linking writes; empty ones are left out.

    Raises InvalidData, which names the span, where the bytes of one cannot be read, and ValueError for a limit below 1,
    more than `splice.MAX_TAGS` tags, rows of another outcome than EXPORT and PASS, or places that are not there.
    """
    if max_bytes < 1:
        raise ValueError(f"a body holds at least 1 byte, not {max_bytes}")
    if not len(linked):
        return
    splicer = _splicer(linked, global_tags)
    of_trace = trace_starts(linked.decisions)
    if form == "protobuf":
        for start, stop in _bodies(splicer.sizes, of_trace, max_bytes):
            yield splicer.write(start, stop), stop - start
        return
    lines = _lines(splicer, len(linked))
    # No line end behind the last line: the limit is one byte further.
    for start, stop in _bodies(np.array([len(text) + 1 for text in lines], np.int64), of_trace, max_bytes + 1):
        yield b"\n".join(lines[start:stop]), stop - start


def _splicer(linked: LinkedSpans, global_tags: Mapping[str, str]) -> PointSplicer:
    if not np.isin(linked.decisions.outcome, (Outcome.EXPORT, Outcome.PASS)).all():
        raise ValueError("linked spans hold a row whose outcome is neither EXPORT nor PASS")
    linked = as_points(linked)
    rows = flat_rows(linked)
    starts = np.concatenate([block.offsets[:-1] for block in linked.blocks])[rows]
    ends = np.concatenate([block.offsets[1:] for block in linked.blocks])[rows]
    return PointSplicer(
        [block.data for block in linked.blocks],
        linked.block,
        starts,
        ends,
        linked.decisions,
        tag_fields(global_tags),
        link_fields(linked.links, len(linked)),
        clock_fields(linked.clocks.offsets),
        linked.clocks.of_row,
    )


def _lines(splicer: PointSplicer, n: int) -> list[bytes]:
    lines = []
    for i in range(n):
        try:
            (point,) = PBPoints.FromString(splicer.write(i, i + 1)).arr
            lines.append(line(point))
        except (DecodeError, InvalidData) as exc:
            raise InvalidData(f"span {i}: {exc}") from exc
    return lines


def _bodies(sizes: NDArray[np.int64], of_trace: NDArray[np.int64], max_bytes: int) -> Iterator[tuple[int, int]]:
    """Rows [start, stop) of each body: as many as fit, ending between traces where it does not begin inside one."""
    n, max_bytes = sizes.size, min(max_bytes, 1 << 62)  # what int64 can hold with room for a sum
    before = np.concatenate(([0], np.cumsum(sizes)))
    start = 0
    while start < n:
        stop = int(np.searchsorted(before, int(before[start]) + max_bytes, side="right")) - 1
        stop = max(stop, start + 1)
        if stop < n and of_trace[stop] > start:
            stop = int(of_trace[stop])
        yield start, stop
        start = stop
