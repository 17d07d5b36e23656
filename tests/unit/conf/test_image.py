"""The image's recipe and the locks it is made of: no root, no compiler, nothing that was not hashed."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bridge.config import load
from tests.support.kustomize import read

ROOT = Path(__file__).resolve().parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPILERS = re.compile(r"\b(gcc|g\+\+|clang|cc|make|build-essential|libc6-dev|cython|setuptools)\b", re.IGNORECASE)
LOCKS = {
    "requirements.lock": PROJECT["project"]["dependencies"],
    "build.lock": PROJECT["build-system"]["requires"],
}


def instructions() -> list[tuple[str, str]]:
    """(instruction, argument) of each line of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0].upper(), line.split(None, 1)[1]) for line in lines if line.strip()]


def final_stage() -> list[tuple[str, str]]:
    """What the image that is shipped is made by."""
    found = instructions()
    last = max(i for i, (name, _) in enumerate(found) if name == "FROM")
    return found[last:]


def only(name: str) -> str:
    """The argument of the one instruction of this name in the final stage."""
    (argument,) = [argument for found, argument in final_stage() if found == name]
    return argument


def locked(name: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """The lines of a lock by package: what is pinned, where, and its hashes."""
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", "")
    for line in filter(None, map(str.strip, text.splitlines())):
        pinned, *hashes = line.split(" --hash=")
        requirement = Requirement(pinned.strip())
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, [h.strip() for h in hashes]))
    return found


def test_the_image_runs_as_nobody_special() -> None:
    """By number, as Kubernetes' runAsNonRoot asks for, and as the manifest and the folder's owner say."""
    user, _, group = only("USER").partition(":")
    assert int(user) == int(group) >= 1000
    (made,) = [argument for name, argument in final_stage() if name == "RUN"]
    assert f"--uid {user}" in made
    assert [name for name, _ in final_stage()].index("USER") > [name for name, _ in final_stage()].index("RUN")
    pod = deployment()
    assert pod["securityContext"]["runAsUser"] == int(user)


def test_no_compiler_is_in_the_final_stage() -> None:
    """What builds stays in the stage before."""
    built = " ".join(argument for name, argument in instructions() if (name, argument) not in final_stage())
    assert COMPILERS.search(built)
    for name, argument in final_stage():
        assert not COMPILERS.search(argument), (name, argument)
        assert not re.search(r"\b(apt-get|pip)\b", argument), (name, argument)


@pytest.mark.parametrize("name", ["ENTRYPOINT", "CMD"])
def test_it_is_started_without_a_shell(name: str) -> None:
    """Exec form: signals reach the bridge itself."""
    assert all(isinstance(word, str) for word in json.loads(only(name)))
    check = only("HEALTHCHECK")
    assert isinstance(json.loads(check[check.index("[") :]), list)


def test_state_lies_in_the_volume_alone() -> None:
    """So that the root file system can be read-only: nothing else is written, bytecode neither."""
    settings = load(ROOT / "conf" / "docker.toml", {"ENV_DATAWAY": "https://h?token=t"}).settings
    assert settings.ebpftrace.db_path.is_relative_to(only("VOLUME"))
    assert only("WORKDIR") == only("VOLUME")
    assert "PYTHONDONTWRITEBYTECODE=1" in only("ENV").split()


def test_everything_that_is_downloaded_is_checked() -> None:
    """By hash; what has none comes from this folder and downloads nothing."""
    for name, argument in instructions():
        shell = name == "RUN" and not argument.startswith("[")
        for command in re.split(r"&&|;", argument) if shell else ():
            words = shlex.split(command)
            if "pip" in words and {"install", "wheel"} & set(words):
                offline = "--no-deps" in words and {"--no-build-isolation", "--no-index"} & set(words)
                assert "--require-hashes" in words or offline, command


def test_only_what_the_image_is_made_of_is_sent_to_the_builder() -> None:
    """Each file that is copied is let through by .dockerignore, which keeps everything else out."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_through = [line[1:] for line in lines if line.startswith("!")]
    for name, argument in instructions():
        if name == "COPY" and "--from" not in argument:
            for source in argument.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == path or source.startswith(f"{path}/") for path in let_through), source


def deployment() -> dict[str, Any]:
    """The pod that conf/kubernetes makes of it."""
    pod: dict[str, Any] = read(ROOT / "conf" / "kubernetes" / "base" / "deployment.yaml")["spec"]["template"]["spec"]
    return pod


def test_the_pod_may_do_nothing_that_it_need_not() -> None:
    """As the restricted profile of Kubernetes' pod security standards asks for, and a read-only root besides."""
    pod = deployment()
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", LOCKS)
def test_every_dependency_is_locked_within_its_bounds(name: str) -> None:
    """For each Python that its marker names; a lock that lags behind pyproject.toml fails here: `make lock`."""
    found = locked(name)
    for text in LOCKS[name]:
        wanted = Requirement(text)
        pins = found[canonicalize_name(wanted.name)]
        for pin, _ in pins:
            (version,) = [spec.version for spec in pin.specifier]
            assert wanted.specifier.contains(version, prereleases=True), (text, str(pin))


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_one_version_with_hashes(name: str) -> None:
    """Nothing is taken on trust, what dependencies depend on neither."""
    for package, pins in locked(name).items():
        for pin, hashes in pins:
            assert [spec.operator for spec in pin.specifier] == ["=="], package
            assert hashes, package
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), package
