"""`espan-bridge` as a process: exit codes, streams, and what it loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = """
import sys
from bridge.cli import main
try:
    main()
finally:
    print(sorted(sys.modules), file=sys.stderr)
"""


def call(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    foreign = {k: v for k, v in os.environ.items() if not k.startswith(("ENV_", "OTEL_"))}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=foreign | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_of_the_sample_succeeds() -> None:
    """python -m bridge is espan-bridge; conf/bridge.toml can be used as it is."""
    done = call("-m", "bridge", "check", "--settings-only", "--config", "conf/bridge.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'endpoint = "http://localhost:14317"' in done.stdout


def test_check_says_what_memory_comes_to_and_where_it_is_too_little(tmp_path: Path) -> None:
    """Before anything is started."""
    check = ("-m", "bridge", "check", "--settings-only", "--config", str(tmp_path / "bridge.toml"))
    backend = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:4317"}
    (tmp_path / "bridge.toml").write_text('memory_limit = "1GiB"\n')
    done = call(*check, **backend)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("# In memory_limit = 1024 MiB fit ")
    (tmp_path / "bridge.toml").write_text('memory_limit = "100MiB"\n')
    done = call(*check, **backend)
    assert done.returncode == 2
    assert "memory_limit = 104857600: too little" in done.stderr


def test_check_of_the_image_needs_a_backend_from_the_environment() -> None:
    """conf/docker.toml names none, and says so."""
    check = ("-m", "bridge", "check", "--settings-only", "--config", "conf/docker.toml")
    assert call(*check, OTEL_EXPORTER_OTLP_ENDPOINT="http://backend:4317").returncode == 0
    done = call(*check)
    assert done.returncode == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in done.stderr


def test_without_a_file_the_environment_is_enough() -> None:
    """As in a container that only has variables."""
    done = call("-m", "bridge", "check", "--settings-only", OTEL_EXPORTER_OTLP_ENDPOINT="http://backend:4317")
    assert done.returncode == 0
    assert "[exporters.otlp]" in done.stdout


def test_run_with_wrong_settings_loads_nothing_that_could_open_a_socket(tmp_path: Path) -> None:
    """Exit code 2 and the mistakes, before the pipeline is even imported."""
    config = tmp_path / "bridge.toml"
    config.write_text("[exporters.a]\ntype = 'otlp_grpc'\nendpoint = 'http://localhost:4317'\n")
    done = call("-c", MODULES, "run", "--config", str(config))
    assert done.returncode == 2
    assert "this is the bridge itself" in done.stderr
    assert not any(f"'{module}'" in done.stderr for module in ("bridge.pipeline", "grpc", "aiohttp"))


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_loads_no_part_of_the_bridge(arguments: tuple[str, ...]) -> None:
    """It answers at once."""
    done = call("-c", MODULES, *arguments)
    assert done.returncode == 0
    assert not any(f"'{m}'" in done.stderr for m in ("pydantic", "numpy", "anyio", "grpc", "bridge.config"))
