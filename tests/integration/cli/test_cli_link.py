"""`espan-bridge link`: inputs of every form, errors that name the place, and what it says at the end."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bridge import cli
from tests.support.bridge_parts import START_NS
from tests.support.received import score, spans_of_lines
from tests.support.senders import simulated
from tests.support.sink import as_line

REQUESTS, TRUTH = simulated(0, 10, START_NS)
LINES = b"".join(as_line(request.SerializeToString()) for request in REQUESTS)


def merged() -> bytes:
    """All spans in one request, as one binary file holds it."""
    whole = ExportTraceServiceRequest()
    for request in REQUESTS:
        whole.MergeFrom(request)
    return whole.SerializeToString()


def call(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(cli.main, ["link", *arguments], input=stdin)


def assert_whole(lines: str) -> None:
    result = score(TRUTH, spans_of_lines(lines.splitlines()))
    assert (result.delivered, result.copies, result.recall, result.whole_traces) == (len(TRUTH), 0, 1.0, 1.0)


def test_json_lines_and_binary_files_give_the_same(tmp_path: Path) -> None:
    """Whole traces, under equal ids."""
    (tmp_path / "in.otlp.jsonl").write_bytes(LINES)
    (tmp_path / "in.pb").write_bytes(merged())
    found = []
    for source in ("in.otlp.jsonl", "in.pb"):
        output = tmp_path / f"{source}.out"
        assert call(str(tmp_path / source), "--output", str(output)).exit_code == 0
        assert_whole(output.read_text())
        found.append({(s.span_id, s.trace_id, s.parent_id) for s in spans_of_lines(output.read_text().splitlines())})
    assert found[0] == found[1]


def test_dashes_are_standard_input_and_output() -> None:
    """The summary goes to standard error, so that a pipe gets spans alone."""
    result = call("-", "--output", "-", stdin=LINES)
    assert result.exit_code == 0
    assert_whole(result.stdout)
    assert result.stderr == (
        "spans read      90\n"
        "spans written   90\n"
        "traces          10\n"
        "edges           seq 40, thread 40, header 0, request_id 0, timing 0\n"
        "roots           10 spans without a parent\n"
        "copies folded   0\n"
        "sampled out     0\n"
        "ordinary spans  0\n"
    )


def test_several_inputs_are_one_window(tmp_path: Path) -> None:
    """A trace whose sides lie in different files is whole; a span that is in both is folded."""
    half = len(REQUESTS) // 2
    lines = LINES.splitlines(keepends=True)
    (tmp_path / "a").write_bytes(b"".join(lines[:half]))
    (tmp_path / "b").write_bytes(b"".join(lines[half - 1 :]))
    result = call(str(tmp_path / "a"), str(tmp_path / "b"), "--output", "-")
    assert_whole(result.stdout)
    copies = len([s for r in REQUESTS[half - 1].resource_spans for s in r.scope_spans[0].spans])
    assert f"copies folded   {copies}\n" in result.stderr


@pytest.mark.parametrize(("rate", "written"), [("0", 0), ("1", 90)])
def test_the_sampling_rate_decides_on_whole_traces(rate: str, written: int) -> None:
    """0 keeps none, 1 all."""
    result = call("-", "--output", "-", "--sampling-rate", rate, stdin=LINES)
    assert len(list(spans_of_lines(result.stdout.splitlines()))) == written
    assert f"sampled out     {90 - written}\n" in result.stderr


def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """File, line, and what is wrong; exit code 1, nothing written."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(LINES.splitlines(keepends=True)[0] + b'{"resourceSpans": [{"scopeSpans": 7}]}\n')
    result = call(str(source), "--output", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert f"{source}: line 2: " in result.stderr
    assert "scopeSpans" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Without a traceback."""
    result = call(str(tmp_path / "none"), "--output", "-")
    assert result.exit_code == 1
    assert f"{tmp_path / 'none'}: No such file or directory" in result.stderr


@pytest.mark.parametrize("content", [gzip.compress(LINES), gzip.compress(merged())])
def test_gzipped_files_are_read(tmp_path: Path, content: bytes) -> None:
    """OTLP/JSON lines and a binary request."""
    (tmp_path / "spans.gz").write_bytes(content)
    result = call(str(tmp_path / "spans.gz"), "--output", "-")
    assert result.exit_code == 0
    assert_whole(result.stdout)


def test_a_gzipped_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "spans.gz").write_bytes(gzip.compress(LINES)[:500])
    result = call(str(tmp_path / "spans.gz"), "--output", "-")
    assert result.exit_code == 1
    assert "spans.gz: " in result.stderr


def test_clocks_of_two_hosts_are_told() -> None:
    """A span of each of two hosts that talked to each other says how far its clock is ahead of the other's; the times
    themselves stay as they were measured."""
    request = ExportTraceServiceRequest()
    for host, kind, start_ms, end_ms in (("a", "exit", 0, 10), ("b", "entry", 201, 209)):
        resource = request.resource_spans.add()
        resource.resource.attributes.add(key="host.name").value.string_value = host
        start_ns, end_ns = START_NS + start_ms * 10**6, START_NS + end_ms * 10**6
        span = resource.scope_spans.add().spans.add(start_time_unix_nano=start_ns, end_time_unix_nano=end_ns)
        span.attributes.add(key="ebpf_span_type").value.string_value = kind
        span.attributes.add(key="direction").value.string_value = {"exit": "outgoing", "entry": "incoming"}[kind]
        for key in ("req_seq", "resp_seq"):
            span.attributes.add(key=key).value.int_value = 77
    result = call("-", "--output", "-", stdin=request.SerializeToString())
    assert result.exit_code == 0
    found = {}
    for line in result.stdout.splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            (host,) = [a["value"]["stringValue"] for a in resource["resource"]["attributes"]]
            (span,) = resource["scopeSpans"][0]["spans"]
            found[host] = {a["key"]: a["value"] for a in span["attributes"]} | {"start": span["startTimeUnixNano"]}
    offsets = {host: int(span["espan.clock.offset_ns"]["intValue"]) for host, span in found.items()}
    assert abs(offsets["b"] - offsets["a"]) == 200 * 10**6
    assert {int(span["espan.clock.uncertainty_ns"]["intValue"]) for span in found.values()} == {0, 10**6}
    assert found["a"]["espan.clock.reference"] == found["b"]["espan.clock.reference"]
    assert int(found["b"]["start"]) - int(found["a"]["start"]) == 201 * 10**6
    assert found["b"]["espan.link.confidence"] == {"doubleValue": 1.0}
