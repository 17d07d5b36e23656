"""Numbers between columns of one width and arrays of another. All arrays are given as their bytes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
I32Array = NDArray[np.int32]


def _numbers(data: Bytes, width: int) -> NDArray[Any]:
    return data.view(f"u{width}")


def gather_plain(kept: Bytes, width: int, slots: I32Array, values: Bytes, values_width: int) -> None:
    """Fill `values` with what the column holds in these slots; IndexError where it has no such slot."""
    _check(slots, kept.size // width)
    _numbers(values, values_width)[:] = _numbers(kept, width)[slots]


def scatter_plain(kept: Bytes, width: int, slots: I32Array, values: Bytes, values_width: int) -> None:
    """Write `values`, each of which the column's width must hold, into these slots; IndexError as for `gather`."""
    _check(slots, kept.size // width)
    _numbers(kept, width)[slots] = _numbers(values, values_width)


def bits_in_plain(values: Bytes, width: int) -> int:
    """Every bit that is set in any of the numbers."""
    return int(np.bitwise_or.reduce(_numbers(values, width), initial=0))


def _check(slots: I32Array, below: int) -> None:
    if slots.size and not 0 <= int(slots.min()) <= int(slots.max()) < below:
        raise IndexError(f"a slot is not between 0 and {below}")


if TYPE_CHECKING:
    gather, scatter, bits_in = gather_plain, scatter_plain, bits_in_plain
else:
    try:
        from bridge.linker._columns import bits_in, gather, scatter
    except ImportError:  # no C compiler was there when the bridge was installed
        gather, scatter, bits_in = gather_plain, scatter_plain, bits_in_plain
