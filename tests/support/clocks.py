"""Clocks of hosts, made up."""

import numpy as np

from bridge.spans import ClockOffsets

Clock = tuple[int, int, int]
"""Reference, offset and uncertainty (ns)."""


def clock_offsets(clocks: list[Clock]) -> ClockOffsets:
    """The table of these clocks."""
    reference, offset, uncertainty = zip(*clocks, strict=True) if clocks else ((), (), ())
    return ClockOffsets(
        reference=np.array(reference, np.uint64),
        offset_ns=np.array(offset, np.int64),
        uncertainty_ns=np.array(uncertainty, np.int64),
    )
