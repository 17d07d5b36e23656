"""DataKit's own files and the environment of its manifests."""

import json
import os
import socket
from pathlib import Path

import pytest

from bridge.config import DatawayExporterSettings, Loaded, load
from bridge.config.listing import listing
from bridge.errors import ConfigError

TOKEN = "tkn_0123456789abcdef0123456789abcdef"  # noqa: S105 -- that it is never shown is what is tested
URL = f"https://openway.guance.com?token={TOKEN}"
OTHER = f"http://10.0.0.9:9528?token={TOKEN}"
NAME, OTHER_NAME = "dataway-openway-guance-com-101025", "dataway-10-0-0-9-9528-5410fb"
"""The exporters of both: a name that changes leaves what is undelivered under the old one behind."""
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
    assert list(found.settings.exporters) == [NAME, OTHER_NAME]
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
    assert found.origins[f"exporters.{NAME}.url"] == "ENV_DATAWAY"


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
    assert set(load(files(tmp_path, text), {}).settings.exporters) == {"trees", NAME}


def test_both_environments_make_their_exporters() -> None:
    """OpenTelemetry's endpoint and DataKit's Dataway, each gets everything."""
    found = load(None, {"ENV_DATAWAY": URL, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://tempo:14317"})
    assert set(found.settings.exporters) == {NAME, "otlp"}


def test_names_stay_while_host_and_token_do() -> None:
    """In any order, with others or without, and however the rest of the URL is written."""
    urls = [URL, OTHER, "https://u:p@openway.guance.com/?token=tkn_b", "https://[::1]:9528?token=a@b"]
    names = list(load(None, {"ENV_DATAWAY": ",".join(urls)}).settings.exporters)
    assert names[:2] == [NAME, OTHER_NAME]
    assert [name[:-6] for name in names[2:]] == ["dataway-openway-guance-com-", "dataway-1-9528-"]
    assert len(set(names)) == 4
    for order in (urls[::-1], urls[1:], urls[2:3]):
        again = load(None, {"ENV_DATAWAY": ",".join(order)}).settings.exporters
        assert {name: dataway.address for name, dataway in again.items()} == {  # type: ignore[union-attr]
            name: url for name, url in zip(names, urls, strict=True) if url in order
        }
    (name,) = load(None, {"ENV_DATAWAY": f"https://u:p@OpenWay.guance.com:443/v1?x=1&token={TOKEN}"}).settings.exporters
    assert name == NAME


def test_a_new_token_is_a_new_exporter() -> None:
    """It is another workspace's: what waits for the old one must not go there. Long hosts leave room for the hash."""
    (name,) = load(None, {"ENV_DATAWAY": URL.replace(TOKEN, "tkn_new")}).settings.exporters
    assert name[:-6] == NAME[:-6]
    assert name != NAME
    long = [f"https://{'h' * 60}{number}.example?token=t" for number in range(2)]
    assert {len(name) for name in load(None, {"ENV_DATAWAY": ",".join(long)}).settings.exporters} == {64}


@pytest.mark.parametrize(
    ("text", "environ", "places"),
    [
        (f"[dataway]\nurls = ['{URL}', '{OTHER}', '{URL}']\n", {}, ("dataway.urls: its addresses 1 and 3",)),
        ("", {"ENV_DATAWAY": f"{URL},{URL}&x=1"}, ("ENV_DATAWAY: its addresses 1 and 2",)),
        (
            f"[dataway]\nurls = ['{URL}']\n[exporters.own]\ntype = 'dataway'\nurl = '{URL}'\n",
            {},
            ("exporters.own.url", f"dataway.urls (exporters.{NAME}.url)"),
        ),
        (
            f"[dataway]\nurls = ['{URL}']\n[exporters.{NAME}]\ntype = 'dataway'\nurl = '{OTHER}'\n",
            {},
            ("dataway.urls", f"exporters.{NAME}", "address 1"),
        ),
        (
            f"[exporters.one]\ntype = 'dataway'\nurl = '{URL}'\n[exporters.two]\ntype = 'dataway'\nurl = '{URL}'\n",
            {},
            ("exporters.one.url", "exporters.two.url"),
        ),
    ],
)
def test_one_workspace_twice_is_an_error_that_names_both_places(
    tmp_path: Path, text: str, environ: dict[str, str], places: tuple[str, ...]
) -> None:
    """Everything would arrive there twice. The token is not shown."""
    (line,) = errors_of(files(tmp_path, text) if text else [], environ)
    assert all(place in line for place in places), line
    assert TOKEN not in line


@pytest.mark.parametrize("tag", ["a,b", "a=b", "a\r\nx: y", "a\tb", "a\x7f", "a\x85"])
@pytest.mark.parametrize("as_key", [False, True])
def test_tags_that_no_header_holds_are_an_error_with_a_sinker(tmp_path: Path, tag: str, as_key: bool) -> None:
    """Each is named with the way out; where no sinker reads them they may be anything."""
    key, value = (tag, "v") if as_key else ("project", tag)
    tags = f"{json.dumps(key)} = {json.dumps(value)}".replace("\x7f", "\\u007f")
    table = f"[dataway]\nurls = ['{URL}']\nenable_sinker = %s\n[global_host_tags]\n{tags}\n"
    (line,) = errors_of(files(tmp_path, table % "true"), {})
    assert line.startswith(f"global host tags (exporters.{NAME}.global_tags)")
    assert json.dumps(key).replace("\x7f", "\\u007f") in line
    assert "take commas, equals signs, line breaks and control characters out of it" in line
    (dataway,) = dataways(load(files(tmp_path, table % "false"), {}))
    assert dataway.global_tags == {key: value}


@pytest.mark.parametrize("sinker", ["true", "false"])
def test_tags_that_are_no_utf8_are_an_error(sinker: str) -> None:
    """Points are; what cannot be shown is escaped."""
    tags = os.fsdecode(b"project=\xff")
    environ = {"ENV_DATAWAY": URL, "ENV_DATAWAY_ENABLE_SINKER": sinker, "ENV_GLOBAL_HOST_TAGS": tags}
    (line,) = errors_of([], environ)
    assert line.endswith(r'"project" = "\udcff": must be UTF-8')


def test_tags_in_any_language_are_no_error_with_a_sinker() -> None:
    """A header holds them as UTF-8."""
    environ = {"ENV_DATAWAY": URL, "ENV_DATAWAY_ENABLE_SINKER": "true", "ENV_GLOBAL_HOST_TAGS": "项目=商店 1"}
    (dataway,) = dataways(load(None, environ))
    assert dataway.global_tags == {"项目": "商店 1"}


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
