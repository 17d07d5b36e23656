"""The compiled part of bridge.codec.otlp_scan; arrays have its dtypes ROW and PLACE."""

import numpy as np
from numpy.typing import NDArray

from bridge.spans.profiles import Rules

def count_spans(data: bytes) -> int:
    """How many spans a request has, taken or not; -1 where it cannot be read. Spans themselves are not looked into."""

def scan(
    datas: tuple[bytes, ...], rows: NDArray[np.void], places: NDArray[np.void], max_refusals: int
) -> tuple[int, int, tuple[tuple[int, int, int, int, int], ...]]:
    """Fill a row and a place for each span that is taken, without the GIL.

    Several requests are read as the one that they are one behind another, which is what places are in.

    Returns how many were taken, how many refused, and of the first of those, 8 at most, (resource, scope, span, first
    byte, end). Taken is -1 where the request cannot be read, or has more spans than there are rows.
    """

def use_rules(rules: Rules) -> None:
    """Read attributes by these rules from now on, too. Not while another thread scans. Raises ValueError for more than
    there is room for."""

def without_field_2(data: bytes, at: int, length: int) -> bytes:
    """The message at this place without its delimited fields number 2. Raises ValueError where there is none."""
