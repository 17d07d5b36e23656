"""What lies in the sdist and in the wheel: every file of the package, and nothing else."""

import re
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

NOT_SOURCE = {".so", ".c", ".pyc"}
"""What builds and runs leave in the package's folder."""
SHARED = "share/espan-bridge/profiles"
MANYLINUX = re.compile(r"manylinux_2_(\d+)_(x86_64|aarch64)\.whl$")
NEWEST_GLIBC = 28
"""Of what manylinux_2_28 is made of: RHEL 8, Debian 10, Ubuntu 18.10 and later have it."""


def check_sdist(path: Path, root: Path) -> None:
    """Raise AssertionError that names what is missing, or not meant to be there."""
    with tarfile.open(path) as archive:
        names = {name for member in archive if member.isfile() for name in [member.name.partition("/")[2]]}
    made = {name for name in names if name.startswith("espan_bridge.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    wanted = _package(root) | {"README.md", "pyproject.toml"} | {f"conf/profiles/{name}" for name in _profiles(root)}
    _same(names - made, wanted, path)


def check_wheel(path: Path, root: Path) -> None:
    """Raise AssertionError that names what is missing, not meant to be there, or wrong about the wheel's name."""
    said = tomllib.loads((root / "pyproject.toml").read_text())
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
    kernels = {_module(name) for name in names if name.endswith(".so")}
    _same(kernels, {each["name"] for each in said["tool"]["setuptools"]["ext-modules"]}, path)
    data = {name for name in names if f".data/data/{SHARED}/" in name}
    _same({Path(name).name for name in data}, _profiles(root), path)
    plain = {name for name in names - data if not name.startswith(f"{info}/") and not name.endswith(".so")}
    _same(plain, _package(root), path)
    _check_metadata(metadata, said["project"])
    tag = MANYLINUX.search(path.name)
    assert tag, f"{path.name}: not a manylinux wheel"
    assert int(tag[1]) <= NEWEST_GLIBC, f"{path.name}: needs a glibc newer than 2.{NEWEST_GLIBC}"


def _check_metadata(metadata: Message, project: dict[str, Any]) -> None:
    assert (metadata["Name"], metadata["Version"]) == (project["name"], project["version"])
    assert metadata["Requires-Python"] == project["requires-python"]
    assert set(metadata.get_all("Classifier", [])) == set(project["classifiers"])
    assert metadata["Description-Content-Type"] == "text/markdown"


def _same(found: set[str], wanted: set[str], path: Path) -> None:
    missing, surplus = sorted(wanted - found), sorted(found - wanted)
    assert not missing, f"{path.name} lacks {missing}"
    assert not surplus, f"{path.name} has {surplus}"


def _package(root: Path) -> set[str]:
    files = (path for path in (root / "bridge").rglob("*") if path.is_file() and path.suffix not in NOT_SOURCE)
    return {str(path.relative_to(root)) for path in files}


def _profiles(root: Path) -> set[str]:
    return {path.name for path in (root / "conf" / "profiles").glob("*.toml")}


def _module(name: str) -> str:
    return name.partition(".")[0].replace("/", ".")
