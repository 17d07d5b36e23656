"""Points in JSON, in both forms: what is read, and what a bad one is told."""

import json
from typing import Any

import pytest

from bridge.codec.points.decode import decode_points
from bridge.codec.points.point_pb2 import Array, BasicTypes, Map, MetricType, PBPoint
from tests.support.point_bodies import JSON, PBJSON, PEER, field_of, point_of

GOOD = '{"measurement":"m","fields":{"a":1}}'


def read(*points: str, precision: str = "") -> list[PBPoint]:
    payload = decode_points(f"[{','.join(points)}]".encode(), JSON, peer=PEER, precision=precision).batch.payload
    return [PBPoint.FromString(payload.span(i)) for i in range(len(payload))]


def rejection_of(point: str) -> tuple[str, str]:
    """Reason and text of a point between two good ones, which are taken."""
    found = decode_points(f"[{GOOD},{point},{GOOD}]".encode(), PBJSON, peer=PEER)
    assert len(found.batch) == 2
    ((reason, count),) = found.rejected.items()
    assert count == 1
    return reason, found.rejection


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63), 2**63 - 1, 2**63, 2**64 - 1])
def test_integers_keep_their_digits(number: int) -> None:
    """No double comes in between, in either form."""
    name = "i" if number < 2**63 else "u"
    for point in (
        f'{{"measurement":"m","fields":{{"k":{number}}}}}',
        f'{{"name":"m","fields":[{{"key":"k","{name}":"{number}"}}]}}',
        f'{{"name":"m","fields":[{{"key":"k","{name}":{number}}}]}}',
    ):
        assert read(point) == [point_of({"k": number}, name="m")]


def test_values_of_the_plain_form() -> None:
    """Tags come first; null is absent, unknown names are ignored."""
    text = """{"measurement": "m", "tags": {"t": "v", "no": null}, "time": 7, "new": {},
               "fields": {"i": -1, "f": 1.5, "whole": 2.0, "b": true, "s": "ä\\n", "none": null}}"""
    fields = {"i": -1, "f": 1.5, "whole": 2.0, "b": True, "s": "ä\n"}
    assert read(text) == [point_of(fields, {"t": "v"}, name="m", time=7)]


def test_arrays_of_the_plain_form() -> None:
    """Of values of one type."""
    (point,) = read('{"measurement":"m","fields":{"a":[1,2],"none":[]}}')
    found = [Array(), Array()]
    assert all(field.a.Unpack(array) for field, array in zip(point.fields, found, strict=True))
    assert found == [Array(arr=[BasicTypes(i=1), BasicTypes(i=2)]), Array()]


def test_values_of_the_mapped_form() -> None:
    """Names as protobuf's JSON mapping has them, also those of the .proto."""
    text = json.dumps(
        {
            "name": "m",
            "time": "7",
            "fields": [
                {"key": "i", "i": "-1"},
                {"key": "u", "u": 2},
                {"key": "f", "f": "1.5"},
                {"key": "nan", "f": "Infinity"},
                {"key": "b", "b": True},
                {"key": "d", "d": "_-8="},
                {"key": "t", "s": "v", "is_tag": True, "type": "GAUGE", "unit": "ms"},
                {"key": "T", "s": "v", "isTag": True, "type": 2},
                {"key": "last", "s": "v", "i": "3"},
                {"key": "none", "s": None},
            ],
            "warns": [{"type": "w", "message": "careful"}, {"msg": "more"}],
            "debugs": [{"info": "d"}],
        }
    )
    expected = point_of({"i": -1}, name="m", time=7)
    expected.fields.add(key="u", u=2)
    expected.fields.extend([field_of("f", 1.5), field_of("nan", float("inf")), field_of("b", True)])
    expected.fields.append(field_of("d", b"\xff\xef"))
    expected.fields.append(field_of("t", "v", is_tag=True, type=MetricType.GAUGE, unit="ms"))
    expected.fields.append(field_of("T", "v", is_tag=True, type=MetricType.RATE))
    expected.fields.extend([field_of("last", 3), field_of("none", None)])
    expected.warns.add(type="w", msg="careful")
    expected.warns.add(msg="more")
    expected.debugs.add(info="d")
    assert read(text) == [expected]


def test_arrays_and_maps_of_the_mapped_form() -> None:
    """As `Any` is written in JSON."""
    kind = "type.googleapis.com/point."
    array = {"@type": f"{kind}Array", "arr": [{"s": "x"}, {"s": "y"}]}
    mapped = {"@type": f"{kind}Map", "map": {"k": {"i": "1"}}}
    (point,) = read(json.dumps({"name": "m", "fields": [{"key": "a", "a": array}, {"key": "m", "a": mapped}]}))
    found_array, found_map = Array(), Map()
    assert point.fields[0].a.Unpack(found_array)
    assert point.fields[1].a.Unpack(found_map)
    assert found_array == Array(arr=[BasicTypes(s="x"), BasicTypes(s="y")])
    assert dict(found_map.map) == {"k": BasicTypes(i=1)}


@pytest.mark.parametrize(("precision", "unit_ns"), [("", 1), ("n", 1), ("u", 10**3), ("ms", 10**6), ("s", 10**9)])
def test_time_is_ns_unless_the_query_says_otherwise(precision: str, unit_ns: int) -> None:
    """However small it is."""
    assert read('{"measurement":"m","fields":{"a":1},"time":5}', precision=precision)[0].time == 5 * unit_ns


@pytest.mark.parametrize(
    "point",
    [
        '{"measurement":"m","tags":{"k":"tag","t":"v"},"fields":{"a":1,"k":2}}',
        '{"name":"m","fields":[{"key":"t","s":"v","is_tag":true},{"key":"k","s":"tag","is_tag":true},'
        '{"key":"a","i":1},{"key":"k","i":2}]}',
        '{"name":"m","fields":[{"key":"t","s":"v","is_tag":true},{"key":"a","i":1},{"key":"k","i":1},{"key":"k","i":2},'
        '{"key":"k","s":"tag","is_tag":true}]}',
    ],
    ids=["plain", "mapped", "tag behind"],
)
def test_key_given_twice_is_read_once(point: str) -> None:
    """Of a tag and a field the field, of two fields the last: Dataway takes no key twice."""
    assert read(point) == [point_of({"a": 1, "k": 2}, {"t": "v"}, name="m")]


@pytest.mark.parametrize(
    ("entry", "got"),
    [("5", "5"), ("null", "null"), ('"x"', '"x"'), ("[{}]", "an array"), ("NaN", "nan"), ("9" * 5000, "inf")],
)
def test_entry_that_is_no_object_costs_itself(entry: str, got: str) -> None:
    """As any other bad point."""
    assert rejection_of(entry) == ("invalid_value", f"points[1]: want an object, got {got}")


I64 = "want an integer from -9223372036854775808 to 9223372036854775807"


@pytest.mark.parametrize(
    ("point", "reason", "text"),
    [
        ({"fields": {"a": 1}}, "no_measurement", "no measurement"),
        ({"measurement": 5}, "invalid_value", "measurement: want text, got 5"),
        ({"measurement": "m", "fields": {}}, "no_fields", "no fields"),
        ({"measurement": "m", "fields": {"k": {}}}, "invalid_value", 'field "k": want text, a finite number'),
        ({"measurement": "m", "fields": {"k": 2**64}}, "invalid_value", 'field "k": an integer beyond 64 bits'),
        ({"measurement": "m", "fields": {"k": [1, "x"]}}, "invalid_value", 'field "k": an array of values of several'),
        ({"measurement": "m", "fields": {"k": [[]]}}, "invalid_value", 'field "k": want text'),
        ({"measurement": "m", "fields": []}, "invalid_value", "fields: want an object, got an array"),
        ({"measurement": "m", "fields": {"k": "\ud800"}}, "invalid_value", "half of a surrogate pair"),
        ({"measurement": "m", "tags": {"t": 1}, "fields": {"k": 1}}, "invalid_value", 'tag "t": want text, got 1'),
        ({"measurement": "m", "time": "x", "fields": {"k": 1}}, "invalid_value", f'time: {I64}, got "x"'),
        ({"measurement": "m", "time": 2**63, "fields": {"k": 1}}, "invalid_value", f"time: {I64}, got {2**63}"),
        ({"name": "m", "fields": [{"key": "k", "i": "1.5"}]}, "invalid_value", f'field "k": {I64}, got "1.5"'),
        ({"name": "m", "fields": [{"key": "k", "i": True}]}, "invalid_value", f'field "k": {I64}, got true'),
        ({"name": "m", "fields": [{"key": "k", "u": -1}]}, "invalid_value", 'field "k": want an integer from 0 to'),
        ({"name": "m", "fields": [{"key": "k", "d": "?"}]}, "invalid_value", 'field "k": want base64, got "?"'),
        ({"name": "m", "fields": [{"key": "k", "b": 1}]}, "invalid_value", 'field "k": want true or false, got 1'),
        ({"name": "m", "fields": [{"key": "k", "f": "x"}]}, "invalid_value", 'field "k": want a number, got "x"'),
        ({"name": "m", "fields": [{"key": "k", "s": 1}]}, "invalid_value", 'field "k": want text, got 1'),
        ({"name": "m", "fields": [{"key": "k", "a": {}}]}, "invalid_value", 'field "k": want one of type.googleapis'),
        (
            {"name": "m", "fields": [{"key": "k", "a": {"@type": []}}]},
            "invalid_value",
            'field "k": want one of type',
        ),
        ({"name": "m", "fields": [{"key": "k", "type": "X"}]}, "invalid_value", 'field "k".type: want an integer'),
        ({"name": "m", "fields": [{}, 5]}, "invalid_value", "fields[1]: want an object, got 5"),
        ({"name": "m", "fields": {}}, "invalid_value", "fields: want an array, got an object"),
    ],
)
def test_bad_point_is_told_with_its_key(point: dict[str, Any], reason: str, text: str) -> None:
    """And costs no other."""
    found, rejection = rejection_of(json.dumps(point))
    assert found == reason
    assert rejection.startswith(f"points[1]: {text}")


@pytest.mark.parametrize("number", ["9" * 5000, "1e999", "-1e999", "NaN", "-Infinity"])
def test_number_beyond_all_bounds_costs_its_point(number: str) -> None:
    """Python would refuse the body for the first, and take the others."""
    reason, _ = rejection_of(f'{{"measurement":"m","fields":{{"k":{number}}}}}')
    assert reason == "invalid_value"


def test_time_that_is_too_large_in_its_unit() -> None:
    """int64 in ns is what there is."""
    body = f'[{GOOD},{{"measurement":"m","fields":{{"k":1}},"time":{2**60}}}]'.encode()
    found = decode_points(body, JSON, peer=PEER, precision="s")
    assert found.rejection == f"points[1]: time: {2**60} s are more nanoseconds than 64 bits hold"
