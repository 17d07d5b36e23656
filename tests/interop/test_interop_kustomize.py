"""The real kustomize, alone or in kubectl, makes of conf/kubernetes what the other tests read there."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.interop.peers import PEERS
from tests.support.kustomize import Object, render

SAMPLES = Path(__file__).resolve().parents[2] / "conf" / "kubernetes"
RUN_S = 60
HASH = re.compile(r"-[a-z0-9]{10}$")


@pytest.fixture(params=["kustomize", "kubectl"])
def build(request: pytest.FixtureRequest) -> list[str]:
    """The command in front of a folder."""
    if request.param == "kubectl":
        found = shutil.which("kubectl")
        return [found, "kustomize"] if found else pytest.skip("kubectl is not installed")
    if missing := PEERS["kustomize"].missing():
        pytest.skip(missing)
    return [str(PEERS["kustomize"].path), "build"]


def plain(value: Any) -> Any:
    """The same, whatever the order of lists is."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted(map(plain, value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def by_name(objects: list[Object]) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): plain(each) for each in objects}


@pytest.mark.parametrize("operator", [False, True], ids=["as it is", "with the Prometheus operator"])
@pytest.mark.parametrize("overlay", ["datakit", "otlp"])
def test_kustomize_makes_what_other_tests_read(build: list[str], tmp_path: Path, overlay: str, operator: bool) -> None:
    """Object for object. The map of settings has a hash in its name, which the pod follows."""
    folder = tmp_path / "kubernetes"
    shutil.copytree(SAMPLES, folder)
    if operator:
        path = folder / overlay / "kustomization.yaml"
        path.write_text(path.read_text().replace("# components:", "components:"))
    done = subprocess.run([*build, str(folder / overlay)], capture_output=True, text=True, check=True, timeout=RUN_S)
    text = done.stdout
    for each in yaml.safe_load_all(text):
        if each["kind"] == "ConfigMap":
            name = each["metadata"]["name"]
            assert HASH.search(name)
            assert text.count(name) == 2
            text = text.replace(name, HASH.sub("", name))
    made = by_name(list(yaml.safe_load_all(text)))
    assert made == by_name(render(folder / overlay))
    assert (("PrometheusRule", "espan-bridge") in made) == operator
