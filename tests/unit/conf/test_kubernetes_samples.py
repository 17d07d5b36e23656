"""What conf/kubernetes makes of itself is valid, holds together, and says what the image and the settings say."""

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from bridge.config import DatawayExporterSettings, Loaded, OtlpGrpcExporterSettings, load
from bridge.pipeline.memory import default_limit, within_memory
from tests.support.kustomize import Object, read, render

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = ROOT / "conf" / "kubernetes"
IMAGE_SETTINGS = ROOT / "conf" / "docker.toml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IMAGE_USER = 10001
OVERLAYS = ("datakit", "otlp")
VERSIONS = ("1.31", "1.37")
"""The first in which every field is stable, and the newest whose schemas are published."""
OPERATORS = {"ServiceMonitor", "PrometheusRule"}
NODE = {"spec.nodeName": "node-7", "status.hostIP": "10.1.2.3"}
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}


def size(quantity: str) -> int:
    """Bytes of a quantity with a binary unit."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


@dataclass(frozen=True)
class Applied:
    """The objects of an overlay."""

    objects: list[Object]

    def all(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str) -> Object:
        (found,) = self.all(kind)
        return found

    @property
    def pod(self) -> dict[str, Any]:
        found: dict[str, Any] = self.one("Deployment")["spec"]["template"]["spec"]
        return found

    @property
    def container(self) -> dict[str, Any]:
        (found,) = self.pod["containers"]
        return found

    @property
    def ports(self) -> dict[str, int]:
        """What the container listens on, by name."""
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    def mounted(self, path: PurePosixPath | Path) -> dict[str, Any]:
        """The volume in which a path of the container lies."""
        (mount,) = [each for each in self.container["volumeMounts"] if path.is_relative_to(each["mountPath"])]
        (volume,) = [each for each in self.pod["volumes"] if each["name"] == mount["name"]]
        return volume

    def variables(self) -> dict[str, str]:
        """The environment as the container sees it."""
        found: dict[str, str] = {}
        for each in self.container.get("env", ()):
            source = each.get("valueFrom", {})
            if "secretKeyRef" in source:
                secret = self.one("Secret")
                assert secret["metadata"]["name"] == source["secretKeyRef"]["name"]
                found[each["name"]] = secret["stringData"][source["secretKeyRef"]["key"]]
            else:
                found[each["name"]] = NODE[source["fieldRef"]["fieldPath"]] if source else each["value"]
        assert all(isinstance(value, str) for value in found.values())
        return found

    def loaded(self, folder: Path) -> Loaded:
        """What the bridge in it loads: the map's settings where they are mounted over the image's."""
        (command,) = re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[-1:]
        path = PurePosixPath(json.loads(command)[-1])
        for settings in self.all("ConfigMap"):
            assert self.mounted(path)["configMap"]["name"] == settings["metadata"]["name"]
            (folder / path.name).write_text(settings["data"][path.name])
            return load(folder / path.name, self.variables())
        return load(IMAGE_SETTINGS, self.variables())


@pytest.fixture(scope="module", params=OVERLAYS)
def applied(request: pytest.FixtureRequest) -> Applied:
    """An overlay as it is."""
    return Applied(render(SAMPLES / request.param))


@pytest.fixture(scope="module", params=OVERLAYS)
def monitored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """An overlay with its line for the Prometheus operator taken in."""
    folder = tmp_path_factory.mktemp("samples") / "kubernetes"
    shutil.copytree(SAMPLES, folder)
    path = folder / request.param / "kustomization.yaml"
    text, times = re.subn(r"^# (components: .*)$", r"\1", path.read_text(), flags=re.MULTILINE)
    assert times == 1
    path.write_text(text)
    return Applied(render(folder / request.param))


@pytest.fixture
def loaded(applied: Applied, tmp_path: Path) -> Loaded:
    """The settings of the bridge in an overlay."""
    return applied.loaded(tmp_path)


def selectors(objects: list[Object]) -> Iterator[tuple[str, dict[str, str]]]:
    """Labels by which objects select the pod."""
    for each in objects:
        spec = each.get("spec", {})
        match each["kind"]:
            case "Deployment" | "PodDisruptionBudget":
                yield each["kind"], spec["selector"]["matchLabels"]
            case "Service":
                yield each["kind"], spec["selector"]
            case "NetworkPolicy":
                yield each["kind"], spec["podSelector"]["matchLabels"]


def rules(applied: Applied, side: str) -> list[dict[str, Any]]:
    """Rules of all network policies for ingress or egress."""
    return [rule for policy in applied.all("NetworkPolicy") for rule in policy["spec"].get(side, ())]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(monitored: Applied, version: str) -> None:
    """As the published schemas of Kubernetes say, with no field that they do not know."""
    built_in = [each for each in monitored.objects if each["kind"] not in OPERATORS]
    assert {each["kind"] for each in built_in} >= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    for each in built_in:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_field_that_nobody_knows_is_noticed(version: str) -> None:
    """What the test above relies on."""
    misspelt = read(SAMPLES / "base" / "deployment.yaml")
    (container,) = misspelt["spec"]["template"]["spec"]["containers"]
    container["livenessprobe"] = container.pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessprobe"):
        kubernetes_validate.validate(misspelt, version, strict=True)


def test_every_file_is_used() -> None:
    """By a kustomization of its own folder; what is listed but missing would fail all other tests."""
    for path in SAMPLES.glob("*/*"):
        assert path.name in (path.parent / "kustomization.yaml").read_text() or path.name == "kustomization.yaml", path


def test_everything_lies_in_one_namespace(monitored: Applied) -> None:
    """Which is part of it."""
    named = {each["metadata"].get("namespace") for each in monitored.objects if each["kind"] != "Namespace"}
    assert named == {monitored.one("Namespace")["metadata"]["name"]}
    names = [(each["kind"], each["metadata"]["name"]) for each in monitored.objects]
    assert len(names) == len(set(names))


def test_everything_selects_the_pod(applied: Applied) -> None:
    """Deployment, Service, budget and network policies."""
    labels = applied.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    found = dict(selectors(applied.objects))
    assert found.keys() == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    for kind, selected in selectors(applied.objects):
        assert selected, kind
        assert selected.items() <= labels.items(), kind


def test_ports_and_probes_are_where_the_bridge_listens(applied: Applied, loaded: Loaded) -> None:
    """Every port by name, the Service's too; the image exposes them."""
    receivers = loaded.settings.receivers
    tables = {
        "datakit": receivers.datakit,
        "otlp-grpc": receivers.otlp_grpc,
        "otlp-http": receivers.otlp_http,
        "web": loaded.settings.web,
    }
    listening = {name: table for name, table in tables.items() if table.enabled}
    assert {name: table.port for name, table in listening.items()} == applied.ports
    assert all(table.host == "0.0.0.0" for table in listening.values())  # noqa: S104
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert applied.container[probe]["httpGet"] == {"path": path, "port": "web"}
    service = applied.one("Service")["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == applied.ports
    (exposed,) = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert set(exposed.split()) >= {str(port) for port in applied.ports.values()}


def test_the_settings_can_be_used(loaded: Loaded) -> None:
    """Without a warning: every variable means something."""
    assert loaded.warnings == ()
    assert len(loaded.settings.exporters) == 1


def test_a_linkers_variables_become_a_dataway_with_its_tags(tmp_path: Path) -> None:
    """Node and cluster, as a DataKit ELinker would tag them."""
    (dataway,) = Applied(render(SAMPLES / "datakit")).loaded(tmp_path).settings.exporters.values()
    assert isinstance(dataway, DatawayExporterSettings)
    assert dataway.global_tags == {"host": "node-7", "host_ip": "10.1.2.3", "cluster_name_k8s": "default"}


def test_the_store_lies_in_a_volume_the_image_may_write(applied: Applied, loaded: Loaded) -> None:
    """That outlives the pod, and in which the bridge's own bound is met first."""
    claim = applied.one("PersistentVolumeClaim")
    volume = applied.mounted(loaded.settings.ebpftrace.db_path)
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    store = loaded.settings.store
    assert isinstance(store.max_bytes, int)
    assert size(claim["spec"]["resources"]["requests"]["storage"]) > store.max_bytes + store.min_free_bytes
    assert applied.pod["securityContext"]["fsGroup"] == applied.pod["securityContext"]["runAsUser"] == IMAGE_USER
    assert f"--uid {IMAGE_USER}" in DOCKERFILE


def test_there_is_one_pod_and_never_two(applied: Applied, loaded: Loaded) -> None:
    """A store has one owner; a new pod waits until the old one is gone, which has time to stop."""
    spec = applied.one("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert applied.pod["terminationGracePeriodSeconds"] >= loaded.settings.shutdown_grace_s + 5


def test_the_memory_limit_is_one_the_bridge_can_keep(applied: Applied, loaded: Loaded, tmp_path: Path) -> None:
    """It reads the container's limit, takes its share of it, and has room for everything in that."""
    resources = applied.container["resources"]
    limit = size(resources["limits"]["memory"])
    for path, text in (("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", f"{limit}\n")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    share = default_limit(tmp_path)
    assert share == int(0.8 * limit)
    assert loaded.settings.memory_limit_bytes is None
    kept = within_memory(loaded.settings.model_copy(update={"memory_limit_bytes": share}))
    assert kept.memory_limit_bytes == share
    assert size(resources["requests"]["memory"]) <= share


def test_the_pod_has_an_account_without_a_token(applied: Applied) -> None:
    """Its own, so that nothing granted to the namespace's default is granted to it."""
    account = applied.one("ServiceAccount")
    assert applied.pod["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False
    assert applied.pod["automountServiceAccountToken"] is False


def test_senders_reach_receivers_and_monitoring_the_page(applied: Applied) -> None:
    """Each port that is listened on is let in by a policy; the page for one namespace alone."""
    let_in: dict[str, list[dict[str, Any]]] = {}
    for rule in rules(applied, "ingress"):
        for port in rule["ports"]:
            assert port["protocol"] == "TCP"
            let_in.setdefault(port["port"], []).extend(rule["from"])
    assert let_in.keys() == applied.ports.keys()
    (scraper,) = let_in.pop("web")
    assert scraper["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert all({"namespaceSelector": {}} in senders for senders in let_in.values())
    assert any("ipBlock" in each for each in let_in.get("datakit", [{"ipBlock": {}}])), "agents come from nodes"


def test_the_bridge_reaches_names_and_its_backend(applied: Applied, loaded: Loaded) -> None:
    """And nothing else: policies name every port."""
    (exporter,) = loaded.settings.exporters.values()
    if isinstance(exporter, DatawayExporterSettings):
        address, peer = urlsplit(exporter.url.get_secret_value().partition(",")[0]), None
    else:
        assert isinstance(exporter, OtlpGrpcExporterSettings)
        address = urlsplit(exporter.endpoint.get_secret_value())
        assert address.hostname
        namespace = address.hostname.split(".")[1]
        peer = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]
    ways = {
        (port["port"], port["protocol"]): rule.get("to") for rule in rules(applied, "egress") for port in rule["ports"]
    }
    backend = address.port or {"https": 443, "http": 80}[address.scheme]
    assert ways == {(53, "UDP"): None, (53, "TCP"): None, (backend, "TCP"): peer}
    for policy in applied.all("NetworkPolicy"):
        spec = policy["spec"]
        assert {side.lower() for side in spec["policyTypes"]} == spec.keys() & {"ingress", "egress"}


def test_the_monitor_finds_the_service(monitored: Applied) -> None:
    """By label, and the page by the name of its port; annotations for other ways to scrape are gone."""
    monitor, service = monitored.one("ServiceMonitor"), monitored.one("Service")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"].keys() == {"selector", "endpoints"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("web", "/metrics")
    assert re.fullmatch(r"\d+s", endpoint["interval"])
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitored.one("Deployment")["spec"]["template"]["metadata"]["annotations"] == {}


def test_annotations_say_where_metrics_are(applied: Applied) -> None:
    """For a Prometheus without the operator."""
    found = applied.one("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert found == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(applied.ports["web"]),
        "prometheus.io/path": "/metrics",
    }


def test_the_operators_rules_are_those_of_prometheus() -> None:
    """schemas/generate_prometheus_rule.py has been run since the alerts were changed."""
    spec = importlib.util.spec_from_file_location("rule", ROOT / "schemas" / "generate_prometheus_rule.py")
    assert spec
    assert spec.loader
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.OUTPUT.read_text(encoding="utf-8") == generator.rule_object()
    made = read(generator.OUTPUT)
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert made["spec"] == yaml.safe_load((ROOT / "conf" / "prometheus" / "alerts.yaml").read_text())
    for group in made["spec"]["groups"]:
        assert group.keys() <= {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
