"""`espan-bridge check`: what the bridge would run with, and where each value came from."""

import os
from pathlib import Path

import click

from bridge.config import load
from bridge.config.listing import listing
from bridge.pipeline.memory import MIB, memory_bounds


@click.command("check", short_help="Show the effective settings, or what is wrong with them.")
@click.option(
    "--config",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Settings, in TOML; DataKit's own files, too. May be repeated: later files override earlier ones. Without "
    "it: defaults and the environment.",
)
def check_command(paths: tuple[Path, ...]) -> None:
    """Show every setting as the bridge would use it, and where it came from.

    "default", "file", or the name of the environment variable stands behind each value. Header values and what is
    secret in URLs are masked. Nothing is started and no address is tried. Exit code 0 means the settings can be used;
    2 means they cannot, and every mistake is named on standard error. The last line says what memory_limit comes to.

    \b
    Examples:
      espan-bridge check --config conf/bridge.toml
      ENV_INPUT_EBPFTRACE_WINDOW=1m espan-bridge check --config conf/bridge.toml | grep window
    """
    loaded = load(paths, os.environ)
    bounds = memory_bounds(loaded.settings)
    click.echo(listing(loaded), nl=False)
    click.echo(
        f"\n# In memory_limit = {bounds.limit_bytes // MIB} MiB fit {bounds.waiting_spans} spans that wait and as many "
        f"that are remembered, and requests of {bounds.request_bytes // MIB} MiB or {bounds.request_spans} spans."
    )
    for warning in (*loaded.warnings, *loaded.exposed):
        click.echo(f"warning: {warning}", err=True)
