"""What lies in conf/ can be used as it is, and says what the code does."""

import configparser
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.cli import COMMANDS
from bridge.config import DatawayExporterSettings, Loaded, load

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"
IMAGE_SETTINGS = CONF / "docker.toml"
IMAGE_USER = 10001


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """The manifest's objects by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((CONF / "kubernetes.yaml").read_text())}


@pytest.fixture(scope="module")
def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (found,) = manifest["Deployment"]["spec"]["template"]["spec"]["containers"]
    return found


def environ_of(manifest: dict[str, Any], container: dict[str, Any]) -> dict[str, str]:
    """Variables as the container sees them."""
    found = {}
    for each in container["env"]:
        source = each.get("valueFrom", {})
        if "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            assert manifest["Secret"]["metadata"]["name"] == reference["name"]
            found[each["name"]] = manifest["Secret"]["stringData"][reference["key"]]
        elif "fieldRef" in source:
            found[each["name"]] = {"spec.nodeName": "node-7", "status.hostIP": "10.1.2.3"}[
                source["fieldRef"]["fieldPath"]
            ]
        else:
            found[each["name"]] = each["value"]
    assert all(isinstance(value, str) for value in found.values())
    return found


def loaded_there(manifest: dict[str, Any], container: dict[str, Any]) -> Loaded:
    """What the image loads with the manifest's variables."""
    return load(IMAGE_SETTINGS, environ_of(manifest, container))


def test_the_manifests_variables_are_settings_that_can_be_used(manifest, container) -> None:
    """With the settings of the image, and without a warning: every variable means something."""
    found = loaded_there(manifest, container)
    assert found.warnings == ()
    (dataway,) = found.settings.exporters.values()
    assert isinstance(dataway, DatawayExporterSettings)
    assert dataway.global_tags == {"host": "node-7", "host_ip": "10.1.2.3", "cluster_name_k8s": "default"}


def test_the_store_lies_in_a_volume_the_image_may_write(manifest, container) -> None:
    """And that outlives the pod."""
    pod = manifest["Deployment"]["spec"]["template"]["spec"]
    db_path = loaded_there(manifest, container).settings.ebpftrace.db_path
    (mount,) = [m for m in container["volumeMounts"] if db_path.is_relative_to(m["mountPath"])]
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    assert volume["persistentVolumeClaim"]["claimName"] == manifest["PersistentVolumeClaim"]["metadata"]["name"]
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"] == IMAGE_USER
    assert f"--uid {IMAGE_USER}" in (ROOT / "Dockerfile").read_text()


def test_there_is_one_pod_and_never_two(manifest) -> None:
    """A store has one owner; a new pod waits until the old one is gone, which has time to stop."""
    spec = manifest["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    grace_s = load(IMAGE_SETTINGS, {"ENV_DATAWAY": "https://h?token=t"}).settings.shutdown_grace_s
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > grace_s


def test_ports_and_probes_are_where_the_bridge_listens(manifest, container) -> None:
    """Every port by name, the service's too."""
    settings = loaded_there(manifest, container).settings
    receivers = settings.receivers
    listening = {
        "datakit": receivers.datakit,
        "otlp-grpc": receivers.otlp_grpc,
        "otlp-http": receivers.otlp_http,
        "web": settings.web,
    }
    assert {name: table.port for name, table in listening.items()} == {
        port["name"]: port["containerPort"] for port in container["ports"]
    }
    assert all(table.enabled and table.host == "0.0.0.0" for table in listening.values())  # noqa: S104
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "web"}
    for port in manifest["Service"]["spec"]["ports"]:
        assert port["port"] == listening[port["targetPort"]].port
    exposed = re.search(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert exposed
    assert set(exposed[1].split()) == {str(table.port) for table in listening.values()}


def test_labels_fit_together(manifest) -> None:
    """Deployment and service select the pod."""
    labels = manifest["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifest["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert manifest["Service"]["spec"]["selector"].items() <= labels.items()
    namespaces = {each["metadata"].get("namespace") for kind, each in manifest.items() if kind != "Namespace"}
    assert namespaces == {manifest["Namespace"]["metadata"]["name"]}


def test_the_sample_of_a_linkers_file_loads() -> None:
    """With a Dataway, as it says itself; agents are received."""
    found = load(CONF / "ebpftrace.conf", {"ENV_DATAWAY": "https://h?token=t"})
    assert found.warnings == ()
    assert found.settings.receivers.datakit.enabled
    assert (found.settings.window_ns, found.settings.ebpftrace.sampling_rate) == (20 * 10**9, 0.1)


def test_the_agents_sample_sends_to_the_manifests_service(manifest) -> None:
    """It is TOML, and has every option that selects."""
    (ebpf,) = tomllib.loads((CONF / "agent-ebpf.conf").read_text())["inputs"]["ebpf"]
    host, port = ebpf["trace_server"].split(":")
    service = manifest["Service"]["metadata"]
    assert host == f"{service['name']}.{service['namespace']}.svc"
    assert int(port) in {p["port"] for p in manifest["Service"]["spec"]["ports"] if p["name"] == "datakit"}
    assert "ebpf-trace" in ebpf["enabled_plugins"]
    assert {key for key in ebpf if key.startswith("trace_")} == {
        "trace_server",
        "trace_all_process",
        "trace_env_list",
        "trace_env_blacklist",
        "trace_name_list",
        "trace_name_blacklist",
    }


def test_the_unit_starts_the_service() -> None:
    """A command there is, with the settings it names; state where the default db_path ends up; and again for as long as
    it takes, whatever the exit code."""
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((CONF / "espan-bridge.service").read_text())
    service = unit["Service"]
    program, command, option, path = shlex.split(service["ExecStart"])
    assert Path(program).name == "espan-bridge"
    assert command in COMMANDS
    assert (option, Path(path).name) == ("--config", "bridge.toml")
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    assert (service["Restart"], service["RestartSec"]) == ("on-failure", "5")
    assert "RestartPreventExitStatus" not in service
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(service["TimeoutStopSec"]) > load(CONF / "bridge.toml", {}).settings.shutdown_grace_s
