"""Points, and linked points, for tests of what leaves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge.codec.points.point_pb2 import Field, PBPoint, PBPoints
from bridge.spans import Context, Decisions, LinkedSpans, Outcome, PayloadBlock, PayloadFormat, SpanLinks

AGENT_TEXTS: Mapping[str, str] = {
    "ebpf_span_type": "entry",
    "direction": "incoming",
    "pid": "4711",
    "service": "shop",
    "process_name": "shop-server",
    "thread_name": "worker-7",
    "src_ip": "10.0.0.17",
    "src_port": "8080",
    "dst_ip": "10.0.0.18",
    "dst_port": "41234",
    "span_type": "entry",
    "source_type": "ebpf",
    "status": "ok",
    "operation": "HTTP",
    "resource": "GET /cart/items",
    "http_method": "GET",
    "http_route": "/cart/items",
    "http_version": "1.1",
    "http_status_code": "200",
    "app_trace_id": "0af7651916cd43dd8448eb211c80319c",
}
AGENT_INTEGERS: Mapping[str, int] = {
    "req_seq": 305419896,
    "resp_seq": 2596069104,
    "thread_trace_id": -(2**62),
    "tid": 4712,
    "tid_usr": 0,
    "ktime": 86400000000000,
    "app_trace_id_l": 0x8448EB211C80319C - 2**64,
    "app_trace_id_h": 0x0AF7651916CD43DD,
    "app_parent_id_l": 13043,
    "app_span_sampled": 1,
    "bytes_read": 100,
    "bytes_written": 2000,
    "start": 1767225600000000,
    "duration": 1500,
}
Value = str | int | float | bool | bytes


def field_of(key: str, value: Value, *, is_tag: bool = False) -> Field:
    """A field of the type the value has in Python; integers beyond int64 are unsigned."""
    for form, name in ((bool, "b"), (str, "s"), (int, "i"), (float, "f"), (bytes, "d")):
        if isinstance(value, form):
            name = "u" if form is int and int(value) >= 2**63 else name
            return Field(key=key, is_tag=is_tag, **{name: value})
    raise TypeError(f"no value of a field: {value!r}")


def point_of(fields: Mapping[str, Value], *, name: str = "dketrace", time: int = 0) -> PBPoint:
    """A point with these fields, none of them a tag."""
    return PBPoint(name=name, time=time, fields=[field_of(key, value) for key, value in fields.items()])


def agent_point(**changed: Value | None) -> PBPoint:
    """A point as an agent sends it; of the keys that are changed those with None are left out."""
    fields = {**AGENT_TEXTS, **AGENT_INTEGERS, **changed}
    return point_of({k: v for k, v in fields.items() if v is not None}, time=1767225600000000000)


def block_of(
    spans: Sequence[bytes], form: PayloadFormat = PayloadFormat.POINT, context: Context | None = None
) -> PayloadBlock:
    """Serialized spans of one context."""
    offsets = np.cumsum([0, *map(len, spans)], dtype=np.int64)
    return PayloadBlock(form, b"".join(spans), offsets, (context or Context(),), np.zeros(len(spans), np.uint32))


def linked_of(*blocks: PayloadBlock, links: SpanLinks | None = None, **decided: Any) -> LinkedSpans:
    """All rows of the blocks, in order: eSpans of a trace each, unless decided otherwise."""
    n = sum(map(len, blocks))
    numbers = np.arange(1, n + 1)
    columns = {"outcome": np.full(n, Outcome.EXPORT), "span_id": numbers, "trace_lo": numbers, **decided}
    columns = {name: np.array(column, Decisions.dtypes()[name]) for name, column in columns.items()}
    block = np.repeat(np.arange(len(blocks), dtype=np.uint32), list(map(len, blocks)))
    row = np.concatenate([np.arange(len(b), dtype=np.uint32) for b in blocks])
    decisions = Decisions.from_columns(n, **columns)
    return LinkedSpans(1, blocks, block, row, decisions, SpanLinks.zeros(0) if links is None else links)


def linked_points(*points: PBPoint | bytes, **decided: Any) -> LinkedSpans:
    """Points of one block."""
    return linked_of(block_of([p if isinstance(p, bytes) else p.SerializeToString() for p in points]), **decided)


def points_in(body: bytes) -> list[PBPoint]:
    """The points of a body, as protobuf reads them."""
    return list(PBPoints.FromString(body).arr)


def values_of(point: PBPoint) -> dict[str, Any]:
    """Key and value of each field; of a key given twice the last."""
    return {f.key: getattr(f, f.WhichOneof("val")) if f.WhichOneof("val") else None for f in point.fields}


def tags_of(point: PBPoint) -> dict[str, str]:
    """The tags alone."""
    return {field.key: field.s for field in point.fields if field.is_tag}
