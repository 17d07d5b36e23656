"""What is fuzzed: for each decoder what the bridge does with its input, and what has to hold afterwards.

`serve` is what the bridge does, within limits of time and memory. It may raise the errors of bridge.errors, and nothing
else. `compare` looks closer: the compiled kernels against their plain twins, and what leaves against the parsers of
opentelemetry-proto. It is not timed: twins are slow.
"""

import atexit
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge.codec import otlp_encode, otlp_scan
from bridge.codec.attribute_fields import Message
from bridge.codec.attribute_rules import (
    Action,
    AttributeEditor,
    AttributeRules,
    Edited,
    PlainAttributeEditor,
    Rule,
    widened,
)
from bridge.codec.headers import read_headers
from bridge.codec.otlp_json import decode_json, encode_json
from bridge.codec.otlp_protobuf import decode_request
from bridge.codec.points import encode as points_encode
from bridge.codec.points import scan as points_scan
from bridge.codec.points.decode import decode_points
from bridge.codec.points.point_pb2 import PBPoints
from bridge.codec.points.splice import PlainPointSplicer
from bridge.codec.rows import ROW
from bridge.config import load
from bridge.config.listing import listing
from bridge.config.profiles import read_profile
from bridge.errors import BridgeError
from bridge.exporters.answers import retry_after_s, shown
from bridge.exporters.otlp.answers import check_partial_success, retry_delay_s
from bridge.linker import LinkOptions, link
from bridge.receivers.compression import ENCODINGS, decompress
from bridge.spans import Kind, Outcome, SpanBatch
from bridge.spans.profiles import HEADERS
from bridge.store.packing import Damaged, expand, expand_plain, unpack_arrays, unpack_arrays_plain
from tests.fuzz import seeds
from tests.support.linked_points import linked_of

MAX_INFLATED_BYTES = 1 << 20
PEER = "192.0.2.7"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
FORMS = ("application/protobuf", "application/json", "application/pbjson", "text/plain")
RULES = (
    Rule("http.url", Action.STRIP_QUERY | Action.HASH),
    Rule("service.name", Action.HASH),
    Rule("resource", Action.TRUNCATE, 5),
    Rule("src_*", Action.HASH),
    Rule("host.name", Action.DROP),
    Rule("span.name", Action.STRIP_QUERY),
    Rule("thread*", Action.DROP),
    Rule("a", Action.HASH),
)


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    serve: Callable[[bytes], Any]
    """Raises a BridgeError where the bridge refuses the input; what it returns `compare` is given."""
    seeds: Callable[[], list[bytes]]
    compare: Callable[[bytes, Any], None] = lambda _, __: None


# --- spans and points -------------------------------------------------------------------------------------------------


def exported(batch: SpanBatch) -> None:
    """What was taken can be linked, edited by rules and written in every form that leaves."""
    payload, _ = AttributeRules(RULES, key=b"k" * 16).applied(batch.payload)
    link(batch.columns, LinkOptions())
    for block in (batch.payload, payload):
        outcome = np.where(batch.columns.kind == Kind.ORDINARY, Outcome.PASS, Outcome.EXPORT)
        linked = linked_of(block, outcome=outcome)
        spans = 0
        for body, n in otlp_encode.encode_requests(linked, max_spans=7, max_bytes=1 << 16):
            encode_json(body)
            spans += n
        assert spans == len(batch)
        for form in ("protobuf", "line_protocol"):
            bodies = points_encode.encode_points(linked, max_bytes=1 << 16, form=form, global_tags={"env": "e"})
            assert sum(n for _, n in bodies) == len(batch)


def written_alike(batch: SpanBatch) -> None:
    """By kernels and by their twins, and so that the parsers of the other side read it."""
    for editor_block in (batch.payload,):
        kind = Message.POINT if editor_block.format.name == "POINT" else Message.SPAN
        edited = [
            editor(widened(RULES), b"k" * 16).edit(kind, editor_block.data, editor_block.offsets)
            for editor in (AttributeEditor, PlainAttributeEditor)
        ]
        assert said(edited[0]) == said(edited[1])
    outcome = np.where(batch.columns.kind == Kind.ORDINARY, Outcome.PASS, Outcome.EXPORT)
    linked = linked_of(batch.payload, outcome=outcome)
    requests = list(otlp_encode.encode_requests(linked, max_spans=99, max_bytes=1 << 20))
    with replaced(otlp_encode, "Splicer", otlp_encode.PlainSplicer):
        assert requests == list(otlp_encode.encode_requests(linked, max_spans=99, max_bytes=1 << 20))
    points = list(points_encode.encode_points(linked, max_bytes=1 << 20, form="protobuf", global_tags={}))
    with replaced(points_encode, "PointSplicer", PlainPointSplicer):
        assert points == list(points_encode.encode_points(linked, max_bytes=1 << 20, form="protobuf", global_tags={}))
    for body, n in requests:
        read = ExportTraceServiceRequest.FromString(body)
        assert n == sum(len(scope.spans) for resource in read.resource_spans for scope in resource.scope_spans)
    for body, n in points:
        assert n == len(PBPoints.FromString(body).arr)


def said(edited: Edited | None) -> object:
    return None if edited is None else (edited.data, edited.offsets.tolist(), dict(edited.counts))


@contextmanager
def replaced(module: Any, name: str, by: object) -> Iterator[None]:
    """The module with something else under this name."""
    was = getattr(module, name)
    setattr(module, name, by)
    try:
        yield
    finally:
        setattr(module, name, was)


def serve_otlp_protobuf(data: bytes) -> SpanBatch:
    batch = decode_request(data, peer=PEER).batch
    exported(batch)
    return batch


def compare_otlp_protobuf(data: bytes, batch: SpanBatch | None) -> None:
    assert outcome_of(otlp_scan.scan_compiled, data) == outcome_of(otlp_scan.scan_plain, data)
    if batch is not None:
        written_alike(batch)


def outcome_of(scan: Callable[[bytes], Any], data: bytes) -> object:
    """What a scan found, or why it found nothing, to be compared."""
    try:
        found = scan(data)
    except BridgeError as exc:
        return str(exc)
    columns = {name: found.rows[name].tolist() for name in ROW.names or () if name != "texts"}
    rest = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name in ("data", "lengths", "contexts", "context", "refused", "refusals", "rejections")
        if (value := getattr(found, name, None)) is not None
    }
    return columns, rest


def serve_otlp_json(data: bytes) -> SpanBatch:
    batch = decode_json(data, peer=PEER).batch
    exported(batch)
    return batch


def compare_batch(_: bytes, batch: SpanBatch | None) -> None:
    if batch is not None:
        written_alike(batch)


def serve_points(form: str) -> Callable[[bytes], SpanBatch]:
    def serve(data: bytes) -> SpanBatch:
        """A first byte below 32 is no part of the body: it chooses a precision, as the query of a request does."""
        precision = ""
        if data[:1] and data[0] < 9:
            words = ("n", "u", "ms", "s", "m", "h", "", "x", "ns")
            precision, data = words[data[0]], data[1:]
        batch = decode_points(data, form, peer=PEER, precision=precision, received_ns=10**18).batch
        exported(batch)
        return batch

    return serve


def compare_points_protobuf(data: bytes, batch: SpanBatch | None) -> None:
    body = data[1:] if data[:1] and data[0] < 9 else data
    assert outcome_of(points_scan.scan_compiled, body) == outcome_of(points_scan.scan_plain, body)
    compare_batch(body, batch)


MESSAGES = (Message.SPAN, Message.RESOURCE_SPANS, Message.SCOPE_SPANS, Message.POINT)


def serve_attributes(data: bytes) -> object:
    """Bytes of a message that were scanned by nobody before."""
    kind, body = MESSAGES[data[0] % 4] if data else Message.SPAN, data[1:]
    return said(AttributeEditor(widened(RULES), b"k").edit(kind, body, np.array([0, len(body)], np.int64)))


def compare_attributes(data: bytes, found: object) -> None:
    kind, body = MESSAGES[data[0] % 4] if data else Message.SPAN, data[1:]
    try:
        plain = said(PlainAttributeEditor(widened(RULES), b"k").edit(kind, body, np.array([0, len(body)], np.int64)))
    except BridgeError:
        plain = None
    assert plain == found


# --- what surrounds them ----------------------------------------------------------------------------------------------


def serve_content_encoding(data: bytes) -> None:
    encoding = ENCODINGS[data[0] % len(ENCODINGS)] if data else "gzip"
    inflated = decompress(data[1:], encoding, MAX_INFLATED_BYTES)
    assert encoding == "identity" or len(inflated) <= MAX_INFLATED_BYTES


def serve_headers(data: bytes) -> None:
    texts = data.decode("utf-8", "surrogateescape").split("\n")
    ids = read_headers(dict(zip(HEADERS, texts, strict=False)))
    assert 0 <= ids.trace_id < 1 << 128
    assert 0 <= ids.parent < 1 << 64
    assert ids.flag in (-1, 0, 1)


FOLDER = Path(mkdtemp(prefix="fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def serve_config(data: bytes) -> None:
    """Settings that can be used can be shown."""
    path = FOLDER / "bridge.toml"
    path.write_bytes(data)
    listing(load(path, {}))


def serve_environment(data: bytes) -> None:
    """Lines NAME=VALUE."""
    lines = (line.partition("=") for line in data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n"))
    listing(load(None, {name: value for name, _, value in lines if name}))


def serve_profile(data: bytes) -> None:
    path = FOLDER / "profile.toml"
    path.write_bytes(data)
    read_profile(path)


def serve_answers(data: bytes) -> None:
    """What a backend says: a Retry-After, the status of a refusal, a partial success, any text."""
    text = data.decode("utf-8", "surrogateescape")
    for wait_s in (retry_after_s(text, NOW), retry_delay_s(data)):
        assert wait_s is None or 0 <= wait_s < float("inf")
    assert len(shown(text, ("secret",))) <= 300
    check_partial_success(data, ())


def _claims_much(data: bytes) -> bool:
    """Whether a head says that very many equal values follow: a checksum has vouched for heads when they are read."""
    heads = (data[13 * i + 1 : 13 * i + 5] for i in range(4))
    return any(int.from_bytes(n, "little") > 1 << 16 for n in heads)


def serve_stored(data: bytes) -> None:
    """Rows of the store behind their checksums: bytes that a disk gave back."""
    if not _claims_much(data):
        with suppress(Damaged):
            unpack_arrays(data, ("u1", "u4", "i8", "f8"))
    (size,) = struct.unpack("<H", data[:2].ljust(2, b"\0"))
    with suppress(ValueError):
        assert len(expand(data, 2, max(0, len(data) - 2), size)) == size


def compare_stored(data: bytes, _: object) -> None:
    """Where both make something of bytes, they make the same; one may be stricter than the other."""
    (size,) = struct.unpack("<H", data[:2].ljust(2, b"\0"))
    made = []
    for expanding in (expand, expand_plain):
        try:
            made.append(expanding(data, 2, max(0, len(data) - 2), size))
        except ValueError:
            continue
    assert len(set(made)) <= 1
    if _claims_much(data):
        return
    arrays = []
    for unpacking in (unpack_arrays, unpack_arrays_plain):
        try:
            found, end = unpacking(data, ("u1", "u4"))
        except (Damaged, struct.error, KeyError, ValueError):
            continue
        arrays.append(([array.tobytes() for array in found], end))
    assert len(arrays) < 2 or arrays[0] == arrays[1]


TARGETS: Mapping[str, Target] = {
    "otlp_protobuf": Target(serve_otlp_protobuf, seeds.otlp_protobuf, compare_otlp_protobuf),
    "otlp_json": Target(serve_otlp_json, seeds.otlp_json, compare_batch),
    "points_protobuf": Target(serve_points(FORMS[0]), seeds.points_protobuf, compare_points_protobuf),
    "points_json": Target(serve_points(FORMS[1]), seeds.points_json, compare_batch),
    "points_pbjson": Target(serve_points(FORMS[2]), seeds.points_pbjson, compare_batch),
    "line_protocol": Target(serve_points(FORMS[3]), seeds.line_protocol, compare_batch),
    "attributes": Target(serve_attributes, seeds.attributes, compare_attributes),
    "content_encoding": Target(serve_content_encoding, seeds.content_encoding),
    "headers": Target(serve_headers, seeds.headers),
    "config": Target(serve_config, seeds.config),
    "environment": Target(serve_environment, seeds.environment),
    "profile": Target(serve_profile, seeds.profile),
    "answers": Target(serve_answers, seeds.answers),
    "stored": Target(serve_stored, seeds.stored, compare_stored),
}
"""Every decoder, by the name that `make fuzz TARGET=...` takes."""

if sys.byteorder != "little":
    raise ImportError("seeds of `stored` are little-endian")
