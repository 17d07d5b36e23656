"""The reference's rule, for comparison: what comes last wins, and nothing is checked.

An entry heads the group of its thread trace id and every exit of the group is its child; an incoming span's parent is
the outgoing span with its sequence numbers, which beats the thread. Of several spans with one key the last one to
arrive is taken. No time, no address, no thread id of the kernel.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def spans_of(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(span, its attributes) of each span of a file of OTLP/JSON lines, in order of arrival."""
    with path.open() as file:
        for line in file:
            for resource in json.loads(line)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        values = {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}
                        yield span, values


def link_as_the_reference(spans: Path, linked: Path) -> None:
    """Write the spans with the parents and trace ids that the rule gives them, one OTLP/JSON request a line."""
    kinds: dict[str, dict[str, Any]] = {}
    heads: dict[str, str] = {}
    clients: dict[tuple[str, str], str] = {}
    for span, values in spans_of(spans):
        kinds[span["spanId"]] = values
        if values["ebpf_span_type"] == "entry":
            heads[values["thread_trace_id"]] = span["spanId"]
        if values["direction"] == "outgoing":
            clients[_net(values)] = span["spanId"]
    parents = {span_id: _parent(values, heads, clients) for span_id, values in kinds.items()}
    with linked.open("w") as file:
        for span_id, parent in parents.items():
            root = _root(span_id, parents)
            span = {"spanId": span_id, "parentSpanId": parent or "", "traceId": root.zfill(32)}
            file.write(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}) + "\n")


def _net(values: dict[str, Any]) -> tuple[str, str]:
    return values["req_seq"], values["resp_seq"]


def _parent(values: dict[str, Any], heads: dict[str, str], clients: dict[tuple[str, str], str]) -> str | None:
    if values["direction"] == "incoming" and _net(values) in clients:
        return clients[_net(values)]
    return heads.get(values["thread_trace_id"]) if values["ebpf_span_type"] != "entry" else None


def _root(span_id: str, parents: dict[str, str | None]) -> str:
    """The topmost ancestor; a loop, which the reference does not survive, is left where it closes."""
    seen = {span_id}
    while (parent := parents.get(span_id)) is not None and parent not in seen:
        seen.add(parent)
        span_id = parent
    return span_id
