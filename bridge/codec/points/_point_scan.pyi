"""The compiled part of bridge.codec.points.scan; arrays have its dtypes."""

import numpy as np
from numpy.typing import NDArray

def count_points(data: bytes) -> int:
    """How many points a body has, taken or not; -1 where it cannot be read. Points themselves are not looked into."""

def scan(
    datas: tuple[bytes, ...],
    rows: NDArray[np.void],
    places: NDArray[np.void],
    texts: NDArray[np.int64],
    max_told: int,
) -> tuple[int, int, tuple[int, ...], tuple[tuple[int, int, int], ...]]:
    """Fill a row and a place for each point that is taken, without the GIL.

    Several bodies are read as the one that they are one behind another, which is what places and texts are in.

    texts: shape (2 * n, 2), filled with where the texts begin that places name, and how many bytes they have.

    Returns how many points were taken, how many texts there are, how many points were rejected by the number of their
    reason, and of the first of those, 8 at most, (number of the point, first byte, end). Taken is -1 where the body
    cannot be read, or has more points than there are rows.
    """
