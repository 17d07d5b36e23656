"""A bridge behind this one, which is sent points as OTLP spans, links them as this one does."""

import numpy as np
import pytest

from bridge.codec.otlp_encode import encode_requests
from bridge.codec.otlp_protobuf import decode_request
from bridge.codec.points.decode import decode_points
from bridge.codec.points.point_pb2 import PBPoints
from bridge.spans import SpanColumns
from tests.support.linked_points import agent_point, linked_points

OWN = {"trace_hi", "trace_lo", "span_id", "sent_span_id", "parent_id", "digest"}
"""Ids are those that this bridge decided; the bytes are others."""


@pytest.mark.parametrize("column", sorted(SpanColumns.dtypes().keys() - OWN))
def test_both_shapes_have_the_same_columns(column: str) -> None:
    """What linking reads of a point is what it reads of the span that the point becomes."""
    points = [
        agent_point(),
        agent_point(ebpf_span_type="exit", direction="outgoing", host="node-1", tid_usr=2**63 + 1, service=None),
        agent_point(app_trace_id="1234567", app_parent_id="99", app_trace_id_h=0, app_trace_id_l=1234567),
        agent_point(req_seq=None, pid="worker", src_ip="2001:db8::1", start="1767225600000000", ktime="5"),
    ]
    body = PBPoints(arr=points).SerializeToString()
    sent = decode_points(body, "application/protobuf", peer="192.0.2.1").batch.columns
    requests = encode_requests(linked_points(*points), max_spans=1, max_bytes=1 << 62)
    received = [decode_request(request, peer="192.0.2.1").batch.columns for request, _ in requests]
    wanted = getattr(sent, column)
    found = np.concatenate([getattr(columns, column) for columns in received])
    if column == "app_parent":
        wanted = np.array([0, 0, 99, 0])  # app_parent_id_l is taken off, app_parent_id stays
    assert found.tolist() == wanted.tolist()
