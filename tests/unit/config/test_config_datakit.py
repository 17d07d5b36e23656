"""DataKit's own files and the environment of its manifests."""

import socket
from pathlib import Path

import pytest

from bridge.config import DatawayExporterSettings, Loaded, load
from bridge.config.listing import listing
from bridge.errors import ConfigError

TOKEN = "tkn_0123456789abcdef0123456789abcdef"  # noqa: S105 -- that it is never shown is what is tested
URL = f"https://openway.guance.com?token={TOKEN}"
OTHER = f"http://10.0.0.9:9528?token={TOKEN}"
EBPFTRACE = """
[[inputs.ebpftrace]]
  db_path = "./ebpf_spandb"
  use_app_trace_id = true
  window = "30s"
  sampling_rate = 0.5
"""
DATAKIT = f"""
default_enabled_inputs = ["cpu", "disk"]
protect_mode = true
[dataway]
  urls = ["{URL}", "{OTHER}"]
  timeout_v2 = "15s"
  max_retry_count = 1
  retry_delay = "2s"
  max_raw_body_size = 2097152
  content_encoding = "v1"
  gzip = false
  http_proxy = "http://user:s3cr3t@proxy:3128"
  insecure_skip_verify = true
  enable_sinker = true
  [dataway.wal]
    max_capacity_gb = 2.0
[http_api]
  listen = "0.0.0.0:9530"
  disable_404page = false
[global_host_tags]
  host = "__datakit_hostname"
  project = "shop"
[global_election_tags]
[logging]
  log = "/var/log/datakit/log"
[[inputs.cpu]]
  interval = "10s"
"""
MANIFEST = {
    "ENV_DATAWAY": URL,
    "ENV_HTTP_LISTEN": "0.0.0.0:9529",
    "ENV_GLOBAL_HOST_TAGS": "host=__datakit_hostname,host_ip=__datakit_ip",
    "ENV_CLUSTER_NAME_K8S": "blue",
    "ENV_K8S_NODE_NAME": "node-7",
    "ENV_K8S_NODE_IP": "10.1.2.3",
    "HOST_IP": "10.1.2.3",
    "POD_NAME": "datakit-elinker-0",
    "ENV_DEFAULT_ENABLED_INPUTS": "ebpftrace",
    "ENV_ENABLE_PPROF": "true",
    "ENV_PPROF_LISTEN": "0.0.0.0:6060",
    "ENV_INPUT_EBPFTRACE_WINDOW": "20s",
    "ENV_INPUT_EBPFTRACE_SAMPLING_RATE": "0.1",
    "ENV_INPUT_EBPFTRACE_DB_PATH": "/usr/local/datakit/ebpf_spandb/",
}
"""What datakit-elinker's Kubernetes manifest sets."""


def files(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{number}.conf" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def dataways(found: Loaded) -> list[DatawayExporterSettings]:
    exporters = list(found.settings.exporters.values())
    assert all(isinstance(exporter, DatawayExporterSettings) for exporter in exporters)
    return exporters  # type: ignore[return-value]


def errors_of(paths: list[Path], environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(paths, environ)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_an_ebpftrace_conf_and_a_dataway_are_a_linker(tmp_path: Path) -> None:
    """The file of the field, as it is: agents are received, on DataKit's port."""
    found = load(files(tmp_path, EBPFTRACE), {"ENV_DATAWAY": URL})
    datakit = found.settings.receivers.datakit
    assert (datakit.enabled, datakit.host, datakit.port) == (True, "localhost", 9529)
    assert (found.settings.window_ns, found.settings.ebpftrace.sampling_rate) == (30 * 10**9, 0.5)
    (dataway,) = dataways(found)
    assert dataway.address == URL
    assert found.warnings == ()


def test_a_datakit_conf_is_read_where_it_matters_and_its_rest_is_told_once(tmp_path: Path) -> None:
    """[dataway], the global tags, where HTTP listens."""
    found = load(files(tmp_path, DATAKIT, EBPFTRACE), {})
    datakit = found.settings.receivers.datakit
    assert (datakit.enabled, datakit.host, datakit.port) == (True, "0.0.0.0", 9530)  # noqa: S104
    assert list(found.settings.exporters) == ["dataway-openway-guance-com", "dataway-10-0-0-9-9528"]
    assert [dataway.address for dataway in dataways(found)] == [URL, OTHER]
    for dataway in dataways(found):
        assert (dataway.timeout_s, dataway.retry.initial_s, dataway.max_batch_bytes) == (15.0, 2.0, 2 << 20)
        assert (dataway.format, dataway.compression, dataway.sinker) == ("line_protocol", "none", True)
        assert dataway.tls.insecure_skip_verify
        assert dataway.proxy is not None
        assert dataway.proxy.get_secret_value() == "http://user:s3cr3t@proxy:3128"
        assert dataway.global_tags == {"host": socket.gethostname(), "project": "shop"}
    rest, unused = found.warnings
    assert rest.startswith("0.conf is a datakit.conf")
    assert "(default_enabled_inputs, global_election_tags, inputs.cpu, logging, protect_mode)" in rest
    assert unused == "0.conf: keys of [dataway] that are not used: max_retry_count, wal"


def test_the_manifests_environment_alone_is_enough() -> None:
    """No file; what means nothing here is told in one warning."""
    found = load(None, MANIFEST)
    settings = found.settings
    assert (settings.receivers.datakit.enabled, settings.receivers.datakit.host) == (True, "0.0.0.0")  # noqa: S104
    assert settings.receivers.datakit.port == 9529
    assert settings.ebpftrace.db_path == Path("/usr/local/datakit/ebpf_spandb")
    (dataway,) = dataways(found)
    assert dataway.global_tags == {"host": "node-7", "host_ip": "10.1.2.3", "cluster_name_k8s": "blue"}
    assert found.warnings == (
        "variables of DataKit that mean nothing here are ignored: ENV_DEFAULT_ENABLED_INPUTS, ENV_ENABLE_PPROF, "
        "ENV_PPROF_LISTEN, POD_NAME",
    )
    assert found.origins["receivers.datakit.port"] == "ENV_HTTP_LISTEN"
    assert found.origins["exporters.dataway-openway-guance-com.url"] == "ENV_DATAWAY"


def test_nodes_variables_are_told_where_no_tag_asks_for_them() -> None:
    """They mean nothing then; the warning names them."""
    environ = {k: v for k, v in MANIFEST.items() if k != "ENV_GLOBAL_HOST_TAGS"}
    (warning,) = load(None, {k: v for k, v in environ.items() if k != "ENV_CLUSTER_NAME_K8S"}).warnings
    assert "ENV_K8S_NODE_IP, ENV_K8S_NODE_NAME" in warning


def test_host_tags_expand_to_what_the_machine_says_of_itself() -> None:
    """Where no variable names the node; other values stay as they are."""
    environ = {"ENV_DATAWAY": URL, "ENV_GLOBAL_TAGS": "host=__datakit_hostname, ip=__datakit_ip ,x=__other,empty="}
    (dataway,) = dataways(load(None, environ))
    assert dataway.global_tags["host"] == socket.gethostname()
    assert dataway.global_tags["ip"].count(".") == 3
    assert dataway.global_tags["x"] == "__other"
    assert "empty" not in dataway.global_tags


def test_datakits_variables_come_before_its_files(tmp_path: Path) -> None:
    """Addresses are replaced, tags and settings overridden one by one."""
    environ = {
        "ENV_DATAWAY": f"{OTHER}, {URL}&x=1",
        "ENV_HTTP_LISTEN": ":9531",
        "ENV_DATAWAY_TIMEOUT": "7s",
        "ENV_DATAWAY_RETRY_DELAY": "3s",
        "ENV_DATAWAY_MAX_RAW_BODY_SIZE": "1000000",
        "ENV_DATAWAY_CONTENT_ENCODING": "v2",
        "ENV_DATAWAY_DISABLE_GZIP": "false",
        "ENV_DATAWAY_HTTP_PROXY": "http://other:1",
        "ENV_DATAWAY_TLS_INSECURE": "false",
        "ENV_DATAWAY_ENABLE_SINKER": "f",
        "ENV_GLOBAL_HOST_TAGS": "project=other",
    }
    found = load(files(tmp_path, DATAKIT), environ)
    assert found.settings.receivers.datakit.host == "0.0.0.0"  # noqa: S104
    assert found.settings.receivers.datakit.port == 9531
    assert [dataway.address for dataway in dataways(found)] == [OTHER, f"{URL}&x=1"]
    dataway = dataways(found)[0]
    assert (dataway.timeout_s, dataway.retry.initial_s, dataway.max_batch_bytes) == (7.0, 3.0, 10**6)
    assert (dataway.format, dataway.compression, dataway.sinker) == ("protobuf", "gzip", False)
    assert not dataway.tls.insecure_skip_verify
    assert dataway.global_tags["project"] == "other"


def test_a_file_that_names_exporters_is_only_filled(tmp_path: Path) -> None:
    """The address where it is missing, and keys that are left out; nothing is added."""
    text = "[exporters.guance]\ntype = 'dataway'\ntimeout = '9s'\n[exporters.trees]\ntype = 'console'\n"
    environ = {"ENV_DATAWAY": URL, "ENV_DATAWAY_TIMEOUT": "7s", "ENV_DATAWAY_CONTENT_ENCODING": "v1"}
    found = load(files(tmp_path, text), environ)
    assert list(found.settings.exporters) == ["guance", "trees"]
    guance = found.settings.exporters["guance"]
    assert isinstance(guance, DatawayExporterSettings)
    assert (guance.address, guance.timeout_s, guance.format) == (URL, 9.0, "line_protocol")
    assert found.origins["exporters.guance.url"] == "ENV_DATAWAY"


def test_a_dataway_nobody_asks_for_is_a_warning(tmp_path: Path) -> None:
    """The file names its exporters; the token is not shown."""
    (warning,) = load(files(tmp_path, "[exporters.trees]\ntype = 'console'\n"), {"ENV_DATAWAY": URL}).warnings
    assert warning.startswith("ENV_DATAWAY is not used")
    assert TOKEN not in warning


def test_several_addresses_for_one_exporter_are_an_error(tmp_path: Path) -> None:
    """An exporter has one address."""
    environ = {"ENV_DATAWAY": f"{URL},{OTHER}"}
    found = errors_of(files(tmp_path, "[exporters.guance]\ntype = 'dataway'\n"), environ)
    assert any(line.startswith("ENV_DATAWAY: names 2 addresses") for line in found)


def test_a_dataway_of_the_file_stands_beside_other_exporters(tmp_path: Path) -> None:
    """[dataway] in the bridge's own file, too."""
    text = f"[dataway]\nurls = ['{URL}']\n[exporters.trees]\ntype = 'console'\n"
    assert set(load(files(tmp_path, text), {}).settings.exporters) == {"trees", "dataway-openway-guance-com"}


def test_both_environments_make_their_exporters() -> None:
    """OpenTelemetry's endpoint and DataKit's Dataway, each gets everything."""
    found = load(None, {"ENV_DATAWAY": URL, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://tempo:14317"})
    assert set(found.settings.exporters) == {"dataway-openway-guance-com", "otlp"}


def test_names_stay_while_the_host_does() -> None:
    """Another token or order changes none; two of one host are told apart."""
    urls = [URL, OTHER, "https://u:p@openway.guance.com/?token=tkn_b", "https://[::1]:9528?token=x"]
    first = load(None, {"ENV_DATAWAY": ",".join(urls)}).settings.exporters
    assert list(first) == [
        "dataway-openway-guance-com",
        "dataway-10-0-0-9-9528",
        "dataway-openway-guance-com-2",
        "dataway-1-9528",
    ]
    rotated = load(None, {"ENV_DATAWAY": ",".join([OTHER.replace(TOKEN, "tkn_new"), URL])}).settings.exporters
    assert set(rotated) == {"dataway-openway-guance-com", "dataway-10-0-0-9-9528"}


@pytest.mark.parametrize(
    ("text", "environ", "enabled"),
    [
        ("", {}, False),
        ("[[inputs.ebpftrace]]\nwindow = '5s'\n", {}, False),
        ("", {"ENV_INPUT_EBPFTRACE_SAMPLING_RATE": "1"}, False),
        ("[receivers.datakit]\n", {}, True),
        ("[receivers.datakit]\nport = 9530\n", {}, True),
        ("[receivers.datakit]\nenabled = false\n", {"ENV_HTTP_LISTEN": "localhost:9529"}, False),
        ("", {"ENV_HTTP_LISTEN": "localhost:9529"}, True),
        (f"[dataway]\nurls = ['{URL}']\n", {}, True),
    ],
)
def test_agents_are_received_where_something_asks_for_it(
    loaded, text: str, environ: dict[str, str], enabled: bool
) -> None:
    """DataKit has the port otherwise; beside a table of the bridge's own, [[inputs.ebpftrace]] asks for nothing."""
    assert loaded(text, environ).settings.receivers.datakit.enabled is enabled


def test_the_bridges_own_address_comes_before_a_datakit_confs(tmp_path: Path) -> None:
    """And ENV_HTTP_LISTEN before both, as for DataKit."""
    own = "[receivers.datakit]\nport = 9600\n"
    datakit = load(files(tmp_path, DATAKIT, own), {}).settings.receivers.datakit
    assert (datakit.host, datakit.port) == ("0.0.0.0", 9600)  # noqa: S104
    datakit = load(files(tmp_path, DATAKIT, own), {"ENV_HTTP_LISTEN": "[::1]:9700"}).settings.receivers.datakit
    assert (datakit.host, datakit.port) == ("::1", 9700)


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [
        ("ENV_HTTP_LISTEN", "9529", "HOST:PORT"),
        ("ENV_HTTP_LISTEN", "localhost:http", "HOST:PORT"),
        ("ENV_HTTP_LISTEN", "local host:9529", "a host name or an IP address"),
        ("ENV_HTTP_LISTEN", "localhost:99999", "a port from 1 to 65535"),
        ("ENV_DATAWAY_TIMEOUT", "30", "has no unit"),
        ("ENV_DATAWAY_CONTENT_ENCODING", "v3", '"v1" (line protocol) or "v2" (protobuf)'),
        ("ENV_DATAWAY_DISABLE_GZIP", "perhaps", "1, t, T"),
        ("ENV_DATAWAY_MAX_RAW_BODY_SIZE", "much", "a number of bytes"),
        ("ENV_DATAWAY_HTTP_PROXY", f"user:{TOKEN}@proxy:1", "http://HOST:PORT"),
        ("ENV_GLOBAL_HOST_TAGS", "host", "KEY=VALUE,KEY=VALUE"),
        ("ENV_DATAWAY", f"openway.guance.com?token={TOKEN}", "https://HOST?token=TOKEN"),
        ("ENV_DATAWAY", f"ftp://h?token={TOKEN}", 'the scheme "ftp" is not known'),
    ],
)
def test_a_bad_variable_is_an_error_that_names_it(name: str, value: str, want: str) -> None:
    """With what is allowed, and without the token."""
    (line,) = errors_of([], {"ENV_DATAWAY": URL, name: value})
    assert line.startswith(name)
    assert want in line
    assert TOKEN not in line


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[dataway]\nurls = 'x'\n", "dataway.urls"),
        ("dataway = 5\n", "dataway = 5"),
        (f"[dataway]\nurls = ['{URL}']\ncontent_encoding = 'v3'\n", "dataway.content_encoding"),
        (f"[dataway]\nurls = ['{URL}']\ntimeout_v2 = 30\n", "dataway.timeout_v2 (exporters.dataway-"),
        (f"global_host_tags = 5\n[dataway]\nurls = ['{URL}']\n", "global_host_tags = 5"),
        (f"[dataway]\nurls = ['{URL}']\n[http_api]\nlisten = 'x'\n", "http_api.listen"),
    ],
)
def test_mistakes_in_datakits_tables_are_told_under_their_own_names(tmp_path: Path, text: str, where: str) -> None:
    """The one who reads it looks into a datakit.conf."""
    assert any(line.startswith(where) for line in errors_of(files(tmp_path, text), {}))


def test_a_file_with_tables_of_the_bridge_is_held_to_them(tmp_path: Path) -> None:
    """Unknown keys are errors there, also beside [dataway]."""
    text = f"[dataway]\nurls = ['{URL}']\n[linker]\ntik = '1s'\n[logging]\nlog = ''\n"
    found = errors_of(files(tmp_path, text), {})
    assert [line.split(":")[0].split(" ")[0] for line in found] == ["linker.tik", "logging"]


def test_later_files_override_earlier_ones_key_by_key(tmp_path: Path) -> None:
    """Tables are merged; where a value came from is the file's name."""
    one = "[[inputs.ebpftrace]]\nwindow = '5s'\nsampling_rate = 0.2\n[web]\nport = 1\n[exporters.t]\ntype = 'console'\n"
    other = "[[inputs.ebpftrace]]\nwindow = '6s'\n[web]\nhost = '::1'\n"
    paths = files(tmp_path, one, other)
    found = load(paths, {})
    assert (found.settings.window_ns, found.settings.ebpftrace.sampling_rate) == (6 * 10**9, 0.2)
    assert (found.settings.web.host, found.settings.web.port) == ("::1", 1)
    assert found.origins["inputs.ebpftrace.window"] == str(paths[1])
    assert found.origins["inputs.ebpftrace.sampling_rate"] == str(paths[0])


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[exporters.g]\ntype = 'dataway'\nurl = 'http://localhost:9529?token=x'\n", "exporters.g.url"),
        (
            "[exporters.t]\ntype = 'console'\n[receivers.datakit]\nforward_to = 'http://127.0.0.1:9529'\n",
            "receivers.datakit.forward_to",
        ),
    ],
)
def test_sending_to_oneself_is_an_error(tmp_path: Path, text: str, where: str) -> None:
    """Traces would come back for ever."""
    (line,) = errors_of(files(tmp_path, text + ("" if "datakit]" in text else "[receivers.datakit]\n")), {})
    assert line.startswith(where)
    assert "this is the bridge itself" in line


def test_nothing_shows_a_token_or_a_password(tmp_path: Path) -> None:
    """Not the listing, no repr."""
    found = load(files(tmp_path, DATAKIT), {})
    for text in (listing(found), repr(found), str(found.settings), found.settings.model_dump_json()):
        assert TOKEN not in text
        assert "s3cr3t" not in text
