"""What a backend's answer means, after the OTLP specification: pure functions over status codes and bytes."""

from collections.abc import Iterable

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bridge.exporters.answers import shown
from bridge.exporters.failures import Refused


def retry_delay_s(details: bytes) -> float | None:
    """Seconds of the RetryInfo in a serialized google.rpc.Status; None where it carries none, or cannot be read."""
    try:
        status = Status.FromString(details)
        for detail in status.details:
            info = RetryInfo()
            if detail.Unpack(info):
                return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
    except DecodeError:
        return None
    return None


def check_partial_success(response: bytes, secrets: Iterable[str]) -> str:
    """The warning in an ExportTraceServiceResponse, "" where there is none: every span was taken.

    Raises Refused with the number of rejected spans where some were not. OTLP: such a request is not to be sent again.
    An answer that cannot be read is a success, as its status said.
    """
    if not response:
        return ""
    try:
        partial = ExportTraceServiceResponse.FromString(response).partial_success
    except DecodeError:
        return ""
    message = shown(partial.error_message, secrets)
    if partial.rejected_spans > 0:
        raise Refused(message, reason="partial_success", spans=partial.rejected_spans)
    return message
