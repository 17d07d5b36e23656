"""What OTLP senders are answered: partial success, and the JSON form of google.rpc.Status."""

import json

from google.protobuf.json_format import MessageToJson
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse


def status_json(status: Status) -> bytes:
    """google.rpc.Status in protobuf's JSON form: code, message, details."""
    return MessageToJson(status, indent=None).encode()


def success_protobuf(rejected: int, message: str) -> bytes:
    """A serialized ExportTraceServiceResponse; partial_success is set only where spans were rejected."""
    if not rejected:
        return b""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return response.SerializeToString()


def success_json(rejected: int, message: str) -> bytes:
    """The same as OTLP/JSON, where an int64 is a decimal string."""
    if not rejected:
        return b"{}"
    return json.dumps({"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": message}}).encode()
