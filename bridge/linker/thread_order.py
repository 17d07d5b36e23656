"""Entries in the order in which they began on their threads, and where exits stand among them."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

U64Array = NDArray[np.uint64]
I64Array = NDArray[np.int64]


def begun_plain(
    lines: U64Array, at_ns: I64Array, span_id: U64Array, digest: U64Array, exit_lines: U64Array, exit_at: I64Array
) -> tuple[I64Array, I64Array, I64Array]:
    """Order entries so that those of a line stand together, sorted by time, span id and digest.

    Returns the positions of the entries in that order; for each exit where its line starts there; and where the last of
    its line stands that is not after it. The last is less than the start, or -1, where there is no such entry.
    """
    order = np.lexsort((digest, span_id, at_ns, lines))
    low = np.searchsorted(lines[order], exit_lines)
    return order, low, _last_begun(lines[order], at_ns[order], exit_lines, exit_at)


def _last_begun(lines: U64Array, at: I64Array, exit_lines: U64Array, exit_at: I64Array) -> I64Array:
    """Position of the last entry, of those sorted by (line, time), that is not after each exit; -1 before the first."""
    n = lines.size
    is_exit = np.concatenate([np.zeros(n, np.uint8), np.ones(exit_lines.size, np.uint8)])
    order = np.lexsort((is_exit, np.concatenate([at, exit_at]), np.concatenate([lines, exit_lines])))
    place = np.empty(order.size, np.int64)
    place[order] = np.cumsum(is_exit[order] == 0) - 1
    return place[n:]


if TYPE_CHECKING:
    begun = begun_plain
else:
    try:
        from bridge.linker._thread_order import begun
    except ImportError:  # no C compiler was there when the bridge was installed
        begun = begun_plain
