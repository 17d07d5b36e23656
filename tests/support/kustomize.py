"""What `kubectl apply -k` would apply, for the part of kustomize that conf/kubernetes uses.

Whatever else a kustomization says is an error here, so that no test reads less than the cluster would get. The real
program is compared with this in tests/interop. One difference is meant: names of generated maps have no hash.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KEYS = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "configMapGenerator",
    "patches",
    "images",
}
MERGE_KEYS = {
    "containers": ("name",),
    "env": ("name",),
    "ports": ("containerPort", "port"),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""What tells the items of a list apart where patches merge them; other lists are replaced."""
WITHOUT_NAMESPACE = {"Namespace"}


def render(folder: Path) -> list[Object]:
    """The objects of a folder with a kustomization.yaml, in the order they are listed."""
    objects: list[Object] = []
    _add(folder, objects)
    return objects


def read(path: Path) -> Object:
    """The one object of a file."""
    (found,) = yaml.safe_load_all(path.read_text())
    assert isinstance(found, dict), path
    return found


def _add(folder: Path, objects: list[Object]) -> None:
    """Carry out a kustomization: a component changes all that is there, anything else what it brings itself."""
    said = read(folder / "kustomization.yaml")
    assert said.keys() <= KEYS, f"{folder}: {said.keys() - KEYS} is not known here"
    mine = objects if said["kind"] == "Component" else []
    for name in said.get("resources", ()):
        path = folder / name
        if path.is_dir():
            _add(path, mine)
        else:
            mine.append(read(path))
    for generator in said.get("configMapGenerator", ()):
        mine.append(_config_map(folder, **generator))
    for name in said.get("components", ()):
        _add(folder / name, mine)
    for patch in said.get("patches", ()):
        changes = yaml.safe_load(patch["patch"]) if "patch" in patch else read(folder / patch["path"])
        (changed,) = [each for each in mine if _identity(each) == _identity(changes)]
        changed |= _merged(changed, changes)
    for image in said.get("images", ()):
        for container in _containers(mine):
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    if "namespace" in said:
        for each in mine:
            if each["kind"] not in WITHOUT_NAMESPACE:
                each["metadata"]["namespace"] = said["namespace"]
    if mine is not objects:
        objects.extend(mine)


def _config_map(folder: Path, name: str, files: list[str]) -> Object:
    data = {file: (folder / file).read_text() for file in files}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def _identity(each: Object) -> tuple[str, str, str]:
    return each["apiVersion"], each["kind"], each["metadata"]["name"]


def _containers(objects: list[Object]) -> Iterator[Object]:
    for each in objects:
        if each["kind"] == "Deployment":
            yield from each["spec"]["template"]["spec"]["containers"]


def _merged(old: Object, new: Object) -> Object:
    """A strategic merge: tables key by key, null takes a key away, lists by what tells their items apart."""
    found = copy.deepcopy(old)
    for key, value in new.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] = _merged(found[key], value)
        elif key in MERGE_KEYS and key in found:
            found[key] = _merged_list(found[key], value, MERGE_KEYS[key])
        else:
            found[key] = copy.deepcopy(value)
    return found


def _merged_list(old: list[Object], new: list[Object], keys: tuple[str, ...]) -> list[Object]:
    found = [copy.deepcopy(item) for item in old]
    for item in new:
        key = next(key for key in keys if key in item)
        at = next((n for n, there in enumerate(found) if there.get(key) == item[key]), None)
        if at is None:
            found.append(copy.deepcopy(item))
        else:
            found[at] = _merged(found[at], item)
    return found
