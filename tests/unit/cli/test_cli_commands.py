"""The command line: help for people, exit codes, and commands that are loaded when they are called."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from bridge import __version__, cli

GOOD = "[exporters.trees]\ntype = 'console'\n"


def call(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, env=environ)


def test_the_version_is_the_packages() -> None:
    """One line, for scripts."""
    assert call("--version").output == f"espan-bridge {__version__}\n"


def test_help_lists_every_command_with_its_purpose_and_examples() -> None:
    """A page for people."""
    result = call("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.output and c.purpose in result.output for name, c in cli.COMMANDS.items())
    assert "espan-bridge check --config conf/bridge.toml" in result.output


@pytest.mark.parametrize("command", ["run", "check"])
def test_help_of_a_command_has_examples(command: str) -> None:
    """Each of them can be copied."""
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    espan-bridge {command} --config conf/bridge.toml" in result.output


def test_a_missing_module_breaks_its_own_command_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest goes on, and help lists it all the same."""
    commands = {**cli.COMMANDS, "gone": cli.Listed("bridge.cli.no_such_module:command", "Not there.")}
    monkeypatch.setattr(cli, "COMMANDS", commands)
    assert "gone" in call("--help").output
    assert call("check", "--help").exit_code == 0
    result = call("gone")
    assert result.exit_code == 1
    assert "gone is not part of this installation" in result.output


def test_every_listed_target_is_a_command_where_its_module_can_be_loaded() -> None:
    """A wrong attribute in the listing fails here."""
    for name in ("run", "check"):
        assert isinstance(cli.main.get_command(click.Context(cli.main), name), click.Command)


def test_check_prints_settings_and_warnings_apart(tmp_path: Path) -> None:
    """Settings on standard output, warnings on standard error, exit code 0."""
    config = tmp_path / "bridge.toml"
    config.write_text(GOOD + "[[inputs.ebpftrace]]\nsqlite_path = 'x'\n")
    result = call("check", "--config", str(config), ENV_INPUT_EBPFTRACE_WINDOW="7s")
    assert result.exit_code == 0
    assert [line.split("# ")[1] for line in result.stdout.splitlines() if line.startswith("window")] == [
        "ENV_INPUT_EBPFTRACE_WINDOW"
    ]
    assert result.stderr.startswith("warning: inputs.ebpftrace.sqlite_path is deprecated")


@pytest.mark.parametrize("command", ["run", "check"])
def test_wrong_settings_end_with_2_and_their_text(command: str, tmp_path: Path) -> None:
    """On standard error, without a traceback."""
    config = tmp_path / "bridge.toml"
    config.write_text(GOOD + "[web]\nprot = 1\n")
    result = call(command, "--config", str(config))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "web.prot = 1: unknown key" in result.stderr
    assert "Traceback" not in result.stderr
