r"""Line protocol, rule by rule."""

import pytest

from bridge.codec.points.line_protocol import read_lines
from bridge.codec.points.point_pb2 import PBPoint, PBPoints
from tests.support.point_bodies import point_of

NS = 1_767_225_600_123_456_789


def read(body: str | bytes, precision: str = "") -> list[PBPoint]:
    """The points of a body without a bad line."""
    converted = read_lines(body if isinstance(body, bytes) else body.encode(), precision)
    assert converted.rejections.told == []
    return list(PBPoints.FromString(converted.points).arr)


def told(body: str | bytes) -> list[tuple[int, str]]:
    return read_lines(body if isinstance(body, bytes) else body.encode()).rejections.told


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("1.5E-3", 0.0015),
        ("1i", 1),
        ("-9223372036854775808i", -(2**63)),
        ("9223372036854775807i", 2**63 - 1),
        ("t", True),
        ("T", True),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("f", False),
        ("F", False),
        ("false", False),
        ("False", False),
        ("FALSE", False),
        ('""', ""),
        ('"a b,c=d"', "a b,c=d"),
        (r'"say \"hi\" \\ \n \,"', r'say "hi" \ \n \,'),
        ('"two\nlines\r\n# no comment"', "two\nlines\r\n# no comment"),
        ('"ä€😀"', "ä€😀"),
    ],
)
def test_field_values(text: str, value: object) -> None:
    """Floats, integers, booleans, quoted text."""
    assert read(f"m k={text},z=1i 1767225600") == [point_of({"k": value, "z": 1}, name="m", time=1767225600 * 10**9)]


def test_unsigned_integers() -> None:
    """Of the wire type that says so, also where they would fit the other."""
    (point,) = read(f"m k=1u,l={2**64 - 1}u")
    assert [(field.WhichOneof("val"), field.u) for field in point.fields] == [("u", 1), ("u", 2**64 - 1)]


@pytest.mark.parametrize(
    ("line", "point"),
    [
        (r"a\ b\,c,t\ 1\==x\,\ y f\ 1\,\==1i", point_of({"f 1,=": 1}, {"t 1=": "x, y"}, name="a b,c")),
        (r"a=b f=1i", point_of({"f": 1}, name="a=b")),
        (r"a\b\\,c=d\e f\g=1i", point_of({"f\\g": 1}, name="a\\b\\,c=d\\e")),
        (r"m f\"1\"=1i", point_of({'f"1"': 1}, name="m")),
        (r'm,t="quoted" f=1i', point_of({"f": 1}, {"t": '"quoted"'}, name="m")),
        (r"m#1 f#=1i", point_of({"f#": 1}, name="m#1")),
    ],
)
def test_escapes_in_names(line: str, point: PBPoint) -> None:
    """A backslash that escapes nothing is itself; quotes mean something in fields' values alone."""
    assert read(line) == [point]


def test_tags_and_fields_keep_their_order() -> None:
    """Tags first, as they stand in the line."""
    (point,) = read("m,b=1,a=2 z=1,y=2")
    assert [field.key for field in point.fields] == ["b", "a", "z", "y"]
    assert [field.is_tag for field in point.fields] == [True] * 2 + [False] * 2


def test_key_given_twice_is_read_once() -> None:
    """Of a tag and a field the field, of two tags or two fields the last: Dataway takes no key twice."""
    assert read("m,b=1,a=2,b=3,y=t z=1i,y=2i,z=3i", "n") == [point_of({"y": 2, "z": 3}, {"a": "2", "b": "3"}, name="m")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n \t\r\n", '\n# comment \\ " =\n', "  \n  "])
def test_lines_comments_and_what_is_between(newline: str) -> None:
    """Empty lines, comments, blanks before and behind."""
    assert read(f"{newline}m a=1i{newline}m  a=2i  5{newline}", "n") == [
        point_of({"a": 1}, name="m"),
        point_of({"a": 2}, name="m", time=5),
    ]


@pytest.mark.parametrize(
    ("written", "precision", "time"),
    [
        ("", "", 0),
        (f" {NS}", "", NS),
        (f" {NS // 10**3}", "", NS // 10**3 * 10**3),
        (f" {NS // 10**6}", "", NS // 10**6 * 10**6),
        (f" {NS // 10**9}", "", NS // 10**9 * 10**9),
        (" -1", "", -(10**9)),
        (" 5", "n", 5),
        (" 5", "ns", 5),
        (" 5", "u", 5_000),
        (" 5", "us", 5_000),
        (" 5", "µ", 5_000),
        (" 5", "ms", 5_000_000),
        (" 5", "s", 5 * 10**9),
        (" 5", "m", 300 * 10**9),
        (" 5", "h", 18_000 * 10**9),
    ],
)
def test_timestamps(written: str, precision: str, time: int) -> None:
    """Missing, of the unit that was said, or of that which fits the magnitude."""
    assert read(f"m a=1{written}", precision)[0].time == time


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",t=v f=1", 'want a measurement, got ",t=v f=1"'),
        ("m", 'want a space and fields, got ""'),
        ("m,t f=1", 'want a tag with a value, got ",t f=1"'),
        ("m,t= f=1", 'want a tag with a value, got ",t= f=1"'),
        ("m,t=a=b f=1", 'want a space and fields, got "=b f=1"'),
        ("m f", 'want a field\'s key and =, got "f"'),
        ("m f=1,", 'want a field\'s key and =, got ""'),
        ("m f=", 'want field "f": a value, got ""'),
        ("m f= 1", 'want field "f": a value, got " 1"'),
        ('m f="x', 'want field "f": text up to another quote, got ""x"'),
        ('m f="x"y', 'want a timestamp or the line\'s end, got "y"'),
        ("m f=1 x", 'want a timestamp or the line\'s end, got " x"'),
        ("m f=1 5 6", 'want a timestamp or the line\'s end, got " 6"'),
        ("m f=1i2", 'field "f": "1i2" is no number, no boolean, no text in quotes'),
        ("m f=NaN", 'field "f": "NaN" is no number, no boolean, no text in quotes'),
        ("m f=1e999", 'field "f": "1e999" is no number, no boolean, no text in quotes'),
        ("m f=tRUE", 'field "f": "tRUE" is no number, no boolean, no text in quotes'),
        ("m f=9223372036854775808i", 'field "f": an integer beyond 64 bits'),
        ("m f=-1u", 'field "f": an integer beyond 64 bits'),
        ("m f=1 " + "9" * 21, "time: more digits than 64 bits hold"),
        ("m f=1 9223372036854775808", "time: 9223372036854775808 ns are more nanoseconds than 64 bits hold"),
    ],
)
def test_bad_line_is_told_by_its_number(line: str, message: str) -> None:
    """And the lines around it are read."""
    body = f"m a=1i\n# comment\n{line}\nm a=2i"
    assert told(body) == [(3, message)]
    assert read_lines(body.encode()).numbers == [1, 4]


def test_text_that_is_no_utf_8_costs_its_line() -> None:
    """In a name, a tag or a value; the key is told."""
    body = b'm a=1i\nm\xff a=1i\nm,t=\xff a=1i\nm a="\xff"\nm a=2i'
    assert told(body) == [(2, "measurement: no UTF-8"), (3, 'tag "t": no UTF-8'), (4, 'field "a": no UTF-8')]
    assert read_lines(body).numbers == [1, 5]


def test_lines_of_text_in_quotes_count() -> None:
    """A line's number is that of an editor; what follows a bad line's first newline is read as a line."""
    converted = read_lines(b'm a="1\n2\n3"\nm a="4\nm b=5i",c\nm a=6i')
    assert converted.numbers == [1, 6]
    assert [number for number, _ in converted.rejections.told] == [4, 5]


def test_unknown_precision_costs_lines_with_times() -> None:
    """Which is said of each."""
    converted = read_lines(b"m a=1\nm a=1 5", "fortnight")
    assert (converted.numbers, [number for number, _ in converted.rejections.told]) == ([1], [2])
