"""Values of points in JSON: each reader takes what was sent and where, and raises BadPoint for what it cannot take."""

import json
import math
import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, Final

from bridge.codec.points.point_pb2 import MetricType
from bridge.codec.points.rejections import INVALID_VALUE, BadPoint, shown
from bridge.codec.points.times import MAX_I64, MIN_I64

Json = Any
"""What json's decoder returns."""

MAX_DIGITS: Final = 400
"""No number with more digits fits a value; Python is slow to read the long ones, and refuses the longest."""

_DECIMAL: Final = re.compile(r"-?[0-9]{1,20}")
_NUMBER: Final = re.compile(r"-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}(?:==)?|[A-Za-z0-9+/]{3}=?)?")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def read_object(value: Json, where: str) -> dict[str, Json]:
    """An object; null is none."""
    if not isinstance(value, dict):
        raise BadPoint(INVALID_VALUE, f"{where}: want an object, got {told(value)}")
    return value


def members(sent: dict[str, Json], name: str, where: str = "") -> Iterator[tuple[str, Json]]:
    """Key and value of what is in the object of this name, without what is null; nothing where there is none."""
    value = sent.get(name)
    if value is not None:
        yield from ((k, v) for k, v in read_object(value, f"{where} {name}".strip()).items() if v is not None)


def items(sent: dict[str, Json], name: str, where: str = "") -> list[Json]:
    """What is in the array of this name; nothing where there is none."""
    value = sent.get(name)
    if value is not None and not isinstance(value, list):
        raise BadPoint(INVALID_VALUE, f"{where} {name}: want an array, got {told(value)}".strip())
    return value or []


def optional_text(item: Json, name: str, where: str) -> str:
    """The text of this name in an object; empty where there is none."""
    value = read_object(item, where).get(name)
    return "" if value is None else read_text(value, f"{where}.{name}")


def read_text(value: Json, where: str) -> str:
    """Text, be it such as UTF-8 cannot say."""
    if not isinstance(value, str):
        raise BadPoint(INVALID_VALUE, f"{where}: want text, got {told(value)}")
    return value


def read_bool(value: Json, where: str) -> bool:
    """True or false, and no number."""
    if not isinstance(value, bool):
        raise BadPoint(INVALID_VALUE, f"{where}: want true or false, got {told(value)}")
    return value


def _whole(value: Json, low: int, high: int, where: str) -> int:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadPoint(INVALID_VALUE, f"{where}: want an integer from {low} to {high}, got {told(value)}")
    return value


def read_signed(value: Json, where: str) -> int:
    """An int64, as a number or as text."""
    return _whole(value, MIN_I64, MAX_I64, where)


def read_unsigned(value: Json, where: str) -> int:
    """A uint64, as a number or as text."""
    return _whole(value, 0, 2**64 - 1, where)


def read_double(value: Json, where: str) -> float:
    """A number, also as text; as text alone what is not finite."""
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and len(value) < MAX_DIGITS and _NUMBER.fullmatch(value)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise BadPoint(INVALID_VALUE, f"{where}: want a number, got {told(value)}")


def read_bytes(value: Json, where: str) -> bytes:
    """Base64: standard or URL-safe, with padding or without."""
    text = value.translate(_URL_SAFE) if isinstance(value, str) else "?"
    if not _BASE64.fullmatch(text):
        raise BadPoint(INVALID_VALUE, f"{where}: want base64, got {told(value)}")
    return b64decode(text + "=" * (-len(text) % 4))


def read_metric_type(value: Json, where: str) -> Any:
    """A MetricType, by name or by number."""
    if isinstance(value, str) and value in MetricType.keys():  # noqa: SIM118  # no dict
        return MetricType.Value(value)
    return _whole(value, -(2**31), 2**31 - 1, where)


def told(value: Json) -> str:
    """A value as an error names it: short, whatever was sent."""
    match value:
        case dict():
            return "an object"
        case list():
            return "an array"
        case None | bool():
            return json.dumps(value)
        case int() if not -(2**99) < value < 2**99:
            return "a huge number"
    return shown(value) if isinstance(value, str) else str(value)
