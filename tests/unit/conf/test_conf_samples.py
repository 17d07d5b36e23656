"""What lies in conf/ can be used as it is, and says what the code does."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bridge.cli import COMMANDS
from bridge.config import load
from bridge.pipeline.memory import CGROUP_SHARE, DEFAULT_LIMIT, MIB
from tests.support.kustomize import render

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"
UNIT = CONF / "espan-bridge.service"
EXPOSURE = 20
ANALYZE_S = 60


def test_the_sample_of_a_linkers_file_loads() -> None:
    """With a Dataway, as it says itself; agents are received."""
    found = load(CONF / "ebpftrace.conf", {"ENV_DATAWAY": "https://h?token=t"})
    assert found.warnings == ()
    assert found.settings.receivers.datakit.enabled
    assert (found.settings.window_ns, found.settings.ebpftrace.sampling_rate) == (20 * 10**9, 0.1)


def test_the_agents_sample_sends_to_the_manifests_service() -> None:
    """It is TOML, and has every option that selects."""
    (ebpf,) = tomllib.loads((CONF / "agent-ebpf.conf").read_text())["inputs"]["ebpf"]
    host, port = ebpf["trace_server"].split(":")
    (service,) = [each for each in render(CONF / "kubernetes" / "datakit") if each["kind"] == "Service"]
    assert host == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert int(port) in {p["port"] for p in service["spec"]["ports"] if p["name"] == "datakit"}
    assert "ebpf-trace" in ebpf["enabled_plugins"]
    assert {key for key in ebpf if key.startswith("trace_")} == {
        "trace_server",
        "trace_all_process",
        "trace_env_list",
        "trace_env_blacklist",
        "trace_name_list",
        "trace_name_blacklist",
    }


@pytest.fixture(scope="module")
def unit() -> configparser.RawConfigParser:
    """The systemd unit; of a key that stands there twice, the last."""
    found = configparser.RawConfigParser(strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(UNIT.read_text())
    return found


def test_the_unit_starts_the_service(unit: configparser.RawConfigParser) -> None:
    """A command there is, with the settings it names; state where the default db_path ends up; and again for as long as
    it takes, whatever the exit code."""
    service = unit["Service"]
    program, command, option, path = shlex.split(service["ExecStart"])
    assert Path(program).name == "espan-bridge"
    assert command in COMMANDS
    assert (option, Path(path).name) == ("--config", "bridge.toml")
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    assert (service["Restart"], service["RestartSec"]) == ("on-failure", "5")
    assert "RestartPreventExitStatus" not in service
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(service["TimeoutStopSec"]) > load(CONF / "bridge.toml", {}).settings.shutdown_grace_s


def test_the_units_memory_is_what_the_default_limit_is_made_of(unit: configparser.RawConfigParser) -> None:
    """The bridge's share of it is the 2 GiB that it would take without any bound."""
    number = unit["Service"]["MemoryMax"].removesuffix("M")
    assert int(CGROUP_SHARE * int(number) * MIB) == DEFAULT_LIMIT


def analyze(tmp_path: Path, *words: str) -> None:
    """Let systemd look at the unit, with a program that is there in the place of the installed one."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE)
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run([tool, *words, str(tmp_path / UNIT.name)], capture_output=True, text=True, timeout=ANALYZE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert UNIT.name not in done.stderr  # what it would ignore: an unknown key, a value it cannot read


def test_systemd_takes_every_line_of_the_unit(tmp_path: Path) -> None:
    """Without a warning."""
    analyze(tmp_path, "verify", "--man=no")


def test_the_unit_exposes_little(tmp_path: Path) -> None:
    """By systemd's own count, of 100: what is left is mostly the network."""
    analyze(tmp_path, "security", "--offline=yes", f"--threshold={EXPOSURE}")
