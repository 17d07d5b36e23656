"""What a backend's answer means, after the OTLP specification: pure functions over status codes and bytes."""

from collections.abc import Iterable
from datetime import datetime
from email.utils import parsedate_to_datetime

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bridge.exporters.failures import Refused

MAX_TEXT = 300
SECRET_CHARS = 6
"""Header values shorter than this are no secrets; masking them would only garble texts."""


def shown(text: str, secrets: Iterable[str] = ()) -> str:
    """A backend's text as it may be logged: one line, bounded, with our own secrets masked where it echoes them."""
    for secret in secrets:
        text = text.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_TEXT]).split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def secrets_of(values: Iterable[str]) -> tuple[str, ...]:
    """What must not be shown of header values: each whole, and what follows its scheme; the longest first."""
    found = set(values) | {part for value in values for part in value.split()[1:]}
    return tuple(sorted((s for s in found if len(s) >= SECRET_CHARS), key=len, reverse=True))


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


def retry_after_s(value: str, now: datetime) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date; None where it is neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):
        # a date without a zone is no HTTP date, and cannot be subtracted
        return None


def check_partial_success(response: bytes, secrets: Iterable[str]) -> None:
    """Raise Refused with the number of rejected spans where an ExportTraceServiceResponse says so.

    OTLP: such a request is not to be sent again. An answer that cannot be read is a success, as its status said.
    """
    if not response:
        return
    try:
        partial = ExportTraceServiceResponse.FromString(response).partial_success
    except DecodeError:
        return
    if partial.rejected_spans > 0:
        raise Refused(shown(partial.error_message, secrets), reason="partial_success", spans=partial.rejected_spans)
