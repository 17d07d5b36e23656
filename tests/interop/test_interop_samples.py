"""The compose samples of conf/, and the Collector's part of the documentation: a real Collector takes them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.documented import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "conf" / "compose"
FILES = sorted(COMPOSE.glob("*.yaml"))
CONFIGS = sorted((COMPOSE / "collector").glob("*.yaml"))
AROUND = """
receivers: {otlp: {protocols: {grpc: {endpoint: "127.0.0.1:4317"}}}}
service: {pipelines: {traces: {receivers: [otlp], exporters: []}}}
"""
VALIDATE_S = 60.0


def validated(program: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """What the Collector says to it, without running it."""
    command = [str(program), "validate", "--config", str(config)]
    variables = {"BRIDGE_TOKEN": "0123456789abcdef"}
    return subprocess.run(command, capture_output=True, text=True, timeout=VALIDATE_S, env=variables, check=False)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.name))
def test_a_real_collector_takes_the_samples_configuration(
    config: Path, collector_program: Path, tmp_path: Path
) -> None:
    """Its folders are the image's volumes, so others stand for them here."""
    text = config.read_text().replace("/var/lib/queue", str(tmp_path))
    (tmp_path / "collector.yaml").write_text(text)
    done = validated(collector_program, tmp_path / "collector.yaml")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_real_collector_takes_the_exporters_of_the_pages(
    block: Block, collector_program: Path, tmp_path: Path
) -> None:
    """In a configuration that has nothing else of its own; one with a key too much it refuses."""
    whole = yaml.safe_load(AROUND) | yaml.safe_load(block.text)
    whole["service"]["pipelines"]["traces"]["exporters"] = list(whole["exporters"])
    config = tmp_path / "collector.yaml"
    config.write_text(yaml.safe_dump(whole))
    done = validated(collector_program, config)
    assert done.returncode == 0, done.stderr
    next(iter(whole["exporters"].values()))["no_such_key"] = 1
    config.write_text(yaml.safe_dump(whole))
    assert "no_such_key" in validated(collector_program, config).stderr


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.name))
def test_ports_of_the_host_do_not_clash(file: Path) -> None:
    """Each is published once in a file; the bridge or what stands before it has those that senders look for."""
    published = [port for _, service in services(file) for port in ports_of(service)]
    assert len(published) == len(set(published))
    assert {4317, 4318, 4319, 9529} <= set(published)


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.name))
def test_images_are_pinned(file: Path) -> None:
    """By a version, or built from this tree; the same program in one version everywhere."""
    for name, service in services(file):
        if "build" in service:
            assert (file.parent / service["build"] / "Dockerfile").is_file(), name
            continue
        _, _, version = service["image"].rpartition(":")
        assert version.lstrip("v")[:1].isdecimal(), name
        assert version.count(".") == 2, name


def test_a_program_has_one_version_in_all_files() -> None:
    """Two would be tried apart, and fail apart."""
    images = {service["image"] for file in FILES for _, service in services(file) if "image" in service}
    assert len(images) == len({image.rpartition(":")[0] for image in images})


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.name))
def test_what_is_mounted_is_there(file: Path) -> None:
    """Files beside the sample, and volumes that it declares."""
    declared = set(yaml.safe_load(file.read_text()).get("volumes") or ())
    for _, service in services(file):
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (file.parent / source).exists() if source.startswith(".") else source in declared, volume


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.name))
def test_the_bridge_sends_to_a_service_of_the_file(file: Path) -> None:
    """By the name it has there."""
    found = dict(services(file))
    endpoint = found["bridge"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    host = endpoint.removeprefix("http://").partition(":")[0]
    assert host in found
    assert host != "bridge"


@pytest.mark.parametrize("file", sorted(COMPOSE.glob("*/*.yaml")), ids=lambda path: str(path.name))
def test_what_the_samples_mount_parses(file: Path) -> None:
    """As YAML with something in it."""
    assert yaml.safe_load(file.read_text())


def services(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, service) of a compose file."""
    yield from yaml.safe_load(file.read_text())["services"].items()


def ports_of(service: dict[str, Any]) -> Iterator[int]:
    """Those of the host, whatever address they are bound to."""
    for port in service.get("ports", ()):
        yield int(str(port).split(":")[-2])
