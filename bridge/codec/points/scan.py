"""Scanning points: the bytes of PBPoints to one row a point, in C where that could be built.

`scan_points` is the kernel of _point_scan.pyx, or, where no C compiler was there when the bridge was installed,
`scan_plain`, its twin over protobuf; slower, but with the same result. A body is readable if protobuf finds its points.
A point is taken if protobuf reads it as a PBPoint, the UTF-8 of every text included, and it keeps the limits: what
passes here can be read by whoever gets it next, and what is wrong inside a point costs that point alone.

Of a value given twice in a field the last counts, as protobuf has it; and so does of a key given twice the last, as for
attributes of OTLP: a key that the bridge appends to a point overrides what was there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from bridge.codec.digest import cut_out, digests, offsets_of
from bridge.codec.espan import Value, integer, read_espan
from bridge.codec.points import limits
from bridge.codec.points import point_view_pb2 as view
from bridge.codec.points import rejections as why
from bridge.codec.points.point_pb2 import Field, PBPoint, PBPoints
from bridge.codec.points.rejections import MAX_TOLD, REASONS, BadPoint, InvalidPoints, Rejections, shown
from bridge.codec.rows import ROW, read_texts
from bridge.errors import TooLarge
from bridge.spans import convention

try:
    from bridge.codec.points import _point_scan
except ImportError:  # not built
    _point_scan = None  # type: ignore[assignment]

SPAN_ID: Final = "span_id"
HOST: Final = "host"
SERVICE: Final = "service"
_HEX_16: Final = re.compile(r"[0-9a-fA-F]{16}")
_KEYS: Final = frozenset((*convention.KEY_OF_BIT, SPAN_ID, HOST, SERVICE))

Body = bytes | tuple[bytes, ...]
"""A body, or several that are read as the one that they are one behind another."""

PLACE: Final = np.dtype(
    [("point", np.int64), ("point_bytes", np.int64), ("host", np.int32), ("service", np.int32)], align=True
)
"""Where in the body a point is, and the numbers of the texts that name its host and its service; -1 for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What was found in one body: n points in their order, without the rejected ones."""

    rows: NDArray[np.void]
    """Shape (n,), dtype ROW."""
    data: bytes
    """The points' own bytes, one after another."""
    lengths: NDArray[np.int64]
    """Shape (n,): bytes of each."""
    digest: NDArray[np.uint64]
    """Shape (n,): of each one's bytes."""
    texts: tuple[str, ...]
    """Names of hosts and services; one may be there more than once."""
    host: NDArray[np.int32]
    """Shape (n,): position in `texts` of the key `host`, -1 where it is no text or absent."""
    service: NDArray[np.int32]
    rejections: Rejections
    """Points by their number in the body, from 0."""


def kernel_in_use() -> bool:
    """Whether points are scanned by the compiled kernel."""
    return scan_points is scan_compiled


def scan_compiled(body: Body, max_points: int = limits.MAX_POINTS, *, points: int | None = None) -> Scan:
    """The kernel's result. Raises InvalidPoints for bytes that are no PBPoints, TooLarge for too many of them.

    points: how many there are, where that is known already, as it is to be for several bodies.
    """
    bodies = (body,) if isinstance(body, bytes) else body
    _check_size(sum(map(len, bodies)))
    found = _point_scan.count_points(b"".join(bodies)) if points is None else points
    if found < 0:
        raise _no_body(b"".join(bodies))
    _check_number(found, max_points)
    rows, places = np.empty(found, ROW), np.empty(found, PLACE)
    texts = np.empty((2 * found, 2), np.int64)
    taken, named, counts, told = _point_scan.scan(bodies, rows, places, texts, MAX_TOLD)
    if taken < 0:
        raise _no_body(b"".join(bodies))
    rows, places = rows[:taken], places[:taken]
    rejections = Rejections()
    if told or rows["texts"].any():  # few bodies have what Python has to look at
        whole = b"".join(bodies)
        read_texts(rows, whole)
        rejections.told += [(number, _what_is_wrong(whole[at:end])) for number, at, end in told]
    rejections.counts.update({reason: n for reason, n in zip(REASONS, counts, strict=True) if n})
    lengths = places["point_bytes"].copy()
    data, digest = cut_out(bodies, places["point"], lengths)
    return Scan(
        rows=rows,
        data=data,
        lengths=lengths,
        digest=digest,
        texts=_texts(bodies, texts[:named]),
        host=places["host"],
        service=places["service"],
        rejections=rejections,
    )


def _texts(bodies: Sequence[bytes], places: NDArray[np.int64]) -> tuple[str, ...]:
    """The texts at these places (first byte, length) in all bodies, in whose order they are."""
    ends = np.cumsum([len(body) for body in bodies])
    before = [0, *ends.tolist()]
    of_body = np.searchsorted(ends, places[:, 0], "right").tolist()
    found = zip(of_body, places.tolist(), strict=True)
    return tuple(bodies[i][at - before[i] : at - before[i] + n].decode() for i, (at, n) in found)


def scan_plain(body: Body, max_points: int = limits.MAX_POINTS, *, points: int | None = None) -> Scan:
    """The kernel's twin. Raises InvalidPoints for bytes that are no PBPoints, TooLarge for too many of them."""
    body = body if isinstance(body, bytes) else b"".join(body)
    _check_size(len(body))
    try:
        sent = view.Points.FromString(body).arr
    except DecodeError as exc:
        raise _no_body(body) from exc
    _check_number(len(sent), max_points)
    rows: list[tuple[int, ...]] = []
    taken: list[bytes] = []
    texts: dict[str, int] = {}
    names: list[tuple[int, int]] = []
    rejections = Rejections()
    for number, data in enumerate(sent):
        try:
            point = read_point(data)
        except BadPoint as exc:
            rejections.add(number, exc.reason, str(exc))
            continue
        taken.append(data)
        values = _values(point)
        rows.append(_row(values, point.time))
        names.append((_text_number(texts, values.get(HOST)), _text_number(texts, values.get(SERVICE))))
    host_service = np.array(names, np.int32).reshape(-1, 2)
    lengths = np.array([len(data) for data in taken], np.int64)
    return Scan(
        rows=np.array(rows, ROW),
        data=b"".join(taken),
        lengths=lengths,
        digest=digests(b"".join(taken), offsets_of(lengths)),
        texts=tuple(texts),
        host=host_service[:, 0],
        service=host_service[:, 1],
        rejections=rejections,
    )


def _text_number(texts: dict[str, int], value: Value | None) -> int:
    return texts.setdefault(value, len(texts)) if isinstance(value, str) and value else -1


def _check_size(size: int) -> None:
    if size > limits.MAX_BODY_BYTES:
        raise TooLarge(f"{size} bytes in one body, more than {limits.MAX_BODY_BYTES}")


def _check_number(points: int, max_points: int) -> None:
    if points > max_points:
        raise limits.too_many(max_points)


def _no_body(body: bytes) -> InvalidPoints:
    try:
        view.Points.FromString(body)
    except DecodeError as exc:
        return InvalidPoints(why.INVALID_PROTOBUF, f"body: {_reason(exc)}")
    raise AssertionError("protobuf reads what the kernel does not")


def _reason(error: DecodeError) -> str:
    return str(error).rpartition("': ")[2]


def _what_is_wrong(data: bytes) -> str:
    try:
        read_point(data)
    except BadPoint as exc:
        return str(exc)
    raise AssertionError("a point that is fine is not rejected")


def read_point(data: bytes) -> PBPoint:
    """A point as it is taken. Raises BadPoint."""
    try:
        # read inside a body, where fewer messages are read inside one another than in a point by itself
        (point,) = PBPoints.FromString(view.Points(arr=[data]).SerializeToString()).arr
    except DecodeError as exc:
        raise BadPoint(why.UNREADABLE, _reason(exc)) from exc
    if not point.name:
        raise BadPoint(why.NO_MEASUREMENT, "no measurement")
    if len(point.name.encode()) > limits.MAX_MEASUREMENT_BYTES:
        raise BadPoint(why.MEASUREMENT_TOO_LONG, f"measurement longer than {limits.MAX_MEASUREMENT_BYTES} bytes")
    for field in point.fields:
        _check_field(field)
    tags = sum(field.is_tag for field in point.fields)
    fields = len(point.fields) - tags
    if not fields:
        raise BadPoint(why.NO_FIELDS, "no fields")
    if tags > limits.MAX_TAGS:
        raise BadPoint(why.TOO_MANY_TAGS, f"{tags} tags, more than {limits.MAX_TAGS}")
    if fields > limits.MAX_FIELDS:
        raise BadPoint(why.TOO_MANY_FIELDS, f"{fields} fields, more than {limits.MAX_FIELDS}")
    return point


def _check_field(field: Field) -> None:
    key, length = shown(field.key), len(field.s.encode()) + len(field.d)  # of the value: one of them, or none
    if len(field.key.encode()) > limits.MAX_KEY_BYTES:
        raise BadPoint(why.KEY_TOO_LONG, f"{key}: key longer than {limits.MAX_KEY_BYTES} bytes")
    if field.is_tag and length > limits.MAX_TAG_VALUE_BYTES:
        raise BadPoint(why.TAG_VALUE_TOO_LONG, f"tag {key}: value longer than {limits.MAX_TAG_VALUE_BYTES} bytes")
    if not field.is_tag and length > limits.MAX_FIELD_VALUE_BYTES:
        raise BadPoint(why.FIELD_VALUE_TOO_LONG, f"field {key}: value longer than {limits.MAX_FIELD_VALUE_BYTES} bytes")


def _values(point: PBPoint) -> dict[str, Value]:
    """Text and integers as they are, any other value as bytes; keys without a value are left out."""
    last = {field.key: field for field in point.fields if field.key in _KEYS}
    return {key: value_of(field) for key, field in last.items() if field.WhichOneof("val")}


def value_of(field: Field) -> Value:
    """Text or an integer; any other value, and none, is empty bytes. Binary data that is text is taken for it: agents
    wrote text so before points had `s`."""
    match field.WhichOneof("val"):
        case "i":
            return field.i
        case "u":
            return field.u
        case "s":
            return field.s
        case "d":
            try:
                return field.d.decode()
            except UnicodeDecodeError:
                return b""
    return b""


def _row(values: dict[str, Value], time_ns: int) -> tuple[int, ...]:
    """The fields of ROW for one point; its own time counts where it has no `start`."""
    known: dict[str, Value] = {key: values[key] for key in convention.KEY_OF_BIT if key in values}
    row = read_espan(known, 0, 0)
    if not row["start_ns"] and time_ns > 0:
        row = read_espan(known, time_ns, 0)
    row["sent_span_id"] = _span_id(values.get(SPAN_ID, ""))
    return tuple(int(row.get(name, 0)) for name in ROW.names or ())


def _span_id(value: Value) -> int:
    """16 hex digits or a number; 0 for anything else."""
    if isinstance(value, str) and _HEX_16.fullmatch(value):
        return int(value, 16)
    return integer(value) or 0


def _count_plain(body: bytes) -> int:
    """See `count_points`."""
    try:
        return len(view.Points.FromString(body).arr)
    except DecodeError:
        return -1


scan_points = scan_plain if _point_scan is None else scan_compiled
count_points = _count_plain if _point_scan is None else _point_scan.count_points
"""How many points a body has, taken or not; -1 where it cannot be read. What is inside a point is not looked at."""
