"""pyproject.toml: what is installed is all that the bridge reads of its own folder."""

import tomllib
from pathlib import Path
from typing import Any

from bridge import __version__

ROOT = Path(__file__).resolve().parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
BUILT = {".so", ".c", ".pyc", ".html"}


def test_the_version_is_said_once() -> None:
    """The program's, and the one that pip knows."""
    assert PROJECT["project"]["version"] == __version__


def test_every_file_beside_the_code_is_installed() -> None:
    """A page, a description or a type stub that no pattern names would be missing in a wheel alone."""
    installed = {path for pattern in SETUPTOOLS["package-data"]["bridge"] for path in (ROOT / "bridge").glob(pattern)}
    static = ROOT / "bridge" / "web" / "static"
    for path in (ROOT / "bridge").rglob("*"):
        if path.is_file() and path.suffix != ".py" and (path.suffix not in BUILT or path.parent == static):
            assert path in installed, path.relative_to(ROOT)


def test_every_kernel_is_compiled_and_none_is_needed() -> None:
    """By name and place; a machine without a compiler installs all the same."""
    modules = SETUPTOOLS["ext-modules"]
    sources = {source for module in modules for source in module["sources"]}
    assert sources == {str(path.relative_to(ROOT)) for path in (ROOT / "bridge").rglob("*.pyx")}
    for module in modules:
        assert module["sources"] == [module["name"].replace(".", "/") + ".pyx"]
        assert all((ROOT / path).exists() for path in module.get("depends", ()))
        assert module["optional"] is True
