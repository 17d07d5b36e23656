"""What is known of the clocks of the hosts that rows came from, as it leaves with them."""

import numpy as np
from numpy.typing import NDArray

from bridge.linker.offsets import HostClocks
from bridge.spans import NO_CLOCKS, ClockOffsets, RowClocks


def row_clocks(hosts: HostClocks, sender: NDArray[np.uint64]) -> RowClocks:
    """The clock of each row by its sender.

    Hosts that were compared with no other have none: an offset says something only beside another one. Of the hosts
    only those are handed on that a row came from.
    """
    _, part, size = np.unique(hosts.reference, return_inverse=True, return_counts=True)
    compared = np.flatnonzero(size[part] > 1)
    named = hosts.sender[compared]
    if not named.size or not sender.size:
        return NO_CLOCKS
    at = np.minimum(np.searchsorted(named, sender), named.size - 1)
    known = named[at] == sender
    used = np.flatnonzero(np.bincount(at[known], minlength=named.size))
    if not used.size:
        return NO_CLOCKS
    position = np.zeros(named.size, np.uint32)
    position[used] = np.arange(1, used.size + 1)
    of_row: NDArray[np.uint32] = np.where(known, position[at], np.uint32(0))
    told = compared[used]
    offsets = ClockOffsets(
        reference=hosts.reference[told],
        offset_ns=hosts.offset_ns[told],
        uncertainty_ns=hosts.uncertainty_ns[told],
    )
    return RowClocks(offsets, of_row)
