"""`espan-bridge run`: the service."""

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import anyio
import click

from bridge import __version__
from bridge.config import load
from bridge.errors import ConfigError, StoreDamaged
from bridge.loading import for_good
from bridge.telemetry.log_writer import flushed
from bridge.telemetry.logs import configure_logging

logger = logging.getLogger("bridge.cli.run")

STARTED_AGAIN = "ESPAN_BRIDGE_STARTED_AGAIN"
"""How often the process has started again by itself."""
MAX_STARTS = 5
STORE_DAMAGED = 3
"""Exit code: the store turned out damaged more often than a disk that works explains."""


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
    # imported here, as what follows: mistakes in the settings are told before
    from bridge.pipeline.process import (
        give_memory_back,
        keep_no_core_dumps,
        leaves,
        let_others_finish,
        quiet_grpc,
        raise_descriptor_limit,
    )

    give_memory_back()  # both before the log has its thread
    let_others_finish()
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    logger.info("starting", extra={"version": __version__, "config": [str(path) for path in paths], "pid": os.getpid()})
    for warning in loaded.warnings:
        logger.warning("odd setting", extra={"warning": warning})
    for warning in loaded.exposed:
        logger.warning("a listener is open to others", extra={"warning": warning})
    quiet_grpc()
    keep_no_core_dumps()
    with for_good():  # it takes a while
        from bridge.pipeline.run import serve

    raise_descriptor_limit()
    try:
        anyio.run(serve, settings)
    except ConfigError:
        raise
    except StoreDamaged as exc:
        _start_again(str(exc))
    except Exception as exc:  # the root of the process: told once, as every other event is
        for error in leaves(exc):
            logger.critical("the bridge failed; what it acknowledged is kept for the next start", exc_info=error)
        raise SystemExit(1) from None
    finally:
        flushed()


def _start_again(reason: str) -> NoReturn:
    """Become the same program anew, which finds what could be saved of the store; a few times, then end."""
    starts = int(os.environ.get(STARTED_AGAIN, "0")) + 1
    again = starts <= MAX_STARTS
    logger.error(
        "the store is damaged; the bridge starts again with what could be read of it"
        if again
        else "the store is damaged, again and again; the disk should be looked at",
        extra={"reason": reason, "starts": starts},
    )
    flushed()
    if not again:
        raise SystemExit(STORE_DAMAGED)
    # the tasks, connections and processes of this one have ended
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, STARTED_AGAIN: str(starts)})  # noqa: S606
