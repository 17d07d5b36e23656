"""Traces as trees of text lines, for people: pure, and safe against whatever spans claim about each other."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MAX_DEPTH_DRAWN = 16
"""Deeper spans are drawn at this depth with their depth as a number, or chains would leave the page."""
DETAILS_WIDTH = 46
KINDS = {Span.SPAN_KIND_SERVER: "server", Span.SPAN_KIND_CLIENT: "client", Span.SPAN_KIND_INTERNAL: "internal"}


@dataclass(frozen=True, slots=True)
class _Node:
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    title: str
    """service: resource"""
    kind: str
    edge: str
    """How the edge to the parent was found."""
    start_ns: int
    end_ns: int


def render_traces(requests: Iterable[bytes], *, width: int = 120) -> Iterator[str]:
    """Lines, none longer than `width` (at least 80), that draw the traces of serialized ExportTraceServiceRequests.

    One heading a trace, in the order they first appear, then a line a span: service, resource, kind, duration, and how
    the edge to its parent was found; children stand under their parent in order of start. A span whose parent is not
    there, or that is its own ancestor, begins a tree of its own and says so. Raises DecodeError for other bytes.
    """
    width = max(width, 80)
    traces: dict[bytes, list[_Node]] = defaultdict(list)
    for request in requests:
        for node in _nodes(request):
            traces[node.trace_id].append(node)
    for trace_id, nodes in traces.items():
        yield from _render_trace(trace_id, nodes, width)
        yield ""


def _nodes(request: bytes) -> Iterator[_Node]:
    for resource_spans in ExportTraceServiceRequest.FromString(request).resource_spans:
        service = _text_of(resource_spans.resource.attributes, ("service.name",)).get("service.name", "unknown")
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _node(service, span)


def _node(service: str, span: Span) -> _Node:
    texts = _text_of(span.attributes, ("resource", "service", "ebpf_span_type", "espan.link.method"))
    name = span.name or texts.get("resource") or "(no name)"
    has_parent = any(span.parent_span_id)
    return _Node(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_span_id if has_parent else b"",
        title=_printable(f"{texts.get('service', service)}: {name}"),
        kind=_printable(texts.get("ebpf_span_type") or KINDS.get(span.kind, "")),
        edge=_printable(texts.get("espan.link.method", "as sent" if has_parent else "")),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )


def _text_of(attributes: Iterable[KeyValue], keys: tuple[str, ...]) -> dict[str, str]:
    return {a.key: a.value.string_value for a in attributes if a.key in keys and a.value.string_value}


def _render_trace(trace_id: bytes, nodes: list[_Node], width: int) -> Iterator[str]:
    nodes.sort(key=lambda node: node.start_ns)
    length_ns = max(n.end_ns for n in nodes) - nodes[0].start_ns
    spans = "1 span" if len(nodes) == 1 else f"{len(nodes)} spans"
    yield f"trace {trace_id.hex()}  {spans}  {_duration(length_ns)}"
    for node, prefix, hint in _walk(nodes):
        yield _line(node, prefix, hint, width)


def _walk(nodes: list[_Node]) -> Iterator[tuple[_Node, str, str]]:
    """Each span once, parents first, with its drawn prefix and a hint at what is odd about it."""
    children, roots = _forest(nodes)
    seen: set[int] = set()
    # whatever no root reaches lies on a loop or hangs under one: its earliest span begins a tree
    for first in (*roots, *range(len(nodes))):
        if first in seen:
            continue
        hint = "" if not nodes[first].parent_id else "loop" if first not in roots else "parent not here"
        stack = [(first, "", "", hint, 0)]
        while stack:
            index, prefix, indent, hint, depth = stack.pop()
            if index in seen:
                continue
            seen.add(index)
            yield nodes[index], prefix, hint
            below = [child for child in children[index] if child not in seen]
            for child in reversed(below):
                last = child == below[-1]
                if depth < MAX_DEPTH_DRAWN:
                    drawn, deeper = indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  ")
                else:
                    drawn, deeper = f"{indent}⋯{depth + 1} ", indent
                stack.append((child, drawn, deeper, "", depth + 1))


def _forest(nodes: list[_Node]) -> tuple[dict[int, list[int]], dict[int, None]]:
    """Children of each span by position, and the positions (in order) of spans whose parent is none or not there."""
    position: dict[bytes, int] = {}
    for index, node in enumerate(nodes):
        position.setdefault(node.span_id, index)
    children: dict[int, list[int]] = defaultdict(list)
    roots: dict[int, None] = {}
    for index, node in enumerate(nodes):
        parent = position.get(node.parent_id) if node.parent_id else None
        if parent is None:
            roots[index] = None
        else:
            children[parent].append(index)
    return children, roots


def _line(node: _Node, prefix: str, hint: str, width: int) -> str:
    edge = f"{node.edge} ({hint})" if hint else node.edge
    details = f"{node.kind[:8]:<8} {_duration(node.end_ns - node.start_ns):>10}  {edge}"[:DETAILS_WIDTH]
    room = width - DETAILS_WIDTH - 2
    left = prefix + node.title
    if len(left) > room:
        left = left[: room - 1] + "…"
    return f"{left:<{room}}  {details}".rstrip()


def _duration(ns: int) -> str:
    if ns < 0:
        return "?"
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if ns >= size:
            return f"{ns / size:.2f} {unit}"
    return f"{ns} ns"


def _printable(text: str) -> str:
    """One line without control characters: what a span says must not command a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
