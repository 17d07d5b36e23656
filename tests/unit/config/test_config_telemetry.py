"""[telemetry.otlp] and [telemetry.traces]: what is refused, and what the environment adds."""

import pytest

from bridge.config.listing import listing

OTLP = '[telemetry.otlp]\nendpoint = "{}"\n'
SENT_ELSEWHERE = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4317",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x",
    "OTEL_METRICS_EXPORTER": "otlp",
}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            OTLP.format("http://localhost:4317"),
            "this is the bridge itself, which listens there (receivers.otlp_grpc.port",
        ),
        (OTLP.format("http://127.0.0.1:4318") + 'protocol = "http"', "this is the bridge itself"),
        (OTLP.format("http://localhost:4319") + 'protocol = "http"', "this is the bridge itself"),
        (OTLP.format("localhost:4317") + "[telemetry.otlp.tls]\ninsecure = true", "this is the bridge itself"),
        (OTLP.format("http://h"), 'endpoint cannot be used with protocol = "grpc": the port is missing'),
        (OTLP.format("h:4317") + 'protocol = "http"', 'cannot be used with protocol = "http": the scheme is missing'),
        (OTLP.format("http://h:1/path"), "gRPC knows no paths"),
        (OTLP.format("http://h:1") + 'protocol = "udp"', 'telemetry.otlp.protocol = "udp": allowed: "grpc" or "http"'),
        (OTLP.format("http://h:1") + "[telemetry.otlp.tls]\nca_file = '/nowhere'", "no TLS with this endpoint"),
        (OTLP.format("https://h:1") + "[telemetry.otlp.tls]\nca_file = '/nowhere'", "there is no such file"),
        (OTLP.format("https://h:1") + "[telemetry.otlp.tls]\ninsecure = true", "write http:// for no TLS"),
        (
            "[telemetry.traces]\nsampling_rate = 0.1",
            "there is no telemetry.otlp.endpoint to send the bridge's own traces",
        ),
        (
            "[telemetry.traces]\nsampling_rate = 2",
            "telemetry.traces.sampling_rate = 2: allowed: a number from 0.0 to 1.0",
        ),
    ],
)
def test_what_cannot_be_used_is_an_error(errors, text: str, says: str) -> None:
    """With the key and the remedy, and one error alone."""
    (found,) = errors(text)
    assert says in found


def test_no_variable_makes_an_endpoint(loaded) -> None:
    """They say where senders' traces go, and fill nothing here."""
    otlp = loaded("", SENT_ELSEWHERE).settings.telemetry.otlp
    assert otlp.endpoint is None
    assert otlp.headers == {}


def test_variables_fill_nothing_but_names(loaded) -> None:
    """Not even where there is an endpoint."""
    environ = {**SENT_ELSEWHERE, "OTEL_SERVICE_NAME": "b", "OTEL_RESOURCE_ATTRIBUTES": "service.name=c,team=a%20b"}
    found = loaded(OTLP.format("http://h:1") + 'resource = {zone = "1"}', environ)
    otlp = found.settings.telemetry.otlp
    assert otlp.url == "http://h:1"
    assert otlp.headers == {}
    assert otlp.resource == {"zone": "1", "service.name": "b", "team": "a b"}
    assert found.origins['telemetry.otlp.resource."service.name"'] == "OTEL_SERVICE_NAME"


def test_names_from_the_environment_need_an_endpoint(loaded) -> None:
    """Without one nobody is named; what cannot be read hurts nobody then."""
    found = loaded("", {"OTEL_RESOURCE_ATTRIBUTES": "no pair"})
    assert found.settings.telemetry.otlp.resource == {}


def test_unreadable_resource_attributes_are_an_error_where_they_count(errors) -> None:
    """With the form that is wanted."""
    (found,) = errors(OTLP.format("http://h:1"), {"OTEL_RESOURCE_ATTRIBUTES": "no pair"})
    assert found.startswith("OTEL_RESOURCE_ATTRIBUTES (telemetry.otlp.resource): allowed: KEY=VALUE")


def test_headers_and_the_query_of_the_endpoint_are_not_shown(loaded) -> None:
    """In the listing and in reprs."""
    text = OTLP.format("https://u:s3cr3t@h:1/x?k=s3cr3t") + 'protocol = "http"\nheaders = {authorization = "s3cr3t"}'
    found = loaded(text)
    assert "s3cr3t" not in listing(found) + repr(found.settings)
    assert found.settings.telemetry.otlp.url.count("s3cr3t") == 2
