"""Where each value comes from: defaults, the file, the environment; and what combinations are refused."""

import socket
from pathlib import Path

import pytest

from bridge.config import OtlpGrpcExporterSettings, OtlpHttpExporterSettings

S = 10**9
TLS = Path(__file__).resolve().parents[2] / "support" / "tls"
GRPC = "[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'http://h:1'\n"


def test_an_empty_file_with_an_exporter_gives_the_documented_defaults(loaded) -> None:
    """The figures of the reference and of OTLP."""
    s = loaded().settings
    assert (s.window_ns, s.late_window_ns, s.linker.max_trace_age_ns) == (20 * S, 60 * S, 600 * S)
    assert (s.ebpftrace.sampling_rate, s.ebpftrace.use_app_trace_id, s.ebpftrace.db_path) == (0.1, True, Path("data"))
    assert (s.receivers.otlp_grpc.port, s.receivers.otlp_http.port, s.web.port) == (4317, 4318, 4319)
    assert {s.receivers.otlp_grpc.host, s.receivers.otlp_http.host, s.web.host} == {"localhost"}
    assert s.receivers.otlp_grpc.max_request_bytes == 64 << 20
    assert (s.linker.clock_slack_ns, s.linker.max_trace_spans, s.linker.tick_s) == (50_000_000, 20_000, 0.5)
    retry = s.exporters["backend"].retry
    assert (retry.initial_s, retry.multiplier, retry.max_s) == (0.5, 1.5, 2.0)
    assert (s.shutdown_grace_s, s.store.flush_on_stop) == (10.0, False)


def test_the_longest_wait_is_no_shorter_than_the_first(loaded) -> None:
    """Where only the first is set, as DataKit's retry_delay does it, the longest follows."""
    retry = loaded(GRPC + "retry = {initial = '5s'}").settings.exporters["a"].retry
    assert (retry.initial_s, retry.max_s) == (5.0, 5.0)


def test_settings_cannot_be_changed(loaded) -> None:
    """Frozen, every table of them."""
    settings = loaded().settings
    with pytest.raises(ValueError, match="frozen"):
        settings.web.port = 1


def test_datakits_variables_override_the_file_and_are_named(loaded) -> None:
    """ENV_INPUT_EBPFTRACE_* comes before the file, which comes before the default."""
    text = "[[inputs.ebpftrace]]\nwindow = '5s'\ndb_path = 'here'\n"
    found = loaded(text, {"ENV_INPUT_EBPFTRACE_WINDOW": "1m30s", "ENV_INPUT_EBPFTRACE_SAMPLING_RATE": "1"})
    ebpftrace = found.settings.ebpftrace
    assert (ebpftrace.window_ns, ebpftrace.db_path, ebpftrace.sampling_rate) == (90 * S, Path("here"), 1.0)
    assert found.origins["inputs.ebpftrace.window"] == "ENV_INPUT_EBPFTRACE_WINDOW"
    assert found.origins["inputs.ebpftrace.db_path"] == "file"
    assert "inputs.ebpftrace.use_app_trace_id" not in found.origins


@pytest.mark.parametrize(("text", "value"), [("", False), ("0", False), ("FALSE", False), ("t", True), ("True", True)])
def test_use_app_trace_id_takes_the_references_spellings(loaded, text, value) -> None:
    """Empty is false, as with the reference."""
    found = loaded("", {"ENV_INPUT_EBPFTRACE_USE_APP_TRACE_ID": text})
    assert found.settings.ebpftrace.use_app_trace_id is value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("USE_APP_TRACE_ID", "yes"),
        ("WINDOW", "20"),
        ("WINDOW", "-1s"),
        ("SAMPLING_RATE", "nan"),
        ("SAMPLING_RATE", "1_0"),
    ],
)
def test_a_bad_variable_is_an_error_that_names_it(errors, key, value) -> None:
    """Unlike the reference, which falls back to something."""
    (line,) = errors("", {f"ENV_INPUT_EBPFTRACE_{key}": value})
    assert line.startswith(f"ENV_INPUT_EBPFTRACE_{key} (inputs.ebpftrace.{key.lower()}) = ")
    assert "allowed: " in line


def test_other_empty_variables_are_unset(loaded) -> None:
    """A manifest may leave a value empty."""
    empty = {
        "ENV_INPUT_EBPFTRACE_WINDOW": "",
        "ENV_INPUT_EBPFTRACE_SAMPLING_RATE": " ",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "",
    }
    assert loaded("", empty).origins == loaded().origins


def test_a_mistyped_variable_is_an_error(errors) -> None:
    """The nearest known one is named."""
    (line,) = errors("", {"ENV_INPUT_EBPFTRACE_SAMPLINGRATE": "1"})
    assert "did you mean ENV_INPUT_EBPFTRACE_SAMPLING_RATE?" in line


def test_sqlite_path_is_accepted_with_a_warning(loaded) -> None:
    """A file of the reference goes on working."""
    found = loaded("[[inputs.ebpftrace]]\nsqlite_path = '/x'\n")
    assert found.settings.ebpftrace.db_path == Path("data")
    assert len(found.warnings) == 1
    assert "inputs.ebpftrace.sqlite_path is deprecated and ignored" in found.warnings[0]


@pytest.mark.parametrize(("query", "warned"), [("", True), ("?token=", True), ("?tkn=a", True), ("?token=t1", False)])
def test_a_dataway_without_a_token_is_odd(loaded, query: str, warned: bool) -> None:
    """It refuses everything, and only then one would see it."""
    found = loaded(f"[exporters.guance]\ntype = 'dataway'\nurl = 'https://dataway.example{query}'\n")
    assert [w for w in found.warnings if "no token" in w] == (
        ["exporters.guance.url has no token: a Dataway takes https://HOST?token=TOKEN"] if warned else []
    )


def test_no_exporter_is_an_error_that_says_how_to_add_one(errors) -> None:
    """Also when the file has an empty table."""
    for text in ("", "[exporters]"):
        found = " ".join(errors(text, bare=True))
        assert "exporters: none is configured" in found
        assert "[exporters.backend]" in found
        assert "OTEL_EXPORTER_OTLP_ENDPOINT or ENV_DATAWAY" in found


@pytest.mark.parametrize(
    ("environ", "kind", "url"),
    [
        ({"ENDPOINT": "http://c:14317"}, OtlpGrpcExporterSettings, "http://c:14317"),
        ({"ENDPOINT": "http://c:4318"}, OtlpHttpExporterSettings, "http://c:4318"),
        ({"TRACES_ENDPOINT": "https://c/otlp/v1/traces"}, OtlpHttpExporterSettings, "https://c/otlp/v1/traces"),
        ({"ENDPOINT": "http://c:4318", "PROTOCOL": "grpc"}, OtlpGrpcExporterSettings, "http://c:4318"),
        ({"ENDPOINT": "http://c:1", "PROTOCOL": "http/protobuf"}, OtlpHttpExporterSettings, "http://c:1"),
        (
            {
                "ENDPOINT": "http://a:1",
                "TRACES_ENDPOINT": "http://b:2",
                "PROTOCOL": "http/protobuf",
                "TRACES_PROTOCOL": "grpc",
            },
            OtlpGrpcExporterSettings,
            "http://b:2",
        ),
    ],
)
def test_without_exporters_opentelemetrys_endpoint_makes_one(loaded, environ, kind, url) -> None:
    """Traces' own variables come first; the protocol is the one named, else what the endpoint looks like."""
    found = loaded("", {f"OTEL_EXPORTER_OTLP_{key}": value for key, value in environ.items()}, bare=True)
    exporter = found.settings.exporters["otlp"]
    assert isinstance(exporter, kind)
    assert exporter.url == url


def test_only_the_general_endpoint_gets_a_path_appended(loaded) -> None:
    """As OpenTelemetry specifies it."""
    for name, base in (("ENDPOINT", True), ("TRACES_ENDPOINT", False)):
        environ = {f"OTEL_EXPORTER_OTLP_{name}": "http://c:4318/x"}
        assert loaded("", environ, bare=True).settings.exporters["otlp"].base is base


def test_opentelemetrys_variables_fill_what_the_file_leaves_out(loaded) -> None:
    """Every one of them; what the file says stays."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://other:1",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x, tenant = a",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2500",
    }
    found = loaded(GRPC + "compression = 'none'\n[exporters.b]\ntype = 'otlp_http'\n", environ, bare=True)
    a, b = found.settings.exporters["a"], found.settings.exporters["b"]
    assert (a.url, a.compression, a.timeout_s) == ("http://h:1", "none", 2.5)
    assert (b.url, b.compression, b.timeout_s) == ("http://other:1", "gzip", 2.5)
    assert {k: v.get_secret_value() for k, v in a.headers.items()} == {"authorization": "Bearer x", "tenant": "a"}
    assert found.origins["exporters.a.timeout"] == "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"
    assert found.origins["exporters.a.endpoint"] == "file"
    assert found.origins["exporters.b.endpoint"] == "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_tls_variables_count_where_tls_is_used(loaded, tmp_path) -> None:
    """Certificates for https://, INSECURE for endpoints without a scheme; a scheme decides by itself."""
    for name, file in (("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key")):
        (tmp_path / name).write_bytes((TLS / file).read_bytes())
    environ = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": f"{tmp_path}/ca",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": f"{tmp_path}/cert",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": f"{tmp_path}/key",
    }
    https = loaded(GRPC.replace("http:", "https:"), environ, bare=True).settings.exporters["a"]
    assert [p.name for p in https.tls.files.values()] == ["ca", "cert", "key"]
    assert not loaded(GRPC, environ, bare=True).settings.exporters["a"].tls.files
    insecure = {**environ, "OTEL_EXPORTER_OTLP_INSECURE": "true"}
    bare = loaded(GRPC.replace("http://", ""), insecure, bare=True).settings.exporters["a"]
    assert (bare.tls.insecure, bare.uses_tls, bare.tls.files) == (True, False, {})
    assert not loaded(GRPC.replace("http:", "https:"), insecure, bare=True).settings.exporters["a"].tls.insecure


@pytest.mark.parametrize(
    ("key", "value", "want"),
    [
        ("PROTOCOL", "http/json", "protobuf only"),
        ("PROTOCOL", "thrift", '"grpc" or "http/protobuf"'),
        ("TIMEOUT", "10s", "whole number of milliseconds"),
        ("TIMEOUT", "0", "whole number of milliseconds"),
        ("COMPRESSION", "snappy", '"none" or "gzip"'),
        ("HEADERS", "authorization: s3cr3t", "KEY=VALUE"),
        ("ENDPOINT", "grpc://c:1", '"grpc" is not known'),
        ("CERTIFICATE", "/no/such/file", "no such file"),
    ],
)
def test_bad_opentelemetry_variables_are_errors_that_name_them(errors, key, value, want) -> None:
    """With what is allowed, and without header values."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:1", f"OTEL_EXPORTER_OTLP_{key}": value}
    (line,) = errors("", environ, bare=True)
    assert line.startswith(f"OTEL_EXPORTER_OTLP_{key} (exporters.otlp.")
    assert want in line
    assert "s3cr3t" not in line


def test_a_timeout_that_looks_like_seconds_is_warned_of(loaded) -> None:
    """The specification says milliseconds, some SDKs read seconds."""
    found = loaded("", {"OTEL_EXPORTER_OTLP_TIMEOUT": "10"})
    assert len(found.warnings) == 1
    assert "means 10 milliseconds" in found.warnings[0]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "127.1.2.3",
        "[::1]",
        "0.0.0.0",  # noqa: S104
        "[::]",
        "[::ffff:127.0.0.1]",
        "LOCALHOST",
        socket.gethostname(),
    ],
)
def test_an_endpoint_that_is_our_own_listener_is_an_error(errors, host) -> None:
    """Traces would come back for ever; both are named, whatever name the machine goes by."""
    for port, listener in ((4317, "receivers.otlp_grpc"), (4318, "receivers.otlp_http"), (4319, "web")):
        (line,) = errors(f"[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'http://{host}:{port}'", bare=True)
        assert line.startswith("exporters.a.endpoint = ")
        assert f"{listener}.port = {port} on localhost" in line


def test_what_only_looks_like_our_own_listener_is_taken(loaded) -> None:
    """Other hosts, disabled listeners, other addresses of this machine, any free port."""
    own = "[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'http://localhost:4317'\n"
    loaded(own.replace("localhost", "backend"), bare=True)
    loaded(own + "[receivers.otlp_grpc]\nenabled = false", bare=True)
    loaded(own + "[receivers.otlp_grpc]\nhost = '10.1.2.3'", bare=True)
    loaded(own + "[receivers.otlp_grpc]\nport = 0\n[receivers.otlp_http]\nport = 0\n[web]\nport = 0", bare=True)


def test_an_own_listener_named_by_a_variable_is_told_with_it(errors) -> None:
    """The one who reads it looks into the environment, not into a file."""
    (line,) = errors("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}, bare=True)
    assert line.startswith("OTEL_EXPORTER_OTLP_ENDPOINT (exporters.otlp.endpoint)")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[web]\nport = 4317", "web.port = 4317: receivers.otlp_grpc.port = 4317 on localhost has this port already"),
        ("[web]\nhost = '0.0.0.0'\nport = 4318", "web.port = 4318: receivers.otlp_http.port"),
        (
            "[receivers.otlp_grpc]\nenabled = false\n[receivers.otlp_http]\nenabled = false",
            "receivers: none is enabled",
        ),
        (
            "[linker]\nmax_trace_age = '19s'",
            'linker.max_trace_age = "19s": is shorter than inputs.ebpftrace.window = "20s"',
        ),
        (GRPC + "retry = {initial = '60s', max = '30s'}", "exporters.a.retry: initial is longer than max"),
        (GRPC + "tls = {cert_file = 'x'}", "exporters.a.tls: cert_file is set without key_file"),
        (GRPC + "tls = {ca_file = 'x'}", 'exporters.a.tls.ca_file = "x": no TLS with this endpoint'),
        (
            GRPC.replace("http:", "https:") + "tls = {ca_file = '/no/file'}",
            'exporters.a.tls.ca_file = "/no/file": there is no',
        ),
        (
            GRPC.replace("http:", "https:") + "tls = {insecure = true}",
            "exporters.a.tls.insecure = true: insecure means no TLS",
        ),
        (
            "[exporters.f]\ntype = 'file'\npath = 'x'\n[exporters.g]\ntype = 'file'\npath = './x'",
            "exporters.f writes this file already",
        ),
        (
            "[exporters.a]\ntype = 'otlp_http'\nendpoint = 'http://h'\ntraces_endpoint = 'http://h'",
            "exporters.a: both are set",
        ),
    ],
)
def test_bad_combinations_are_errors(errors, text, want) -> None:
    """What only fails, loops or is ignored once the bridge runs."""
    (line,) = errors(text)
    assert want in line


def test_two_listeners_may_share_a_port_on_different_addresses(loaded) -> None:
    """Nothing clashes there."""
    loaded("[web]\nhost = '10.1.2.3'\nport = 4317")


def test_no_repr_shows_a_secret(loaded) -> None:
    """Header values, users, passwords and queries are only had by asking for them."""
    text = (
        "[exporters.a]\ntype = 'otlp_http'\nendpoint = 'https://user:s3cr3t@h/p?token=s3cr3t'\nheaders = {a = 's3cr3t'}"
    )
    settings = loaded(text).settings
    assert "s3cr3t" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.exporters["a"].url == "https://user:s3cr3t@h/p?token=s3cr3t"
