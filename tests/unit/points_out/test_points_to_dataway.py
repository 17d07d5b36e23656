"""What points are when they leave for Dataway."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bridge.codec.points.encode import encode_points
from bridge.codec.points.mapping import REPLACED_KEYS
from bridge.codec.points.point_pb2 import PBPoint
from bridge.codec.points.splice import MAX_TAGS, PlainPointSplicer
from bridge.errors import InvalidData
from bridge.spans import Decisions, Encoding, LinkedSpans, Method, Outcome, SpanLinks
from tests.support.linked_points import agent_point, field_of, linked_points, point_of, points_in, tags_of, values_of

NO_LIMIT = 1 << 62
START_US = 1_767_225_600_000_000


def left(linked: LinkedSpans, tags: Mapping[str, str] | None = None, max_bytes: int = NO_LIMIT) -> list[list[PBPoint]]:
    """The points of each body; their number is what was said."""
    bodies = []
    for body, count in encode_points(linked, max_bytes=max_bytes, form="protobuf", global_tags=tags or {}):
        bodies.append(points_in(body))
        assert len(bodies[-1]) == count
    return bodies


def only_point(linked: LinkedSpans, tags: Mapping[str, str] | None = None) -> PBPoint:
    ((point,),) = left(linked, tags)
    return point


def ids_of(**decided: Any) -> dict[str, str]:
    values = values_of(only_point(linked_points(point_of({}), **{name: [value] for name, value in decided.items()})))
    return {key: value for key, value in values.items() if key.endswith("_id")}


def test_ids_are_hex() -> None:
    """Trace ids have 32 digits, span ids 16; the decided ones and those by eBPF evidence alone."""
    assert ids_of(
        span_id=0xA,
        trace_hi=0x0102030405060708,
        trace_lo=9,
        parent_span_id=0xB,
        ebpf_trace_hi=0xAB,
        ebpf_trace_lo=2**64 - 1,
        ebpf_parent_id=0xCD,
    ) == {
        "span_id": "000000000000000a",
        "trace_id": "01020304050607080000000000000009",
        "parent_id": "000000000000000b",
        "ebpf_trace_id": "00000000000000ab" + "f" * 16,
        "ebpf_parent_id": "00000000000000cd",
    }


def test_ids_of_datadog_are_decimal() -> None:
    """Where the trace id came from DataDog, trace_id and parent_id are decimal, of 64 bits; all others stay hex."""
    ids = ids_of(encode=Encoding.DEC, trace_hi=7, trace_lo=2**64 - 1, parent_span_id=10, span_id=11, ebpf_parent_id=10)
    assert (ids["trace_id"], ids["parent_id"]) == ("18446744073709551615", "10")
    assert (ids["span_id"], ids["ebpf_parent_id"]) == ("000000000000000b", "000000000000000a")


@pytest.mark.parametrize("encode", Encoding)
def test_parents_of_a_root_are_zero(encode: Encoding) -> None:
    """Both are one digit at a root."""
    ids = ids_of(encode=encode)
    assert (ids["parent_id"], ids["ebpf_parent_id"]) == ("0", "0")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (Method.NONE, None),
        (Method.SEQ, "seq"),
        (Method.THREAD, "thread"),
        (Method.HEADER, "header"),
        (Method.REQUEST_ID, "request_id"),
    ],
)
def test_link_method_says_how_the_parent_was_found(method: Method, text: str | None) -> None:
    """The key has no dots, as Guance has none; without a parent there is none."""
    values = values_of(only_point(linked_points(point_of({}), method=[method])))
    assert values.get("espan_link_method") == text


@pytest.mark.parametrize("key", sorted(REPLACED_KEYS))
def test_replaced_fields_do_not_stay(key: bytes) -> None:
    """Halves of header ids, and ids it came with, are removed; a key that only looks alike stays."""
    alike = [key.decode() + "x", "x" + key.decode()[1:]]
    point = only_point(linked_points(point_of(dict.fromkeys([key.decode(), *alike], "sent"))))
    assert [field.key for field in point.fields if field.s == "sent"] == alike


def test_other_fields_stay_as_they_are() -> None:
    """The fields that are left are byte for byte those that were sent, in their order, and so are name and time."""
    sent = agent_point()
    point = only_point(linked_points(sent))
    kept = [field for field in sent.fields if field.key.encode() not in REPLACED_KEYS]
    assert list(point.fields)[: len(kept)] == kept
    assert len(kept) == len(sent.fields) - 3
    assert (point.name, point.time) == (sent.name, sent.time)


def test_key_sent_twice_leaves_once() -> None:
    """The last one counts when a point is read, and is the one that stays, in its place and with its type."""
    sent = agent_point()
    sent.fields.insert(0, field_of("http_method", "PUT", is_tag=True))
    sent.fields.append(field_of("resource", 5))
    point = only_point(linked_points(sent))
    assert [field.key for field in point.fields if field.key in ("http_method", "resource")] == [
        "http_method",
        "resource",
    ]
    assert (values_of(point)["http_method"], values_of(point)["resource"], tags_of(point)) == ("GET", 5, {})


@pytest.mark.parametrize("outcome", [Outcome.EXPORT, Outcome.PASS])
@pytest.mark.parametrize(
    ("start", "time"),
    [
        (START_US, START_US * 1000),
        (str(START_US), START_US * 1000),
        (str(START_US).encode(), START_US * 1000),
        (0, 0),
        (-5, 0),
        (2**62, 0),
        ("soon", 0),
        (1.5, 0),
    ],
)
def test_missing_time_is_the_start(start: Any, time: int, outcome: Outcome) -> None:
    """In us, however it is written; without a usable one the point leaves without a time."""
    sent = point_of({"start": start, "resource": "GET /"})
    assert only_point(linked_points(sent, outcome=[outcome])).time == time
    sent.time = 7
    assert only_point(linked_points(sent, outcome=[outcome])).time == 7


def test_decided_fields_are_no_tags() -> None:
    """Tags would be indexed: ids are fields."""
    assert tags_of(only_point(linked_points(agent_point()))) == {}


def test_global_tags_are_added_where_there_is_no_such_key() -> None:
    """A field or a tag of the point itself goes before; what linking writes is not for tags to say; empty is none."""
    tags = {"env": "prod", "service": "other", "host": "h", "trace_id": "t", "empty": ""}
    point = only_point(linked_points(agent_point(host="own")), tags)
    assert tags_of(point) == {"env": "prod"}
    assert values_of(point)["service"] == "shop"
    assert values_of(point)["trace_id"] != "t"


def test_tag_fills_in_for_a_key_that_was_cut() -> None:
    """A key that is removed is none that the point has."""
    point = only_point(linked_points(point_of({"app_trace_id_l": 1})), {"app_trace_id_l": "tag"})
    assert tags_of(point) == {"app_trace_id_l": "tag"}


def test_links_are_a_field() -> None:
    """A span that carries links has them as JSON; all others have no such field."""
    links = SpanLinks.from_columns(2, row=[1, 1], trace_hi=[1, 3], trace_lo=[2, 4], span_id=[7, 8])
    linked = replace(linked_points(agent_point(), agent_point()), links=links)
    ((first, second),) = left(linked)
    assert "span_links" not in values_of(first)
    sent = replace(linked_points(agent_point(), agent_point(span_links="sent")), links=links)
    ((_, again),) = left(sent, {"span_links": "tag"})
    assert again == second
    assert values_of(second)["span_links"] == (
        '[{"trace_id":"' + "0" * 15 + "1" + "0" * 15 + '2","span_id":"' + "0" * 15 + '7"},'
        '{"trace_id":"' + "0" * 15 + "3" + "0" * 15 + '4","span_id":"' + "0" * 15 + '8"}]'
    )


def test_trace_stays_in_one_body() -> None:
    """A body ends before a trace that would not fit whole; a point that is larger than a body goes alone."""
    names = ["a", "b", "c", "d" * 5000, "e"]
    linked = linked_points(*(point_of({"resource": name}) for name in names), trace_lo=[1, 2, 2, 3, 4])
    bodies = [[values_of(point)["resource"][:1] for point in body] for body in left(linked, max_bytes=500)]
    assert bodies == [["a"], ["b", "c"], ["d"], ["e"]]


def test_no_spans_are_no_bodies() -> None:
    """Nothing makes no body, also without any block."""
    none = np.empty(0, np.uint32)
    assert left(LinkedSpans(1, (), none, none, Decisions.zeros(0), SpanLinks.zeros(0))) == []
    assert left(linked_points()) == []


@pytest.mark.parametrize(
    "bad", [b"\x0a", b"\x12\x05abc", b"\x12\x02\x0a\x05", b"\x18" + b"\xff" * 10, b"\x02\x00", b"\x0b"]
)
def test_bytes_that_are_no_point_are_refused(bad: bytes) -> None:
    """An eSpan that cannot be walked raises InvalidData, which names it."""
    with pytest.raises(InvalidData, match="span 1"):
        left(linked_points(agent_point(), bad))


@pytest.mark.parametrize(
    ("linked", "max_bytes", "tags", "match"),
    [
        (linked_points(agent_point()), 0, 0, "at least 1 byte"),
        (linked_points(agent_point(), outcome=[Outcome.FOLDED]), 1, 0, "outcome"),
        (linked_points(agent_point()), 1, MAX_TAGS + 1, "tags"),
        (replace(linked_points(agent_point()), row=np.array([1], np.uint32)), 1, 0, "not there"),
        (
            replace(linked_points(agent_point()), links=SpanLinks.from_columns(1, row=[1], trace_lo=[1], span_id=[1])),
            1,
            0,
            "link at a row",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(linked: LinkedSpans, max_bytes: int, tags: int, match: str) -> None:
    """Limits below 1, rows not to be exported, places that are not there, more tags than a splicer takes."""
    with pytest.raises(ValueError, match=match):
        left(linked, {f"k{i}": "v" for i in range(tags)}, max_bytes)


def test_splicer_checks_what_it_is_asked_to_write(implementation: type[PlainPointSplicer]) -> None:
    """Points that are not there are refused before a byte is written."""
    column = np.zeros(1, np.int64)
    splicer = implementation([b""], np.zeros(1, np.uint32), column, column, Decisions.zeros(1), [], [])
    for start, stop in ((-1, 1), (0, 2), (1, 0)):
        with pytest.raises(IndexError):
            splicer.write(start, stop)


def test_splicer_checks_its_columns(implementation: type[PlainPointSplicer]) -> None:
    """Columns of another length than the decisions', and points outside their payload, are refused."""
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="unequal length"):
        implementation([b""], np.zeros(2, np.uint32), two, one, Decisions.zeros(2), [], [])
    with pytest.raises(ValueError, match="unequal length"):
        implementation([b""], np.zeros(2, np.uint32), two, two, Decisions.zeros(2), [], [b""])
    with pytest.raises(InvalidData, match="outside its payload"):
        implementation([b""], np.zeros(1, np.uint32), one, one + 1, Decisions.zeros(1), [], [])
