"""`espan-bridge run`: the service."""

import logging
import os
from pathlib import Path

import anyio
import click

from bridge.config import load
from bridge.errors import ConfigError
from bridge.telemetry.logs import configure_logging

logger = logging.getLogger("bridge.cli.run")


@click.command("run", short_help="Run the bridge until it is told to stop.")
@click.option(
    "--config",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Settings, in TOML; DataKit's own files, too. May be repeated: later files override earlier ones. Without "
    "it: defaults and the environment.",
)
def run_command(paths: tuple[Path, ...]) -> None:
    """Run the bridge until SIGTERM or SIGINT.

    Settings come from FILE; DataKit's variables (ENV_INPUT_EBPFTRACE_*, ENV_HTTP_LISTEN) override it, and
    OTEL_EXPORTER_OTLP_* and ENV_DATAWAY* variables fill what it leaves out. If anything is wrong with them, nothing is
    started: every mistake is named, and the exit code is 2.

    A stop answers and delivers what is under way, for shutdown_grace at most. What is not delivered by then, or still
    waits for its trace, is kept and leaves after the next start.

    \b
    Examples:
      espan-bridge run --config conf/bridge.toml
      OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:14317 espan-bridge run
      ENV_INPUT_EBPFTRACE_SAMPLING_RATE=1.0 espan-bridge run --config conf/bridge.toml
      espan-bridge run --config datakit.conf --config ebpftrace.conf
    """
    loaded = load(paths, os.environ)
    settings = loaded.settings
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    for warning in loaded.warnings:
        logger.warning("odd setting", extra={"warning": warning})
    # imported here: it takes a while, and mistakes in the settings are told before
    from bridge.pipeline.process import give_memory_back, leaves, raise_descriptor_limit
    from bridge.pipeline.run import serve

    give_memory_back()
    raise_descriptor_limit()
    try:
        anyio.run(serve, settings)
    except ConfigError:
        raise
    except Exception as exc:  # the root of the process: told once, as every other event is
        for error in leaves(exc):
            logger.critical("the bridge failed; what it acknowledged is kept for the next start", exc_info=error)
        raise SystemExit(1) from None
