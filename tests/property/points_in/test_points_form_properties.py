"""The forms of a body: one set of points comes out alike in each; line protocol reads what is written; nothing but
InvalidPoints leaves the decoder."""

import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.codec.points.decode import DecodedPoints, InvalidPoints, decode_points
from bridge.codec.points.line_protocol import read_lines
from bridge.codec.points.point_pb2 import PBPoint, PBPoints
from bridge.spans import convention
from tests.support.point_bodies import (
    JSON,
    LINES,
    PBJSON,
    PROTOBUF,
    Point,
    as_json,
    as_lines,
    as_pbjson,
    as_protobuf,
    line_of,
    point_of,
)
from tests.support.wire_bytes import Changes, changed, changes

FORMS = {JSON: as_json, PBJSON: as_pbjson, LINES: as_lines}

special = st.text(st.sampled_from(list('abµ€ ,="\\#.\t')), min_size=1, max_size=6)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
integers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.integers(-9, 9), st.just(2**53 + 1))
floats = st.floats(allow_nan=False, allow_infinity=False)
field_values = st.one_of(integers, floats, st.booleans(), anything, special)
espan_fields = st.tuples(
    st.sampled_from([*convention.KEY_OF_BIT, "host", "service", "span_id"]),
    st.one_of(
        integers, st.integers().map(str), st.sampled_from(["entry", "incoming", "10.0.0.1", "cart", "0" * 15 + "f"])
    ),
)
times = st.one_of(st.just(0), st.integers(10**17, 2**63 - 1))


def written(names: st.SearchStrategy[str], tag_values: st.SearchStrategy[str]) -> st.SearchStrategy[Point]:
    """Points with names and tag values of these; no key twice but as tag and field, since JSON cannot say that."""
    other = st.tuples(names, field_values)
    fields = st.lists(st.one_of(espan_fields, espan_fields, other), min_size=1, max_size=12, unique_by=lambda f: f[0])
    tags = st.lists(st.tuples(names, tag_values), max_size=3, unique_by=lambda t: t[0])
    return st.builds(Point, names, tags.map(tuple), fields.map(tuple), times)


# In line protocol a name cannot be empty, begin a comment, hold a newline, or end in a backslash, nor can a backslash
# stand before what has to be escaped: there is no way to write it.
line_names = special.map(lambda t: t.replace("\\", "/").replace("\t", "-").lstrip("#") or "m")
line_points = st.lists(written(line_names, line_names), min_size=1, max_size=4)


def with_keys_once(point: Point) -> Point:
    """Of a key that is tag and field the field."""
    fields = dict(point.fields)
    return replace(point, tags=tuple(tag for tag in point.tags if tag[0] not in fields))


def read_as(point: Point) -> PBPoint:
    """The point that is made of it."""
    once = with_keys_once(point)
    return point_of(once.fields, once.tags, name=once.name, time=once.time or start_of(once))


def start_of(point: Point) -> int:
    """Its `start` in ns, be it an integer or decimal text, 0 where it is neither or more than a time can be."""
    value = {**dict(point.tags), **dict(point.fields)}.get("start", 0)
    digits = isinstance(value, str) and re.fullmatch("[0-9]{1,20}", value)
    number = int(value) if digits or (isinstance(value, int) and not isinstance(value, bool)) else 0
    return number * 1000 if 0 < number * 1000 < 2**63 else 0


def columns_of(decoded: DecodedPoints) -> dict[str, list[int]]:
    """All columns but the hash of the bytes."""
    return {name: column.tolist() for name, column in decoded.batch.columns.items() if name != "digest"}


@settings(max_examples=120, deadline=None)
@given(line_points)
@example([Point("m", (), (("req_seq", 2**53 + 1), ("resp_seq", 2**64 - 1), ("thread_trace_id", -1)))])
def test_forms_agree(points: list[Point]) -> None:
    """Protobuf, both kinds of JSON and line protocol decode to equal columns: the same points, the same numbers.
    In protobuf each key is there once, as the others are read: an id may be made of the bytes."""
    points = [replace(p, fields=tuple({"tid": 1, "tid_usr": 2, "ktime": 3, **dict(p.fields)}.items())) for p in points]
    expected = decode_points(as_protobuf(map(with_keys_once, points)), PROTOBUF, peer="peer")
    for content_type, write in FORMS.items():
        found = decode_points(write(points), content_type, peer="peer", precision="n")
        assert columns_of(found) == columns_of(expected)
        assert (found.faulty, found.rejected, found.rejection) == (expected.faulty, {}, "")


@settings(max_examples=120, deadline=None)
@given(st.lists(written(anything.map(lambda t: t or "m"), anything), min_size=1, max_size=3))
def test_json_says_what_protobuf_says(points: list[Point]) -> None:
    """Every text, integer and float, to the bit: the points of JSON are those of protobuf."""
    for content_type, write in ((JSON, as_json), (PBJSON, as_pbjson)):
        payload = decode_points(write(points), content_type, peer="peer").batch.payload
        found = [PBPoint.FromString(payload.span(i)) for i in range(len(payload))]
        assert found == [read_as(p) for p in points]


@settings(max_examples=200, deadline=None)
@given(line_points, st.sampled_from(["\n", "\r\n", "\n\n# a comment\n", "\n \t\n"]), st.booleans())
def test_lines_are_read_as_they_were_written(points: list[Point], newline: str, ended: bool) -> None:
    """The grammar, backwards: what was escaped, quoted and suffixed is what is read."""
    body = as_lines(points, newline) + newline.encode() * ended
    read = read_lines(body, "n")
    assert read.rejections.told == []
    assert list(PBPoints.FromString(read.points).arr) == [read_as(p) for p in points]


good_lines = written(line_names, line_names).map(line_of).filter(lambda line: "\n" not in line)
bad_lines = st.sampled_from(
    (
        *("m", "m ", "m,a b=1", "m,=b c=1", "m a", "m a=", "m a=x", "m a=1,", "m a=1 x", "m =1", ",a=b c=1"),
        *('m a="x', 'm a="x"y', "m a=1i2", "m a=" + "9" * 20 + "i", "m a=-1u", "m a=1 " + "9" * 20, "m a=1e999"),
    )
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.tuples(st.just(True), good_lines), st.tuples(st.just(False), bad_lines)), max_size=8))
def test_bad_line_costs_no_other(lines: list[tuple[bool, str]]) -> None:
    """Lines that can be read are, whatever stands around them, be it an open quote; the others are told by number."""
    read = read_lines("\n".join(line for _, line in lines).encode(), "n")
    bad = [number for number, (good, _) in enumerate(lines, 1) if not good]
    assert read.numbers == [number for number, (good, _) in enumerate(lines, 1) if good]
    assert (read.rejections.counts.total(), [number for number, _ in read.rejections.told]) == (len(bad), bad[:3])


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, floats, st.sampled_from([math.inf, math.nan, 10**400]), anything),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["measurement", "name", "tags", "fields", "time", "key", "i", "u", "f", "b", "d", "s", "a"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
line_parts = st.lists(st.sampled_from([*'m a=",\\1iut#-.é\n\r', "m a=", '="', "e9"]))


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON, PBJSON, LINES, "", "Application/JSON;charset=utf-8"])
@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(json_values, max_size=3).map(lambda value: json.dumps(value).encode()),
        line_parts.map(lambda parts: "".join(parts).encode()),
    ),
    st.sampled_from(["", "n", "s", "h", "week"]),
)
def test_any_bytes_are_decoded_or_invalid(content_type: str, body: bytes, precision: str) -> None:
    """Never another exception, and never points without a word about the rest."""
    try:
        decoded = decode_points(body, content_type, peer="peer", precision=precision)
    except InvalidPoints as exc:
        assert exc.error_code.startswith("datakit.")
        assert str(exc)
    else:
        assert len(decoded.batch) > 0
        assert bool(decoded.rejection) == bool(decoded.rejected)


@settings(max_examples=100, deadline=None)
@given(line_points, st.sampled_from([JSON, PBJSON, LINES]), changes)
def test_changed_bodies_are_decoded_or_invalid(points: list[Point], content_type: str, how: Changes) -> None:
    """Bodies that were good until somebody changed them."""
    try:
        decoded = decode_points(changed(FORMS[content_type](points), how), content_type, peer="peer")
    except InvalidPoints as exc:
        assert exc.error_code in ("datakit.noPoints", "datakit.invalidJsonPoint", "datakit.invalidLinePoint")
    else:
        assert len(decoded.batch) > 0
