"""`espan-bridge run`: the service."""

import logging
import os
from pathlib import Path

import anyio
import click

from bridge.config import load
from bridge.telemetry.logs import configure_logging

logger = logging.getLogger("bridge.cli.run")


@click.command("run", short_help="Run the bridge until it is told to stop.")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings, in TOML. Without it: defaults and the environment.",
)
def run_command(path: Path | None) -> None:
    """Run the bridge until SIGTERM or SIGINT.

    Settings come from FILE; ENV_INPUT_EBPFTRACE_* variables override it, and OTEL_EXPORTER_OTLP_* variables fill what
    it leaves out. If anything is wrong with them, nothing is started: every mistake is named, and the exit code is 2.

    A stop answers and delivers what is under way, for shutdown_grace at most. What is not delivered by then, or still
    waits for its trace, is kept and leaves after the next start.

    \b
    Examples:
      espan-bridge run --config conf/bridge.toml
      OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:14317 espan-bridge run
      ENV_INPUT_EBPFTRACE_SAMPLING_RATE=1.0 espan-bridge run --config conf/bridge.toml
    """
    loaded = load(path, os.environ)
    settings = loaded.settings
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    for warning in loaded.warnings:
        logger.warning("odd setting", extra={"warning": warning})
    # imported here: it takes a while, and mistakes in the settings are told before
    from bridge.pipeline.run import serve

    anyio.run(serve, settings)
