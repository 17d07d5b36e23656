"""Points as line protocol."""

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from bridge.codec.points.encode import encode_points
from bridge.codec.points.lines import line
from bridge.codec.points.point_pb2 import Array, BasicTypes, Field, PBPoint
from bridge.errors import InvalidData
from tests.support.linked_points import field_of, linked_points, point_of


def test_types_have_their_suffixes() -> None:
    """Integers i, those beyond int64 u, floats as they are, text quoted, bytes base64; the time in ns."""
    point = point_of({"i": -1, "u": 2**64 - 1, "f": 1.5, "b": True, "s": "t", "d": b"\x00\xff"}, name="m", time=7)
    point.fields.add(key="small", u=5)
    assert line(point) == b'm i=-1i,u=18446744073709551615u,f=1.5,b=true,s="t",d="AP8=",small=5i 7'


def test_escapes() -> None:
    """Commas, spaces and equals signs of names, quotes and backslashes of text."""
    point = point_of({"k =,": 'say "\\"'}, name="m ,=")
    point.fields.append(field_of("t =,", "v =,", is_tag=True))
    assert line(point) == rb'm\ \,=,t\ \=\,=v\ \=\, k\ \=\,="say \"\\\""'


def test_tags_are_sorted_and_not_empty() -> None:
    """Tags come in the order of their keys; one without text, or without a key, cannot be written."""
    point = point_of({"f": 1}, name="m")
    point.fields.extend(
        field_of(key, text, is_tag=True) for key, text in [("b", "2"), ("a", "1"), ("c", ""), ("", "x")]
    )
    assert line(point) == b"m,a=1,b=2 f=1i"


def test_line_ends_and_tabs_do_not_part_names() -> None:
    """In names and tags they become spaces, in text they are allowed; a backslash at the end would escape a comma."""
    point = point_of({"f": "a\nb"}, name="m\n")
    point.fields.append(field_of("t", "v\t\\", is_tag=True))
    assert line(point) == b'm\\ ,t=v\\  f="a\nb"'


def test_last_of_a_key_counts() -> None:
    """A key is there once."""
    assert line(PBPoint(name="m", fields=[Field(key="k", i=1), Field(key="k", i=2)])) == b"m k=2i"


def test_what_cannot_be_written_is_left_out() -> None:
    """Numbers that are not finite, and fields without a value."""
    point = point_of({"nan": float("nan"), "inf": float("inf"), "f": 0.0}, name="m")
    point.fields.add(key="none")
    assert line(point) == b"m f=0.0"


def test_arrays_are_json() -> None:
    """What a field of type Any holds is JSON, and bytes where it is unknown."""
    held, unknown = AnyMessage(), AnyMessage(type_url="t/unknown", value=b"\x00")
    held.Pack(Array(arr=[BasicTypes(i=1), BasicTypes(s="x")]))
    point = PBPoint(name="m", fields=[Field(key="a", a=held), Field(key="u", a=unknown)])
    assert line(point) == rb'm a="{\"arr\": [{\"i\": \"1\"}, {\"s\": \"x\"}]}",u="AA=="'


def test_names_that_are_no_measurement() -> None:
    """A point without a name has one in a line; a name does not make a comment of it."""
    assert line(point_of({"f": 1}, name="")) == b"unnamed f=1i"
    assert line(point_of({"f": 1}, name="#m")) == rb"\#m f=1i"


def test_point_without_fields_is_refused() -> None:
    """No line can say it; points that leave always have ids."""
    with pytest.raises(InvalidData, match="without a field"):
        line(PBPoint(name="m"))


def test_bodies_of_lines() -> None:
    """Lines are parted by line ends; a body may be as large as its limit, and one byte less parts them."""
    linked = linked_points(point_of({}, name="a"), point_of({}, name="b"))
    ((body, count),) = encode_points(linked, max_bytes=1 << 62, form="line_protocol", global_tags={"env": "e"})
    first, second = body.split(b"\n")
    assert count == 2
    assert first.startswith(b'a,env=e span_id="0000000000000001",trace_id=')
    assert second.startswith(b"b,env=e ")
    for max_bytes, bodies in ((len(body), 1), (len(body) - 1, 2)):
        found = encode_points(linked, max_bytes=max_bytes, form="line_protocol", global_tags={"env": "e"})
        assert len(list(found)) == bodies


def test_keys_that_become_one_are_one() -> None:
    """What a line cannot keep of a key makes two alike: the last counts, as a Dataway refuses a key that is twice."""
    keys = {"k\tx": 1, "k x": 2, "k\\": 3, "k": 4, "span_id\\": "mine", "span_id": "theirs", "\\": 5}
    point = point_of(keys, name="m")
    assert line(point) == rb'm k\ x=2i,k=4i,span_id="theirs"'


def test_an_array_that_cannot_be_read_is_its_bytes() -> None:
    """It does not cost the points beside it."""
    odd = AnyMessage(type_url="type.googleapis.com/point.Array", value=b"\xff\xff")
    assert line(PBPoint(name="m", fields=[Field(key="a", a=odd)])) == b'm a="//8="'
