r"""Bodies of points in InfluxDB's line protocol, to serialized PBPoints.

    measurement,tag=value field=1i,other="text" 1767225600000000000

https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/ says how it is written; where it is
silent this reads what InfluxDB 1 reads. `\,`, `\=` and `\ ` are escapes in names and tag values, `\"` in names of
fields, too, `\"` and `\\` in quoted text; any other backslash is itself. Quoted text may hold newlines. Numbers are
floats, or with `i` and `u` integers. Tags and fields keep their order; a key that is given twice is read once.

A line that cannot be read is rejected by itself: reading goes on behind its first newline. What looked like quoted text
across newlines and was none is then read once more, line by line, so that no byte is read more than twice.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from bridge.codec.points.limits import MAX_POINTS, too_many
from bridge.codec.points.point_pb2 import Field, PBPoint, PBPoints
from bridge.codec.points.rejections import INVALID_VALUE, UNREADABLE, BadPoint, Converted, Rejections, shown
from bridge.codec.points.repairs import complete
from bridge.codec.points.times import MAX_I64, MIN_I64, as_ns

_BLANK: Final = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)++")
_MEASUREMENT: Final = re.compile(r"(?:\\[, ]|[^, \n])++")
_TAG: Final = re.compile(r",((?:\\[,= ]|[^,= \n])++)=((?:\\[,= ]|[^,= \n])++)")
_FIELD_KEY: Final = re.compile(r'((?:\\[,=" ]|[^,= \n])++)=')
_TEXT: Final = re.compile(r'"((?:[^"\\]++|\\["\\]|\\)*+)"')
_WORD: Final = re.compile(r"[^, \t\r\n]++")
_GAP: Final = re.compile(r" ++")
_TIME: Final = re.compile(r" ++(-?[0-9]++)")
_END: Final = re.compile(r"[ \t]*+\r?(?:\n|\Z)")
_INTEGER: Final = re.compile(r"(-?[0-9]{1,20})([iu])")
_FLOAT: Final = re.compile(r"-?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_BOOLEANS: Final = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}
_MAX_DIGITS: Final = 400
"""No number with more digits fits a value."""

_MEASUREMENT_ESCAPES: Final = re.compile(r"\\([, ])")
_NAME_ESCAPES: Final = re.compile(r"\\([,= ])")
_FIELD_KEY_ESCAPES: Final = re.compile(r'\\([,=" ])')
_TEXT_ESCAPES: Final = re.compile(r'\\(["\\])')


def read_lines(body: bytes, precision: str = "", received_ns: int = 0, max_points: int = MAX_POINTS) -> Converted:
    """The points of a body; comments and empty lines are none. Their numbers are those of their first lines, from 1.

    precision: unit of the timestamps (n, u, ms, s, m, h); without one their magnitude says it. received_ns: the time of
    points that have none. Raises TooLarge for too many points.
    """
    text = body.decode(errors="surrogateescape")  # so that what is no UTF-8 costs its own line alone
    points: list[PBPoint] = []
    numbers: list[int] = []
    rejections = Rejections()
    line, counted, read = 1, 0, 0
    at = _behind(_BLANK, text, 0)
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        if len(points) + rejections.counts.total() >= max_points:
            raise too_many(max_points)
        next_line = text.find("\n", at) + 1 or len(text)
        reader = _Line(text, at, next_line if at < read else len(text))
        try:
            points.append(complete(reader.point(precision), received_ns))
            numbers.append(line)
        except BadPoint as exc:
            rejections.add(line, exc.reason, str(exc))
            read = max(read, reader.at)
            reader.at = next_line
        at = _behind(_BLANK, text, reader.at)
    return Converted(PBPoints(arr=points).SerializeToString(), numbers, rejections)


def _behind(what: re.Pattern[str], text: str, at: int) -> int:
    found = what.match(text, at)
    return found.end() if found else at


class _Line:
    """Reads one point from a place on; `at` is how far it came, `end` what it does not read beyond."""

    def __init__(self, text: str, at: int, end: int) -> None:
        self.text, self.at, self.end = text, at, end

    def point(self, precision: str) -> PBPoint:
        """The point, `at` is then behind its line. Raises BadPoint."""
        point = PBPoint()
        name = self._next(_MEASUREMENT, "a measurement")
        with _naming("measurement"):
            point.name = _MEASUREMENT_ESCAPES.sub(r"\1", name[0])
        while self._follows(","):
            key, value = (_NAME_ESCAPES.sub(r"\1", part) for part in self._next(_TAG, "a tag with a value").groups())
            _add(point, "tag", key, {"s": value, "is_tag": True})
        self._next(_GAP, "a space and fields")
        more = True
        while more:
            key = _FIELD_KEY_ESCAPES.sub(r"\1", self._next(_FIELD_KEY, "a field's key and =")[1])
            _add(point, "field", key, self._value(f"field {shown(key)}"))
            if more := self._follows(","):
                self.at += 1
        if time := _TIME.match(self.text, self.at, self.end):
            self.at = time.end()
            point.time = _timestamp(time[1], precision)
        self._next(_END, "a timestamp or the line's end")
        return point

    def _value(self, where: str) -> dict[str, Any]:
        if self._follows('"'):
            return {"s": _TEXT_ESCAPES.sub(r"\1", self._next(_TEXT, f"{where}: text up to another quote")[1])}
        return _number(self._next(_WORD, f"{where}: a value")[0], where)

    def _follows(self, char: str) -> bool:
        return self.text.startswith(char, self.at, self.end)

    def _next(self, what: re.Pattern[str], wanted: str) -> re.Match[str]:
        found = what.match(self.text, self.at, self.end)
        if found is None:
            got = shown(self.text[self.at : min(self.end, self.at + 70)].partition("\n")[0])
            if what is _TEXT:  # which was looked for up to there
                self.at = self.end
            raise BadPoint(UNREADABLE, f"want {wanted}, got {got}")
        self.at = found.end()
        return found


def _number(word: str, where: str) -> dict[str, Any]:
    if integer := _INTEGER.fullmatch(word):
        number, signed = int(integer[1]), integer[2] == "i"
        if MIN_I64 <= number <= MAX_I64 if signed else 0 <= number < 2**64:
            return {integer[2]: number}
        raise BadPoint(INVALID_VALUE, f"{where}: an integer beyond 64 bits")
    if word in _BOOLEANS:
        return {"b": _BOOLEANS[word]}
    if len(word) < _MAX_DIGITS and _FLOAT.fullmatch(word) and math.isfinite(value := float(word)):
        return {"f": value}
    raise BadPoint(INVALID_VALUE, f"{where}: {shown(word)} is no number, no boolean, no text in quotes")


def _timestamp(digits: str, precision: str) -> int:
    if len(digits) > 20:
        raise BadPoint(INVALID_VALUE, "time: more digits than 64 bits hold")
    return as_ns(int(digits), precision)


def _add(point: PBPoint, kind: str, key: str, content: dict[str, Any]) -> None:
    with _naming(f"{kind} {shown(key)}"):
        point.fields.append(Field(key=key, **content))


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Text that was no UTF-8 cannot be written: say where it is."""
    try:
        yield
    except UnicodeEncodeError:
        raise BadPoint(UNREADABLE, f"{where}: no UTF-8") from None
