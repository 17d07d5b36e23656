"""What each error becomes for a sender."""

import json

import pytest
from google.rpc.code_pb2 import Code
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bridge.errors import InvalidData, PermanentError, RetryableError, StoreUnavailable, Throttled, TooLarge
from bridge.receivers.otlp.status import status_json, success_json, success_protobuf
from bridge.receivers.refusals import refusal_of


@pytest.mark.parametrize(
    ("error", "reason", "code", "http_status", "retry_after_s"),
    [
        (Throttled("x"), "throttled", Code.RESOURCE_EXHAUSTED, 429, 1.0),
        (Throttled("x", retry_after_s=0.0), "throttled", Code.RESOURCE_EXHAUSTED, 429, 0.0),
        (StoreUnavailable("x", retry_after_s=3), "unavailable", Code.UNAVAILABLE, 503, 3),
        (RetryableError("x"), "unavailable", Code.UNAVAILABLE, 503, 1.0),
        (TooLarge("x"), "too_large", Code.RESOURCE_EXHAUSTED, 413, None),
        (InvalidData("x"), "invalid", Code.INVALID_ARGUMENT, 400, None),
        (PermanentError("x"), "invalid", Code.INVALID_ARGUMENT, 400, None),
        (KeyError("x"), "internal", Code.INTERNAL, 500, None),
    ],
)
def test_each_error_says_whether_to_try_again(
    error: Exception, reason: str, code: int, http_status: int, retry_after_s: float | None
) -> None:
    """Retryable errors carry a time to wait, permanent ones none."""
    refusal = refusal_of(error)
    assert (refusal.reason, refusal.code, refusal.http_status) == (reason, code, http_status)
    assert refusal.retry_after_s == retry_after_s
    assert len(refusal.status.details) == (retry_after_s is not None)


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (60.0, "60")])
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, header: str) -> None:
    """Never earlier than asked for, and never 0, which some senders take for "at once"."""
    assert refusal_of(Throttled("x", retry_after_s=seconds)).retry_after_header == header


def test_long_texts_are_cut() -> None:
    """The text travels in a header too."""
    assert len(refusal_of(InvalidData("ä" * 5000)).status.message) == 1000


def test_status_json_is_code_message_details() -> None:
    """Without details the key is absent."""
    assert json.loads(status_json(refusal_of(InvalidData("bad")).status)) == {"code": 3, "message": "bad"}


def test_success_says_nothing_unless_spans_were_rejected() -> None:
    """partial_success is unset on full success; a message alone does not set it."""
    assert (success_protobuf(0, ""), success_json(0, "")) == (b"", b"{}")
    partial = ExportTraceServiceResponse.FromString(success_protobuf(3, "why")).partial_success
    assert (partial.rejected_spans, partial.error_message) == (3, "why")
