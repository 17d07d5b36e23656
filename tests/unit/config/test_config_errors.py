"""Every mistake is told at once, with key, value, what is allowed, and what was probably meant."""

import pytest


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (
            "[linker]\ntik = '1s'",
            ['linker.tik = "1s"', "unknown key", 'did you mean "tick"', "known here: clock_slack,"],
        ),
        ("[receiver.otlp_grpc]", ["receiver: unknown key", 'did you mean "receivers"']),
        ("[linker]\nwindow = '1s'", ["linker.window", '"late_window" here, or "window" in [[inputs.ebpftrace]]']),
        ("sampling_rate = 0.5", ["sampling_rate = 0.5", "[[inputs.ebpftrace]]"]),
        ("[[inputs.ebpftrace]]\nwindow = 20", ["window = 20", "has no unit", 'such as "500ms"', 'did you mean "20s"']),
        ("[[inputs.ebpftrace]]\nwindow = '0s'", ['window = "0s"', "longer than 0"]),
        ("[[inputs.ebpftrace]]\nsampling_rate = nan", ["sampling_rate = nan", "from 0.0 to 1.0"]),
        ("[[inputs.ebpftrace]]\nsampling_rate = 1.01", ["sampling_rate = 1.01", "from 0.0 to 1.0"]),
        ("[[inputs.ebpftrace]]\nsampling_rate = true", ["sampling_rate = true", "from 0.0 to 1.0"]),
        ("[[inputs.ebpftrace]]\nsampling_rate = '0.5'", ['sampling_rate = "0.5"', "did you mean 0.5"]),
        ("[[inputs.ebpftrace]]\nuse_app_trace_id = 'yes'", ['"yes"', "true or false", "did you mean true"]),
        ("[[inputs.ebpftrace]]\ndb_path = ''", ['db_path = ""', "a path"]),
        ("[[inputs.ebpftrace]]\n[[inputs.ebpftrace]]", ["inputs.ebpftrace = 2 tables", "one table"]),
        ("[inputs.ebpftrace]", ["inputs.ebpftrace = a table", "written [[inputs.ebpftrace]]"]),
        ("[web]\nport = '4319'", ['web.port = "4319"', "from 1 to 65535", "did you mean 4319"]),
        ("[web]\nport = 65536", ["web.port = 65536", "from 1 to 65535"]),
        ("[web]\nhost = '0.0.0.0:4319'", ['web.host = "0.0.0.0:4319"', "without port", 'did you mean "0.0.0.0"']),
        ("web = 5", ["web = 5", "must be a table, written [web]"]),
        ("[linker]\nsampling_flags = 'honor'", ['"honour" or "ignore"', 'did you mean "honour"']),
        ("[linker]\nmax_trace_spans = 0", ["max_trace_spans = 0", "at least 1"]),
        ("[store]\nqueue_bytes = '5 parsec'", ['queue_bytes = "5 parsec"', "64MiB"]),
        ("[receivers.otlp_grpc]\nmax_request_bytes = '2GiB'", ["less than 2GiB"]),
        ("[telemetry]\nlog_level = 'WARN'", ['"debug", "info", "warning" or "error"', 'did you mean "warning"']),
        ("[exporters.a]\ntype = 'otlp'", ['exporters.a.type = "otlp"', '"console"', 'did you mean "otlp_grpc"']),
        ("[exporters.a]\nendpoint = 'http://h:1'", ["exporters.a.type: missing", '"otlp_grpc", "otlp_http"']),
        ("[exporters.a]\ntype = 'otlp_grpc'", ["exporters.a.endpoint: missing", "http://HOST:PORT"]),
        ("[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'http://h'", ["the port is missing"]),
        ("[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'http://h:1/v1/traces'", ["no paths", 'type = "otlp_http"']),
        ("[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'grpc://h:1'", ['the scheme "grpc" is not known']),
        ("[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'http://h:99999'", ["the port is no number up to 65535"]),
        ("[exporters.a]\ntype = 'otlp_http'\nendpoint = 'h:4318'", ["the scheme is missing", "http://HOST:PORT"]),
        ("[exporters.a]\ntype = 'otlp_http'", ["exporters.a: endpoint is missing", "traces_endpoint"]),
        (
            "[exporters.a]\ntype = 'file'\npath = 'x'\nheaders = {}",
            ["headers", 'belongs to type = "otlp_grpc" or "otlp_http"'],
        ),
        ("[exporters.'a b']\ntype = 'console'", ['exporters."a b"', "letters, digits, dashes"]),
        ("exporters.type = 'otlp_grpc'", ["exporters.type", "such as [exporters.backend]"]),
    ],
)
def test_a_mistake_is_told_with_its_remedy(errors, text, want) -> None:
    """Path, value, what is allowed, nearest known key."""
    found = errors(text)
    assert len(found) == 1
    assert all(part in found[0] for part in want), found[0]


def test_all_mistakes_are_told_at_once_in_order(errors) -> None:
    """Bad values, unknown keys, bad variables and bad combinations, sorted by place, each once."""
    found = errors(
        "[web]\nport = 4317\nprot = 1\n[linker]\ntick = 5\nmax_trace_age = '1s'",
        {"ENV_INPUT_EBPFTRACE_SAMPLING_RATE": "2"},
    )
    places = [line.split(" ")[0].rstrip(":") for line in found]
    assert places == sorted(places)
    assert places == [
        "ENV_INPUT_EBPFTRACE_SAMPLING_RATE",
        "linker.max_trace_age",
        "linker.tick",
        "web.port",
        "web.prot",
    ]


def test_a_wrong_value_is_told_once_only(errors) -> None:
    """What a combination says about a value that is wrong by itself is not told beside it."""
    found = errors("[web]\nport = 'x'\n[receivers.otlp_http]\nport = 4319")
    assert [line.split(" ")[0] for line in found] == ["web.port"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a = 1\nwindow = 20s\n", "window: text stands in quotes"),
        ("a = 1\nwindow = '20s\n", "closing quote is missing"),
        ('a = 1\nwindow = "20s\nb = 2', "closing quote is missing"),
        ("[web\nport = 1\n", "line 1"),
    ],
)
def test_what_is_no_toml_is_told_with_line_and_hint(loaded, text, hint) -> None:
    """The line, and what it most likely lacks."""
    from bridge.errors import ConfigError

    with pytest.raises(ConfigError, match=r"bridge\.toml is no TOML: .*(line \d|end of document)") as caught:
        loaded(text, bare=True)
    assert hint in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path) -> None:
    """Missing files, folders, and bytes that are no text."""
    from bridge.config import load
    from bridge.errors import ConfigError

    (tmp_path / "binary").write_bytes(b"a = '\xff'")
    for name, why in (("missing.toml", "No such file"), (".", "directory"), ("binary", "byte 5 is not UTF-8")):
        with pytest.raises(ConfigError, match=why):
            load(tmp_path / name, {})


SECRET = "s3cr3t-t0ken"  # noqa: S105 -- what must not be shown


@pytest.mark.parametrize(
    "text",
    [
        f"[exporters.a]\ntype='otlp_grpc'\nendpoint='http://u:{SECRET}@h:1/x?t={SECRET}'",
        f"[exporters.a]\ntype='otlp_http'\nendpoint='u:{SECRET}@h/?t={SECRET}'",
        f"[exporters.a]\ntype='otlp_http'\nendpoint='http://h:{SECRET}'".replace("h:", "u:p@h:x?"),
        f"[exporters.a]\ntype='otlp_grpc'\nendpoint='http://h:1'\nheaders='authorization={SECRET}'",
        f"[exporters.a]\ntype='otlp_grpc'\nendpoint='http://h:1'\nheaders={{a='{SECRET}\\u0007'}}".replace("'", '"'),
        f"[exporters.a]\ntype='otlp_grpc'\nendpoint='http://h:1'\nheaders={{a=['{SECRET}']}}",
        f"[exporters.a]\ntype='otlp_grpc'\nendpoint='http://h:1'\nheders='{SECRET}'",
        f"[exporters.a]\ntype='otlp_grpc'\nendpoint='http://h:1'\napi_key='{SECRET}'",
        f"[exporters.a]\ntype='file'\npath='x'\nendpoint='http://h:1?{SECRET}'",
        f"exporters.endpoint='http://{SECRET}@h:1'",
        f"headers='{SECRET}'",
        f"[exporters.a]\nheaders={{authorization={SECRET}}}",
    ],
)
def test_no_error_shows_a_secret(loaded, text) -> None:
    """Header values, users, passwords and queries of URLs, and whatever an unknown key holds, stay out of errors."""
    from bridge.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        loaded(text)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__cause__)


@pytest.mark.parametrize("name", ["ENV_HTTP_LISTEN", "ENV_INPUT_EBPFTRACE_WINDOW", "OTEL_EXPORTER_OTLP_HEADERS"])
def test_a_variable_that_is_no_utf8_is_named(errors, name) -> None:
    """And not what it holds, which may be a secret."""
    assert errors("", {name: "h\udcff:1"}) == [f"{name}: must be UTF-8"]
