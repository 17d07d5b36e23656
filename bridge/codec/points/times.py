"""Times of points, which come in several units."""

from typing import Final

from bridge.codec.points.rejections import INVALID_VALUE, BadPoint, shown

MIN_I64: Final = -(2**63)
MAX_I64: Final = 2**63 - 1

_UNITS_NS: Final = {
    "n": 1,
    "ns": 1,
    "u": 1_000,
    "us": 1_000,
    "µ": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
}
_MAGNITUDES: Final = ((10**11, "s"), (10**14, "ms"), (10**17, "us"))
"""Below the first it is seconds, and so on: of the years 1973 to 5138 no time is below that of a smaller unit."""


def as_ns(time: int, precision: str) -> int:
    """A time in ns since the epoch, of this unit, or without one of that which its magnitude suggests.

    Raises BadPoint for an unknown unit, and for a time that is no int64 in ns.
    """
    unit = precision or next((name for limit, name in _MAGNITUDES if abs(time) < limit), "ns")
    if unit not in _UNITS_NS:
        raise BadPoint(INVALID_VALUE, f"time: precision {shown(unit)} is none of {', '.join(_UNITS_NS)}")
    time_ns = time * _UNITS_NS[unit]
    if not MIN_I64 <= time_ns <= MAX_I64:
        raise BadPoint(INVALID_VALUE, f"time: {time} {unit} are more nanoseconds than 64 bits hold")
    return time_ns
