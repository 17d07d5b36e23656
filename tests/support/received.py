"""What came out, taken apart without the bridge's code: spans with their bytes, and how true their parents are."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

LEN = 2
METHOD = "espan.link.method"


@dataclass(frozen=True)
class Received:
    """A span as a backend has it."""

    span_id: str
    parent_id: str
    """"" at a root."""
    trace_id: str
    method: str
    data: bytes
    """The bytes of the span, "" where they are not known."""


def spans_of(bodies: Iterable[bytes]) -> list[Received]:
    """The spans of serialized requests, in order."""
    return [_received(data) for body in bodies for data in span_bytes(body)]


def _received(data: bytes) -> Received:
    span = Span.FromString(data)
    method = next((a.value.string_value for a in span.attributes if a.key == METHOD), "")
    parent = span.parent_span_id.hex() if any(span.parent_span_id) else ""
    return Received(span.span_id.hex(), parent, span.trace_id.hex(), method, data)


def spans_of_lines(lines: Iterable[str]) -> Iterator[Received]:
    """The spans of OTLP/JSON lines, in order."""
    for line in lines:
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    yield _received_json(span)


def _received_json(span: Mapping[str, Any]) -> Received:
    method = next((a["value"]["stringValue"] for a in span.get("attributes", ()) if a["key"] == METHOD), "")
    return Received(span["spanId"], span.get("parentSpanId", ""), span["traceId"], method, b"")


def span_bytes(body: bytes) -> Iterator[bytes]:
    """The bytes of each span of a serialized request, as they are on the wire."""
    for resource_spans in _fields(body, 1):
        for scope_spans in _fields(resource_spans, 2):
            yield from _fields(scope_spans, 2)


def _fields(data: bytes, wanted: int) -> Iterator[bytes]:
    """Length-delimited fields of this number; messages here have no fields of another wire type."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 != LEN:
            raise ValueError(f"wire type {key & 7} where a message or a string was expected")
        size, at = _varint(data, at)
        if key >> 3 == wanted:
            yield data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


@dataclass(frozen=True)
class Origin:
    """Where a span really belongs."""

    parent_id: str
    trace: str
    kind: str


Truth = Mapping[str, Origin]


def read_truth(path: Path) -> Truth:
    """A file of span_id,parent_span_id,trace_id,kind."""
    with path.open(newline="") as file:
        return {r["span_id"]: Origin(r["parent_span_id"], r["trace_id"], r["kind"]) for r in csv.DictReader(file)}


@dataclass(frozen=True)
class Score:
    """How well spans agree with the truth; shares are 1.0 where there is nothing to find."""

    delivered: int
    copies: int
    unknown: int
    recall: float
    """Share of true parents that were found."""
    recall_in_process: float
    """The same of exits, whose parent is an entry of their own process."""
    recall_cross_process: float
    """The same of entries, whose parent is another process's exit."""
    precision: float
    """Share of found parents that are the true ones."""
    whole_traces: float
    """Share of traces that are one trace, with nobody else's spans, and every parent right."""


def score(truth: Truth, spans: Iterable[Received]) -> Score:
    """Compare received spans with the truth."""
    found: dict[str, Received] = {}
    copies = 0
    for span in spans:
        copies += span.span_id in found
        found[span.span_id] = span
    right = {i for i, span in found.items() if i in truth and span.parent_id == truth[i].parent_id}
    edges = {i for i, true in truth.items() if true.parent_id}
    exits = {i for i in edges if truth[i].kind == "exit"}
    claimed = {i for i, span in found.items() if span.parent_id}
    return Score(
        delivered=len(truth.keys() & found.keys()),
        copies=copies,
        unknown=len(found.keys() - truth.keys()),
        recall=_share(edges & right, edges),
        recall_in_process=_share(exits & right, exits),
        recall_cross_process=_share((edges - exits) & right, edges - exits),
        precision=_share(claimed & right, claimed),
        whole_traces=_whole(truth, found, right),
    )


def _share(part: set[str], whole: set[str]) -> float:
    return len(part) / len(whole) if whole else 1.0


def _whole(truth: Truth, found: Mapping[str, Received], right: set[str]) -> float:
    members, by_id = defaultdict(set), defaultdict(set)
    for span_id, true in truth.items():
        members[true.trace].add(span_id)
    for span_id, span in found.items():
        by_id[span.trace_id].add(span_id)
    whole = [m for m in members.values() if m <= right and by_id[found[min(m)].trace_id] == m]
    return len(whole) / len(members)
