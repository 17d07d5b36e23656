"""What `make accuracy` is made of, without the recordings."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.accuracy.baseline import link_as_the_reference, spans_of
from tests.accuracy.systems import SYSTEMS

ROOT = "0" * 15


def write_spans(path: Path, *spans: dict[str, Any]) -> None:
    """Spans of one request; the span id is the position, from 1 on."""
    told = [
        {
            "spanId": f"{i:016x}",
            "attributes": [{"key": k, "value": {"stringValue": v}} for k, v in span.items()],
        }
        for i, span in enumerate(spans, 1)
    ]
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": told}]}]}) + "\n")


def entry(thread: str, req: str) -> dict[str, str]:
    return {"ebpf_span_type": "entry", "direction": "incoming", **_keys(thread, req)}


def exit_(thread: str, req: str) -> dict[str, str]:
    return {"ebpf_span_type": "exit", "direction": "outgoing", **_keys(thread, req)}


def _keys(thread: str, req: str) -> dict[str, str]:
    return {"thread_trace_id": thread, "req_seq": req, "resp_seq": "1"}


@pytest.mark.parametrize(
    ("spans", "parents"),
    [
        ([entry("7", "a"), exit_("7", "b"), entry("8", "b")], ["", "1", "2"]),
        ([entry("7", "a"), entry("7", "c"), exit_("7", "b")], ["", "", "2"]),
        ([exit_("7", "b"), exit_("8", "b"), entry("9", "b")], ["", "", "2"]),
        ([entry("7", "b"), exit_("7", "b")], ["2", "1"]),
    ],
    ids=["thread and numbers", "last entry of a thread", "last client of a net id", "a loop"],
)
def test_the_baseline_takes_what_comes_last(tmp_path: Path, spans: list[dict[str, str]], parents: list[str]) -> None:
    """By thread below entries, by numbers across; nothing is checked."""
    write_spans(tmp_path / "in", *spans)
    link_as_the_reference(tmp_path / "in", tmp_path / "out")
    got = {span["spanId"]: span["parentSpanId"] for span, _ in _plain(tmp_path / "out")}
    assert [got[f"{i:016x}"] for i in range(1, len(spans) + 1)] == [ROOT + p if p else "" for p in parents]


def _plain(path: Path) -> list[tuple[dict[str, Any], None]]:
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    return [(s, None) for r in requests for rs in r["resourceSpans"] for ss in rs["scopeSpans"] for s in ss["spans"]]


def test_spans_come_with_their_attributes(tmp_path: Path) -> None:
    """In order of arrival."""
    write_spans(tmp_path / "in", entry("7", "a"), exit_("7", "b"))
    assert [values["req_seq"] for _, values in spans_of(tmp_path / "in")] == ["a", "b"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_recording_is_whole(tmp_path: Path, name: str) -> None:
    """Every parent is there, began before its children, and calls go from pod to pod; the same seed, the same bytes."""
    path = tmp_path / "recording.csv"
    SYSTEMS[name].record(path, traces=40, seed=3)
    with path.open(newline="") as file:
        rows = {row["SpanID"]: row for row in csv.DictReader(file)}
    roots = [row for row in rows.values() if row["ParentID"] == "root"]
    assert len(roots) == len({row["TraceID"] for row in rows.values()}) == 40
    for row in rows.values():
        assert int(row["StartTimeUnixNano"]) < int(row["EndTimeUnixNano"])
        if row["ParentID"] != "root":
            parent = rows[row["ParentID"]]
            assert parent["TraceID"] == row["TraceID"]
            assert int(parent["StartTimeUnixNano"]) <= int(row["StartTimeUnixNano"])
    again = tmp_path / "again.csv"
    SYSTEMS[name].record(again, traces=40, seed=3)
    assert again.read_bytes() == path.read_bytes()
