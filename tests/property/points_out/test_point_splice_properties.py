"""Any points: what stays stays byte for byte, no key leaves twice, and the kernel and its plain twin agree."""

import math
import re
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codec.points.mapping import REPLACED_KEYS
from bridge.codec.points.point_pb2 import Field, PBPoint, PBPoints
from bridge.codec.points.splice import PlainPointSplicer, PointSplicer, clock_fields, tag_fields
from bridge.errors import InvalidData
from bridge.spans import NO_CLOCKS, Decisions, Encoding, Method, Outcome, RowClocks
from tests.support.clocks import Clock, clock_offsets
from tests.support.espans import field
from tests.support.linked_points import points_in

Part = tuple[str | None, bytes]
"""The key of a field of a point (None: no such field), and the field's bytes."""
Splicers = type[PlainPointSplicer]
BOTH = sorted({PlainPointSplicer, PointSplicer}, key=lambda c: c.__name__)

KEYS = st.sampled_from(
    [*sorted(k.decode() for k in REPLACED_KEYS), "host", "env", "start", "span_links", "", "schlüssel" * 20]
)
VALUES = st.one_of(
    st.builds(lambda s: Field(s=s), st.text(max_size=20)),
    st.builds(lambda s: Field(s=str(s)), st.integers(-9, 2**65)),
    st.builds(lambda i: Field(i=i), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda d: Field(d=d), st.binary(max_size=200)),
    st.builds(lambda u: Field(u=u, is_tag=True), st.integers(0, 2**64 - 1)),
    st.just(Field()),
).map(Field.SerializeToString)
UNKNOWN = st.sampled_from(
    [b"\xa8\x06\xff\x01", b"\xa3\x06\x08\x01\xa4\x06", b"\x18\x07", b"\x98\x00\x80\x00", b"\x0a\x01n"]
)


def _field(parts: list[bytes]) -> Part:
    return Field.FromString(b"".join(parts)).key, field(2, b"".join(parts))


# As senders may write them: a key behind its value, twice, or not at all.
NAMED = st.lists(st.one_of(KEYS.map(lambda key: field(1, key.encode())), VALUES), max_size=4).map(_field)
PARTS = st.one_of(NAMED, NAMED, UNKNOWN.map(lambda raw: (None, raw)))
POINTS = st.lists(PARTS, max_size=8)
IDS = ("span_id", "trace_hi", "trace_lo", "parent_span_id", "ebpf_trace_hi", "ebpf_trace_lo", "ebpf_parent_id")
DECIDED = st.fixed_dictionaries(
    {
        "outcome": st.sampled_from([Outcome.EXPORT, Outcome.EXPORT, Outcome.PASS]),
        "method": st.sampled_from(Method),
        "confidence": st.one_of(st.floats(0, 1, width=32), st.floats(width=32)),
        "encode": st.sampled_from(Encoding),
        **{name: st.one_of(st.just(0), st.integers(0, 2**64 - 1)) for name in IDS},
    }
)
TAGS = st.dictionaries(
    st.sampled_from(["host", "env", "trace_id", "span_links", "ns", ""]), st.text(max_size=200), max_size=4
)


def spliced(
    splicers: Splicers,
    points: list[bytes],
    decided: list[dict[str, Any]],
    tags: dict[str, str],
    links: list[bytes],
    clocks: RowClocks = NO_CLOCKS,
) -> tuple[list[int], bytes]:
    """Sizes and bytes of the points as a splicer writes them."""
    n = len(points)
    columns = {name: np.array([d[name] for d in decided], Decisions.dtypes()[name]) for name in (decided or [{}])[0]}
    ends = np.cumsum(list(map(len, points)), dtype=np.int64)
    starts = ends - np.array(list(map(len, points)), np.int64)
    decisions = Decisions.from_columns(n, **columns)
    splicer = splicers(
        [b"".join(points)],
        np.zeros(n, np.uint32),
        starts,
        ends,
        decisions,
        tag_fields(tags),
        links,
        clock_fields(clocks.offsets),
        clocks.of_row,
    )
    return splicer.sizes.tolist(), splicer.write(0, n)


def expected(
    parts: list[Part], decided: dict[str, Any], tags: dict[str, str], link: bytes, clock: Clock | None = None
) -> bytes:
    """The rule, spelled with protobuf: what stays in its order, time, tags, what was decided."""
    exported = decided["outcome"] == Outcome.EXPORT
    cut = {key.decode() for key in REPLACED_KEYS} | ({"span_links"} if link else set()) if exported else set()
    later = [{key for key, _ in parts[i + 1 :]} - {None} for i in range(len(parts))]
    kept = [part for part, behind in zip(parts, later, strict=True) if part[0] not in cut | behind]
    added = PBPoint(time=missing_time(PBPoint.FromString(b"".join(raw for _, raw in parts))))
    if added.time:
        kept.append((None, added.SerializeToString()))
        added.Clear()
    for key in sorted(tags):
        if key not in {"", "trace_id", "span_links", *(key for key, _ in kept)} and tags[key]:
            added.fields.add(key=key, s=tags[key], is_tag=True)
    if not exported:
        return b"".join(raw for _, raw in kept) + added.SerializeToString()
    decimal, parent, ebpf = decided["encode"] == Encoding.DEC, decided["parent_span_id"], decided["ebpf_parent_id"]
    whole = decided["trace_hi"] << 64 | decided["trace_lo"]
    added.fields.add(key="span_id", s=f"{decided['span_id']:016x}")
    added.fields.add(key="trace_id", s=str(decided["trace_lo"]) if decimal else f"{whole:032x}")
    added.fields.add(key="parent_id", s="0" if not parent else str(parent) if decimal else f"{parent:016x}")
    added.fields.add(key="ebpf_trace_id", s=f"{decided['ebpf_trace_hi'] << 64 | decided['ebpf_trace_lo']:032x}")
    added.fields.add(key="ebpf_parent_id", s=f"{ebpf:016x}" if ebpf else "0")
    if decided["method"]:
        added.fields.add(key="espan_link_method", s=decided["method"].name.lower())
        sure = decided["confidence"]
        sure = 0.0 if math.isnan(sure) else round(min(max(sure, 0.0), 1.0), 3)
        added.fields.add(key="espan_link_confidence", f=sure)
    if clock is not None:
        added.fields.add(key="espan_clock_reference", s=f"{clock[0]:016x}")
        added.fields.add(key="espan_clock_offset_ns", i=clock[1])
        added.fields.add(key="espan_clock_uncertainty_ns", i=clock[2])
    return b"".join(raw for _, raw in kept) + added.SerializeToString() + link


def missing_time(point: PBPoint) -> int:
    """The last start (us), an integer or decimal text, in ns; 0 where the point has a time or no such start."""
    value = ([None] + [getattr(f, f.WhichOneof("val") or "", None) for f in point.fields if f.key == "start"])[-1]
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    start_ns = int(text) * 1000 if re.fullmatch("[0-9]{1,20}", text) else 0
    return start_ns if start_ns < 2**63 and not point.time else 0


LINK = field(2, Field(key="span_links", s="l").SerializeToString())
ROWS = st.lists(st.tuples(POINTS, DECIDED, st.sampled_from([b"", LINK])), max_size=4)
Rows = list[tuple[list[Part], dict[str, Any], bytes]]


CLOCKS = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1)), max_size=3
)


@pytest.mark.parametrize("splicers", BOTH)
@given(rows=ROWS, tags=TAGS, clocks=CLOCKS, data=st.data())
@settings(max_examples=60)
def test_what_is_not_decided_stays_byte_for_byte(
    splicers: Splicers, rows: Rows, tags: dict[str, str], clocks: list[Clock], data: st.DataObject
) -> None:
    """A point is its fields but those that linking writes, as they came, the last of each key; a time if it has none;
    tags it lacks; then what is decided, and the clock of its host where that is known."""
    points = [b"".join(raw for _, raw in parts) for parts, _, _ in rows]
    of_row = [data.draw(st.integers(0, len(clocks))) for _ in rows]
    known = RowClocks(clock_offsets(clocks), np.array(of_row, np.uint32))
    sizes, written = spliced(splicers, points, [d for _, d, _ in rows], tags, [link for *_, link in rows], known)
    wanted = [
        field(1, expected(parts, decided, tags, link, clocks[n - 1] if n else None))
        for (parts, decided, link), n in zip(rows, of_row, strict=True)
    ]
    assert written == b"".join(wanted)
    assert sizes == list(map(len, wanted))


@given(rows=ROWS, tags=TAGS)
@settings(max_examples=60)
def test_points_read_as_they_came(rows: Rows, tags: dict[str, str]) -> None:
    """Read with protobuf, an exported point has the last field of each key, but for those that linking writes."""
    rows = [(parts, {**decided, "outcome": Outcome.EXPORT}, b"") for parts, decided, _ in rows]
    points = [b"".join(raw for _, raw in parts) for parts, _, _ in rows]
    left = points_in(spliced(PointSplicer, points, [d for _, d, _ in rows], tags, [])[1])
    for raw, after in zip(points, left, strict=True):
        before = PBPoint.FromString(raw)
        last = {f.key: i for i, f in enumerate(before.fields) if f.key.encode() not in REPLACED_KEYS}
        kept = [before.fields[i] for i in sorted(last.values())]
        assert list(after.fields)[: len(kept)] == kept
        before.time = before.time or missing_time(before)
        for point in (before, after):
            point.ClearField("fields")
        assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


@pytest.mark.parametrize("splicers", BOTH)
@given(rows=ROWS, tags=TAGS)
@settings(max_examples=60)
def test_no_key_leaves_twice(splicers: Splicers, rows: Rows, tags: dict[str, str]) -> None:
    """Whatever was sent, whatever is added: one point with a key twice would cost its whole body."""
    points = [b"".join(raw for _, raw in parts) for parts, _, _ in rows]
    written = spliced(splicers, points, [d for _, d, _ in rows], tags, [link for *_, link in rows])[1]
    for point in points_in(written):
        assert len({f.key for f in point.fields}) == len(point.fields)


MANY = st.lists(st.integers(0, 2000), min_size=100, max_size=1300)


@given(numbers=MANY, prefix=st.sampled_from(["", "k", "a key that is longer than eight bytes "]))
@settings(max_examples=15)
def test_keys_are_told_apart_however_many_they_are(numbers: list[int], prefix: str) -> None:
    """Also where there are more than the kernel keeps in mind."""
    parts: list[Part] = [_field([Field(key=f"{prefix}{n}", i=i).SerializeToString()]) for i, n in enumerate(numbers)]
    decided = {"outcome": Outcome.PASS}
    for splicers in BOTH:
        _, written = spliced(splicers, [b"".join(raw for _, raw in parts)], [decided], {}, [])
        assert written == field(1, expected(parts, decided, {}, b""))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A point with some bytes overwritten, removed or put in."""
    raw = bytearray(b"".join(raw for _, raw in draw(POINTS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


@given(raw=st.one_of(damaged(), st.binary(max_size=60)), decided=DECIDED, tags=TAGS)
@settings(max_examples=200)
def test_splicers_agree_on_any_bytes(raw: bytes, decided: dict[str, Any], tags: dict[str, str]) -> None:
    """Both write the same or both raise InvalidData; what protobuf reads as a point, they take."""
    answers = []
    for splicers in (PlainPointSplicer, PointSplicer):
        try:
            answers.append(spliced(splicers, [raw], [decided], tags, []))
        except InvalidData as exc:
            assert "span 0" in str(exc)
            answers.append(([], b""))
    assert answers[0] == answers[1]
    try:
        PBPoint.FromString(raw)
    except DecodeError:
        return
    assert answers[0] != ([], b"")
    if decided["outcome"] == Outcome.EXPORT:
        PBPoints.FromString(answers[0][1])


def test_numbers_are_as_long_as_they_are() -> None:
    """Decimal ids of every number of digits are measured as they are written."""
    numbers = sorted({10**n for n in range(20)} | {10**n - 1 for n in range(20)} | {2**64 - 1})
    decided = [
        {"outcome": Outcome.EXPORT, "encode": Encoding.DEC, "trace_lo": number, "parent_span_id": number}
        for number in numbers
    ]
    answers = [spliced(splicers, [b""] * len(numbers), decided, {}, []) for splicers in BOTH]
    assert all(answer == answers[0] for answer in answers)
    read = [{f.key: f.s for f in point.fields} for point in points_in(answers[0][1])]
    assert [point["trace_id"] for point in read] == list(map(str, numbers))
    assert [point["parent_id"] for point in read] == list(map(str, numbers))
