"""Settings, Collector configurations and commands that the pages show are such as the programs know."""

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bridge.cli import main
from bridge.config import load
from bridge.config.profiles import load_profiles
from bridge.config.toml_file import read_toml
from tests.support.certificates import Authority, server_names
from tests.support.documented import ROOT, Block, blocks, inline_commands

LANGUAGES = {"toml", "yaml", "json", ""}
BACKEND = '\n[exporters.backend]\ntype = "otlp_grpc"\nendpoint = "http://backend:14317"\n'
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 -- of nobody
FOLDER = "/etc/espan-bridge"
"""Where the pages put files."""
OTLP_EXPORTERS = ("otlp", "otlphttp", "otlp_grpc", "otlp_http")
"""Older Collectors know the first two alone, newer ones all."""
COLLECTOR_EXPORTER = {
    "endpoint": str,
    "tls": {"insecure": bool},
    "headers": dict,
    "retry_on_failure": {"enabled": bool, "initial_interval": str, "max_interval": str, "max_elapsed_time": str},
    "sending_queue": {"enabled": bool, "queue_size": int, "num_consumers": int, "storage": str},
    "compression": str,
    "timeout": str,
}
"""What the Collector's OTLP exporters know, as far as pages use it; tests/interop asks the Collector itself."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as the pages name them."""
    authority = Authority()
    for name in ("server", "client"):
        cert, key = authority.issue(*server_names())
        (tmp_path / f"{name}.pem").write_bytes(cert)
        (tmp_path / f"{name}.key").write_bytes(key)
    for name in ("ca", "clients-ca"):
        (tmp_path / f"{name}.pem").write_bytes(authority.pem)
    for name in ("tokens", "scrape-tokens", "hash.key"):
        (tmp_path / name).write_text(f"{TOKEN}\n")
    return tmp_path


def test_every_block_says_what_it_is() -> None:
    """What is in no language that is looked at here, or is empty, would be looked at by nobody."""
    assert [str(block) for block in blocks() if block.language not in LANGUAGES or not block.text.strip()] == []


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_load(block: Block, folder: Path) -> None:
    """Through the loader that the bridge uses, with a backend where they name none; every key is taken."""
    path = folder / "bridge.toml"
    path.write_text(block.text.replace(FOLDER, str(folder)))
    shown = read_toml(path)
    if "keys" in shown:
        path.write_text(block.text)
        (profile,) = load_profiles((str(path),))
        assert {rule.key for rule in profile.keys} == set(shown["keys"])
        assert set(profile.headers) == set(shown["headers"])
        return
    if "exporters" not in shown:
        path.write_text(path.read_text() + BACKEND)
    loaded = load(path, {})
    assert loaded.warnings == ()
    assert set(shown) <= {key.partition(".")[0] for key in loaded.origins}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_collector_exporters_have_keys_a_collector_knows(block: Block) -> None:
    """Exporters of OTLP, and settings of theirs."""
    shown = yaml.safe_load(block.text)
    assert set(shown) == {"exporters"}
    for name, exporter in shown["exporters"].items():
        assert name.partition("/")[0] in OTLP_EXPORTERS
        assert unknown(exporter, COLLECTOR_EXPORTER) == []
        assert ":" in exporter["endpoint"]


def unknown(shown: dict[str, Any], known: dict[str, Any], path: str = "") -> list[str]:
    """Keys nobody knows, and values of another type."""
    found = []
    for key, value in shown.items():
        want = known.get(key)
        if want is None:
            found.append(f"{path}{key}")
        elif isinstance(want, dict):
            found += unknown(value, want, f"{path}{key}.")
        elif not isinstance(value, want):
            found.append(f"{path}{key} = {value!r}")
    return found


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_requests_are_json(block: Block) -> None:
    """Of OTLP, with spans in it."""
    (resource,) = json.loads(block.text)["resourceSpans"]
    assert resource["scopeSpans"][0]["spans"]


@pytest.mark.parametrize(("page", "text"), sorted(set(inline_commands("espan-bridge"))))
def test_commands_in_sentences_are_such_as_there_are(page: str, text: str) -> None:
    """Each word that is a command, and each option; alternatives stand between bars."""
    words = text.split()[1:]
    command: click.Command = main
    context = click.Context(main)
    while words and isinstance(command, click.Group):
        names = words.pop(0).replace("\\", "").split("|")
        found = [command.get_command(context, name) for name in names]
        assert None not in found, f"{page}: {text}"
        assert found[0] is not None
        command = found[0]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options, f"{page}: {text}"


@pytest.mark.parametrize(("page", "text"), sorted(set(inline_commands("make"))))
def test_make_targets_in_sentences_are_there(page: str, text: str) -> None:
    """Those of the Makefile."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert text.split()[1] in targets, page
