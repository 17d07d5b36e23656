"""conf/bridge.toml, the documentation and the JSON schema say what the models say."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from bridge.config import load
from bridge.config.catalogue import entries
from bridge.config.listing import listing

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "conf" / "bridge.toml"


def everything_set() -> str:
    """The sample with the settings that are commented out put in."""
    return re.sub(r"^#(?=\S)", "", SAMPLE.read_text(), flags=re.MULTILINE)


def test_the_sample_loads_and_changes_nothing_but_the_exporter() -> None:
    """What is live in it is one exporter; the rest is at its default."""
    loaded = load(SAMPLE, {})
    assert set(loaded.origins) == {"exporters.backend.type", "exporters.backend.endpoint"}
    assert loaded.warnings == ()


def test_what_the_sample_shows_as_defaults_are_the_defaults(tmp_path: Path) -> None:
    """Putting every commented setting in changes no value."""
    path = tmp_path / "bridge.toml"
    path.write_text(everything_set())
    shown, sample = load(path, {}).settings, load(SAMPLE, {}).settings
    assert shown.exporters["backend"] == sample.exporters["backend"]
    assert shown.late_window_ns == sample.late_window_ns
    linker = shown.linker.model_copy(update={"late_window_ns": None})
    assert shown.model_copy(update={"exporters": sample.exporters, "linker": linker}) == sample


def test_the_sample_has_every_key_of_every_table() -> None:
    """A setting that is missing in conf/bridge.toml fails here; those without a default stand in prose."""
    raw = tomllib.loads(re.sub(r"^# (?=[a-z_]+ = )", "", everything_set(), flags=re.MULTILINE))
    raw["inputs"]["ebpftrace"] = raw["inputs"]["ebpftrace"][0]
    by_type = {table["type"]: table for table in raw["exporters"].values()}
    # the sample says that an otlp_http exporter has the other keys of an otlp_grpc one, too
    by_type["otlp_http"] = {**by_type["otlp_grpc"], **by_type["otlp_http"]}
    missing = []
    for entry in entries():
        exporter = entry.path[0] == "exporters"
        table = by_type[entry.path[1]] if exporter else raw
        for key in entry.path[2:] if exporter else entry.path:
            table = table.get(key, missing) if isinstance(table, dict) else missing
        if table is missing:
            missing.append(".".join(entry.path))
    assert missing == []


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_config", ROOT / "schemas" / "generate_config.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["schemas/config.schema.json", "docs/configuration.md"])
def test_generated_documents_are_current(name: str) -> None:
    """After a change of the models: python schemas/generate_config.py."""
    make = generator().OUTPUTS[ROOT / name]
    assert (ROOT / name).read_text() == make(), f"{name} lags behind: run {sys.executable} schemas/generate_config.py"


def test_every_key_is_described() -> None:
    """A sentence each."""
    assert [e.path for e in entries() if not e.description.endswith(".")] == []


def test_the_listing_is_toml_that_loads_to_the_same_settings(tmp_path: Path) -> None:
    """What `check` prints can be used as a file, when no secret is masked in it."""
    loaded = load(SAMPLE, {})
    path = tmp_path / "bridge.toml"
    path.write_text(listing(loaded))
    again = load(path, {}).settings
    linker = again.linker.model_copy(update={"late_window_ns": None})
    assert again.model_copy(update={"linker": linker}) == loaded.settings


def test_the_listing_says_where_values_come_from_and_masks_secrets(tmp_path: Path) -> None:
    """default, file, or the variable; headers and URLs masked."""
    path = tmp_path / "bridge.toml"
    path.write_text(
        "[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'http://u:s3cr3t@h:1'\n"
        "headers = {authorization = 's3cr3t'}\n[[inputs.ebpftrace]]\nwindow = '7s'\n"
    )
    text = listing(load(path, {"ENV_INPUT_EBPFTRACE_SAMPLING_RATE": "0.5"}))
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert {
        'window = "7s" # file',
        'late_window = "21s" # default: 3 windows',
        "sampling_rate = 0.5 # ENV_INPUT_EBPFTRACE_SAMPLING_RATE",
        'db_path = "data" # default',
        'endpoint = "http://***@h:1" # file',
        'authorization = "***" # file',
    } <= lines
    assert "s3cr3t" not in text


def test_every_runtime_dependency_has_its_reason() -> None:
    """docs/decisions/0002-dependencies.md lists what pyproject.toml declares, no more and no less."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[><=;]", d)[0].strip() for d in project["dependencies"]}
    text = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text()
    assert set(re.findall(r"^\| ([a-z][a-z0-9.-]+) \|", text, flags=re.MULTILINE)) - {"dependency"} == declared
