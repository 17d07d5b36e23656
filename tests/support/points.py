"""Linked points, for tests of what comes after the linker."""

from collections.abc import Iterable

import numpy as np

from bridge.spans import Context, LinkedSpans, PayloadBlock, PayloadFormat
from tests.support.agent import traffic
from tests.support.dataway import PBPoints
from tests.support.linked import linked_spans


def linked_points(n: int, *, tick: int = 1) -> LinkedSpans:
    """n points of agents, with the decisions `linked_spans` has for as many OTLP spans."""
    bodies: Iterable[list[bytes]] = traffic(n // 9 + 1, start_ns=1_764_000_000 * 10**9).bodies.values()
    points = [p.SerializeToString() for of_host in bodies for body in of_host for p in PBPoints.FromString(body).arr][
        :n
    ]
    offsets = np.concatenate(([0], np.cumsum([len(point) for point in points], dtype=np.int64))).astype(np.int64)
    block = PayloadBlock(PayloadFormat.POINT, b"".join(points), offsets, (Context(),), np.zeros(n, np.uint32))
    other = linked_spans(n, tick=tick)
    return LinkedSpans(tick, (block,), other.block, other.row, other.decisions, other.links)
