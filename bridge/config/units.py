"""Durations, sizes and truth values as people write them; every parser raises ValueError with a text for them."""

import re
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

NS: Mapping[str, int] = MappingProxyType(
    {
        "ns": 1,
        "us": 10**3,
        "µs": 10**3,  # micro sign
        "μs": 10**3,
        "ms": 10**6,
        "s": 10**9,
        "m": 60 * 10**9,
        "h": 3600 * 10**9,
    }
)
SIZES: Mapping[str, int] = MappingProxyType(
    {
        "B": 1,
        "KiB": 1 << 10,
        "MiB": 1 << 20,
        "GiB": 1 << 30,
        "TiB": 1 << 40,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "TB": 10**12,
    }
)
DURATION = 'a duration with its unit, such as "500ms", "20s" or "1m30s"'
SIZE = 'a number of bytes, or a size with its unit, such as "64MiB"'
TRUTH = "1, t, T, true, True, TRUE for yes; 0, f, F, false, False, FALSE or nothing for no"


class Unreadable(ValueError):
    """Text that is not what it should be: `reason` and, where there is a good guess, `nearest` that would be."""

    def __init__(self, text: str, reason: str, want: str, nearest: str = "") -> None:
        guess = f' (did you mean "{nearest}"?)' if nearest else ""
        super().__init__(f'"{text}" {reason}{guess}; want {want}')
        self.reason, self.nearest = reason, nearest


_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", re.ASCII)
_YES = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_NO = frozenset({"", "0", "f", "F", "false", "False", "FALSE"})
_MAX_INT64 = (1 << 63) - 1


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration in Go's notation: one or more numbers, each with its unit; a lone 0 needs none.

    Exact, rounded towards zero where a fraction is finer than a nanosecond. May be negative.
    """
    body = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if body == "0":
        return 0
    terms = list(_TERM.finditer(body))
    if not body or "".join(t.group() for t in terms) != body:
        if re.fullmatch(r"\d+(\.\d+)?", body, re.ASCII):
            raise Unreadable(text, "has no unit", DURATION, f"{text}s")
        raise Unreadable(text, "is no duration", f"{DURATION} (units: ns, us, ms, s, m, h)")
    total = int(sum((Fraction(_decimal(t[1])) * NS[t[2]] for t in terms), Fraction(0)))
    if total > _MAX_INT64:
        raise Unreadable(text, "is longer than 292 years", DURATION)
    return -total if text.startswith("-") else total


def format_duration(ns: int) -> str:
    """The shortest text that `parse_duration` reads as this many nanoseconds: "1m30s", "500ms", "0s"."""
    if not ns:
        return "0s"
    sign, rest, parts = "-" if ns < 0 else "", abs(ns), []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, NS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return sign + "".join(parts)


def parse_size(text: str) -> int:
    """Bytes of a size with its unit: binary (KiB, MiB, GiB, TiB) or decimal (KB, MB, GB, TB), or B."""
    match = _SIZE.fullmatch(text.strip())
    unit = next((u for u in SIZES if match and u.lower() == match[2].lower()), None)
    if match is None or unit is None:
        raise Unreadable(text, "is no size", f"{SIZE} (units: {', '.join(SIZES)})")
    size = Fraction(match[1]) * SIZES[unit]
    if size.denominator != 1:
        raise Unreadable(text, "is no whole number of bytes", SIZE)
    return int(size)


def format_size(size: int) -> str | int:
    """Text in the largest unit, a binary one if there is a choice, that divides the size; else the bare number."""
    units = sorted(SIZES, key=lambda u: (-SIZES[u], u))
    for binary in (True, False):
        for unit in units:
            if size and unit != "B" and ("i" in unit) == binary and size % SIZES[unit] == 0:
                return f"{size // SIZES[unit]}{unit}"
    return size


def parse_truth(text: str) -> bool:
    """Yes or no in the spellings of Go's ParseBool; empty text is no, as with the reference."""
    if text in _YES:
        return True
    if text in _NO:
        return False
    raise Unreadable(text, "is neither yes nor no", TRUTH)


def _decimal(number: str) -> str:
    return number.rstrip(".") if number.endswith(".") else number
