"""What `make dist` notices about a wheel."""

import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.release.contents import SHARED, check_wheel

ROOT = Path(__file__).resolve().parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME = "espan_bridge-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
INFO = "espan_bridge-1.dist-info"
PAGE, KERNEL, PROFILE = "bridge/web/static/page.js", "bridge/linker/_join.so", f"d.data/data/{SHARED}/headers.toml"


def members() -> dict[str, str]:
    """A wheel as it should be, by name, without what is in its files."""
    project = PROJECT["project"]
    found = {str(path.relative_to(ROOT)): "" for path in (ROOT / "bridge").rglob("*") if path.is_file()}
    found = {name: "" for name in found if Path(name).suffix not in {".so", ".c", ".pyc"}}
    kernels = (each["name"].replace(".", "/") for each in PROJECT["tool"]["setuptools"]["ext-modules"])
    found |= {f"{name}.so": "" for name in kernels}
    found |= {f"d.data/data/{SHARED}/{path.name}": "" for path in (ROOT / "conf" / "profiles").iterdir()}
    said = [("Name", project["name"]), ("Version", project["version"]), ("Requires-Python", project["requires-python"])]
    said += [("Classifier", each) for each in project["classifiers"]]
    said += [("Description-Content-Type", "text/markdown")]
    return found | {f"{INFO}/METADATA": "".join(f"{key}: {value}\n" for key, value in said)}


def packed(folder: Path, found: dict[str, str], name: str = NAME) -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, text in found.items():
            archive.writestr(member, text)
    return folder / name


def test_a_wheel_as_it_should_be_passes(tmp_path: Path) -> None:
    """Or none would."""
    check_wheel(packed(tmp_path, members()), ROOT)


@pytest.mark.parametrize("member", [PAGE, KERNEL, PROFILE, "bridge/py.typed", "bridge/web/openapi.json"])
def test_what_is_missing_is_named(tmp_path: Path, member: str) -> None:
    """The page, its description, a kernel, a profile, the marker of types."""
    found = members()
    del found[member]
    with pytest.raises(AssertionError, match="lacks"):
        check_wheel(packed(tmp_path, found), ROOT)


@pytest.mark.parametrize("member", ["tests/conftest.py", "bridge/linker/_join.c", "bridge/left_over.py"])
def test_what_does_not_belong_there_is_named(tmp_path: Path, member: str) -> None:
    """Tests, generated C, what is not in the source tree."""
    with pytest.raises(AssertionError, match="has"):
        check_wheel(packed(tmp_path, members() | {member: ""}), ROOT)


@pytest.mark.parametrize("tag", ["linux_x86_64", "manylinux_2_36_x86_64"])
def test_a_wheel_that_fits_few_linuxes_is_refused(tmp_path: Path, tag: str) -> None:
    """A package index would not take the one, and few machines could use the other."""
    with pytest.raises(AssertionError, match=r"manylinux|glibc"):
        check_wheel(packed(tmp_path, members(), f"espan_bridge-1-cp311-cp311-{tag}.whl"), ROOT)
