"""What answers of a backend mean."""

from datetime import UTC, datetime

import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from bridge.errors import ConfigError
from bridge.exporters import Refused
from bridge.exporters.answers import MAX_TEXT, retry_after_s, secrets_of, shown
from bridge.exporters.connection import checked_headers
from bridge.exporters.otlp.answers import check_partial_success, retry_delay_s
from bridge.exporters.otlp.grpc import grpc_target
from bridge.exporters.otlp.http import traces_url

NOW = datetime(2025, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Mon, 24 Nov 2025 12:00:30 GMT", 30.0),
        ("Mon, 24 Nov 2025 11:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("Mon, 24 Nov 2025 12:00:30", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    """Retry-After holds seconds or an HTTP date; a date that has passed means now, anything else nothing."""
    assert retry_after_s(value, NOW) == seconds


def test_retry_info_is_found_among_other_details() -> None:
    """The delay is that of the RetryInfo, wherever it stands in the status."""
    info = RetryInfo()
    info.retry_delay.FromNanoseconds(1_500_000_000)
    status = Status(code=8)
    for detail in (BadRequest(), info):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    assert retry_delay_s(status.SerializeToString()) == 1.5


@pytest.mark.parametrize("details", [b"", b"\xff\xff", Status(code=8, message="full").SerializeToString()])
def test_no_retry_info_is_no_delay(details: bytes) -> None:
    """A status without RetryInfo, or one that cannot be read, names no time."""
    assert retry_delay_s(details) is None


def test_partial_success_is_refused_in_part() -> None:
    """Rejected spans are refused for good, with their number and the backend's text."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 3
    response.partial_success.error_message = "no room"
    with pytest.raises(Refused, match="no room") as caught:
        check_partial_success(response.SerializeToString(), ())
    assert (caught.value.reason, caught.value.spans) == ("partial_success", 3)


@pytest.mark.parametrize("response", [b"", b"\xff", b"\x0a\x00", b"\x0a\x04\x12\x02hi"])
def test_success_that_rejects_nothing_is_success(response: bytes) -> None:
    """An empty answer, an unreadable one, and a partial success that is only a warning, all took every span."""
    check_partial_success(response, ())


def test_texts_are_bounded_and_masked() -> None:
    """What is shown of a backend's text is one line, bounded, and without the secrets we sent it."""
    secrets = secrets_of(["Bearer abcdefgh", "x"])
    text = shown("bad token\nabcdefgh (Bearer abcdefgh)\x1b[31m" + "x" * 10_000, secrets)
    assert "abcdefgh" not in text
    assert len(text) == MAX_TEXT
    assert text.isprintable()


@pytest.mark.parametrize(
    ("endpoint", "insecure", "target", "secure"),
    [
        ("http://tempo:4317", False, "tempo:4317", False),
        ("https://tempo:4317", True, "tempo:4317", True),
        ("https://tempo:4317/", False, "tempo:4317", True),
        ("tempo:4317", True, "tempo:4317", False),
        ("tempo:4317", False, "tempo:4317", True),
        ("http://[::1]:4317", False, "[::1]:4317", False),
    ],
)
def test_scheme_decides_on_tls(endpoint: str, insecure: bool, target: str, secure: bool) -> None:
    """http and https say it; without a scheme `insecure` does, as in OTEL_EXPORTER_OTLP_INSECURE."""
    assert grpc_target(endpoint, insecure=insecure) == (target, secure)


@pytest.mark.parametrize("endpoint", ["", "tempo", "ftp://tempo:1", "http://tempo", "a b:1", "tempo:x"])
def test_what_is_no_endpoint_is_a_config_error(endpoint: str) -> None:
    """gRPC needs a host and a port."""
    with pytest.raises(ConfigError, match="endpoint"):
        grpc_target(endpoint, insecure=False)


@pytest.mark.parametrize(
    ("endpoint", "base", "url"),
    [
        ("http://tempo:4318", True, "http://tempo:4318/v1/traces"),
        ("http://tempo:4318/", True, "http://tempo:4318/v1/traces"),
        ("https://tempo/otlp/", True, "https://tempo/otlp/v1/traces"),
        ("https://tempo/mine", False, "https://tempo/mine"),
    ],
)
def test_base_endpoint_gets_the_path_of_traces(endpoint: str, base: bool, url: str) -> None:
    """v1/traces is appended to a backend's base URL; an endpoint of traces is used as it is."""
    assert traces_url(endpoint, base=base)[0] == url


def test_shown_url_has_no_secrets() -> None:
    """User, password and query of an endpoint are not shown."""
    assert traces_url("https://me:pw@tempo/x?token=t", base=False)[1] == "https://tempo/x"


@pytest.mark.parametrize("header", [{"a b": "x"}, {"a": "tokentoken\n"}, {"": "x"}])
def test_headers_are_checked_without_showing_them(header: dict[str, str]) -> None:
    """A header that HTTP does not allow is a config error that names the key and not the value."""
    with pytest.raises(ConfigError) as caught:
        checked_headers("tempo", header)
    assert "tokentoken" not in str(caught.value)
