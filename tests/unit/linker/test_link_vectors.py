"""The reference's answers hold: tests/support/vectors/reference.jsonl, 60 cases without its defects."""

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.codec.otlp_protobuf import decode_request
from bridge.linker import LinkOptions, link
from bridge.spans import Outcome
from tests.support.espans import request_of, span_of

VECTORS = Path(__file__).parents[2] / "support" / "vectors" / "reference.jsonl"
CASES = [json.loads(line) for line in VECTORS.read_text().splitlines()]


def test_there_are_sixty() -> None:
    """No case was lost on the way."""
    assert len(CASES) == 60


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_reference_vector(case: dict[str, Any]) -> None:
    """The spans, as the codec reads them, get the trace ids, parents and verdicts of the reference."""
    spans = [
        span_of({k: v for k, v in s.items() if k != "span_id"}, span_id=bytes.fromhex(s["span_id"]))
        for s in case["spans"]
    ]
    batch = decode_request(request_of(*spans), peer="10.0.0.1").batch
    options = LinkOptions(use_app_trace_id=case["use_app_trace_id"], sampling_rate=case["sampling_rate"])
    d = link(batch.columns, options).decisions
    got = [
        {
            "trace_id_low64": f"{d.trace_lo[i]:016x}",
            "parent_span_id": f"{d.parent_span_id[i]:016x}" if d.parent_span_id[i] else "",
            "ebpf_trace_id": f"{d.ebpf_trace_hi[i]:016x}{d.ebpf_trace_lo[i]:016x}",
            "ebpf_parent_id": f"{d.ebpf_parent_id[i]:016x}" if d.ebpf_parent_id[i] else "",
            "sampled": bool(d.outcome[i] == Outcome.EXPORT),
        }
        for i in range(len(spans))
    ]
    assert got == case["expected"]
