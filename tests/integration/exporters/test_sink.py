"""The scripted backend that tests and benchmarks count with: a count that cannot fail is worth nothing."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from tests.support.linked import body_of
from tests.support.sink import ExportTraceServiceRequest, span_ids


def test_span_ids_are_those_of_the_request() -> None:
    """The narrow view finds each id once, and the last one where a span carries two, as protobuf has it."""
    assert span_ids(body_of(7, 7, 2**63).data).tolist() == [7, 7, 2**63]
    span = b"\x12\x08" + (1).to_bytes(8, "big") + b"\x12\x08" + (2).to_bytes(8, "big")
    scope = b"\x12" + bytes([len(span)]) + span
    resource = b"\x12" + bytes([len(scope)]) + scope
    assert span_ids(b"\x0a" + bytes([len(resource)]) + resource).tolist() == [2]


def test_id_of_the_wrong_length_is_noticed() -> None:
    """A span without an id, or with a short one, is a defect of whoever sent it."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(span_id=b"1234")
    with pytest.raises(ValueError, match="8 bytes"):
        span_ids(request.SerializeToString())


def test_process_counts_what_a_stock_client_sends(tmp_path: Path) -> None:
    """As a process it says its ports, follows its script, and at SIGTERM tells spans, distinct ids and copies."""
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "tests.support.sink", "--script", "unavailable,partial:1", "--output", output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            port = json.loads(process.stdout.readline())["grpc_port"]
            request = ExportTraceServiceRequest.FromString(body_of(1, 2).data)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = TraceServiceStub(channel)
                with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                    stub.Export(request)
                assert stub.Export(request).partial_success.rejected_spans == 1
                assert stub.Export(request) == ExportTraceServiceResponse()
        finally:
            process.send_signal(signal.SIGTERM)
        totals = json.loads(process.stdout.readline())
    assert process.returncode == 0
    del totals["cpu_s"], totals["body_bytes"]
    assert totals == {"requests": 3, "refused": 1, "spans": 4, "distinct": 2, "copies": 2}
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    ids = [span["spanId"] for line in lines for span in line["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    assert ids == [f"{n:016x}" for n in np.array([1, 2, 1, 2])]
