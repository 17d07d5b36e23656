"""`espan-bridge check`: what the bridge would run with, where each value came from, and what stands in its way here."""

import os
from pathlib import Path

import click

from bridge.config import load
from bridge.config.listing import listing
from bridge.config.problems import report
from bridge.pipeline.memory import MIB, memory_bounds

NOT_HERE = 1
"""Exit code: the settings are right, but something on this machine or at a backend is not."""


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
@click.option("--no-connect", is_flag=True, help="Connect to no backend.")
@click.option("--settings-only", is_flag=True, help="Look at the settings alone: they are meant for another machine.")
def check_command(paths: tuple[Path, ...], no_connect: bool, settings_only: bool) -> None:
    """Show every setting as the bridge would use it, where it came from, and what stands in its way here.

    "default", "file", or the name of the environment variable stands behind each value. Header values and what is
    secret in URLs are masked. The last line says what memory_limit comes to.

    Then it is tried, within seconds, whether the bridge could start on this machine (ports, the store in db_path, files
    to write) and whether each backend is there and takes a request without spans, shown the exporter's own headers.
    Nothing is kept or changed by that. A bridge that runs already with these settings is no mistake.

    Exit code 0: nothing is wrong. 1: the settings can be used, but not here and now. 2: they cannot be used. Every
    mistake is named on standard error, with its remedy.

    \b
    Examples:
      espan-bridge check --config conf/bridge.toml
      espan-bridge check --config conf/bridge.toml --settings-only
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
    if settings_only:
        return
    # imported here: it takes a while, and mistakes in the settings are told before
    from bridge.cli.surroundings import look_around
    from bridge.pipeline.process import quiet_grpc

    quiet_grpc()
    found = look_around(loaded, connect=not no_connect)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if found.problems:
        click.echo(
            f"espan-bridge: {report(found.problems, 'the settings can be used, but not here and now')}", err=True
        )
        raise SystemExit(NOT_HERE)
