"""The command line: one module a command, loaded when it is called.

A command's module may be missing or broken without harm to the others, and `--help` imports none of them.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from bridge import __version__
from bridge.errors import ConfigError
from bridge.loading import for_good


class Listed(NamedTuple):
    """A command: where it is, and what it is for."""

    target: str
    purpose: str


COMMANDS: Mapping[str, Listed] = {
    "run": Listed("bridge.cli.run:run_command", "Run the bridge until it is told to stop."),
    "check": Listed("bridge.cli.check:check_command", "Show the effective settings, or what is wrong with them."),
    "outbox": Listed("bridge.cli.outbox:outbox_command", "See and decide what becomes of undelivered spans."),
    "link": Listed("bridge.cli.link:link_command", "Link recorded eSpans offline."),
    "simulate": Listed("bridge.cli.simulate:simulate_command", "Send eSpans of a made-up system."),
}
USAGE_ERROR = 2


class Commands(click.Group):
    """A group that knows its commands by name and imports one only to call it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        try:
            with for_good():
                command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as exc:
            raise click.ClickException(f"{cmd_name} is not part of this installation: {exc}") from exc
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, listed.purpose) for name, listed in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as exc:
            click.echo(f"espan-bridge: {exc}", err=True)
            ctx.exit(USAGE_ERROR)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Try it:
  espan-bridge check --config conf/bridge.toml
  espan-bridge run --config conf/bridge.toml
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:14317 espan-bridge run

"espan-bridge COMMAND --help" says more about a command. Every setting: docs/configuration.md.""",
)
@click.version_option(__version__, prog_name="espan-bridge", message="%(prog)s %(version)s")
def main() -> None:
    """The eSpan bridge makes traces out of what eBPF probes see.

    It receives eSpans over OTLP, finds out which request caused which, and sends whole traces to the backends you
    already have. Ordinary spans pass through unchanged.
    """
