"""`espan-bridge outbox`: what exporters have not delivered, and what is to become of it."""

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import click

from bridge.component import Outboxes, OutboxStatus
from bridge.config import load
from bridge.config.units import Unreadable, format_duration, parse_duration
from bridge.errors import ConfigError, StoreUnavailable
from bridge.web.control import ControlClient, NotRunning

Result = TypeVar("Result")

COLUMNS = ("exporter", "spans", "ticks", "bytes", "oldest", "next attempt", "last error")
_STEPS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which bridge is meant."""
    for option in (
        click.option(
            "--db-path",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Folder of the store; without it that of the settings.",
        ),
        click.option(
            "--config",
            "paths",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="FILE",
            help="Settings of the bridge, as for run.",
        ),
    ):
        command = option(command)
    return command


@click.group("outbox", short_help="See and decide what becomes of undelivered spans.")
def outbox_command() -> None:
    """What exporters have not delivered: see it, have it tried again, or give it up.

    Works on a bridge that runs, through the socket espan.sock in its db_path, which only its own user (and root) may
    open, and on the store of one that does not.

    \b
    Examples:
      espan-bridge outbox list --config conf/bridge.toml
      espan-bridge outbox retry --config conf/bridge.toml
      espan-bridge outbox drop --exporter backend --older-than 6h --config conf/bridge.toml
    """


@outbox_command.command("list", short_help="Show what each exporter has not delivered.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list with one object for each exporter.")
@_where
def list_command(as_json: bool, paths: tuple[Path, ...], db_path: Path | None) -> None:
    """Show what each exporter has not delivered.

    That is spans, the ticks (transactions) they left in, and about how many bytes they take in the store; how long ago
    the oldest left; when the backend is asked again, and what it said last.

    \b
    Examples:
      espan-bridge outbox list --config conf/bridge.toml
      espan-bridge outbox list --db-path /var/lib/espan --json | jq '.[].spans'
    """
    status, _ = _do(paths, db_path, lambda outboxes: outboxes.status())
    if as_json:
        click.echo(json.dumps([asdict(one) for one in status], indent=2))
    else:
        click.echo(_table(status), nl=False)


@outbox_command.command("retry", short_help="Try again now what waits to be tried again.")
@click.option("--exporter", metavar="NAME", help="Only this one; without it all.")
@_where
def retry_command(exporter: str | None, paths: tuple[Path, ...], db_path: Path | None) -> None:
    """End the waits between attempts now, also those a backend asked for; what fails again waits again.

    \b
    Examples:
      espan-bridge outbox retry --config conf/bridge.toml
      espan-bridge outbox retry --exporter backend --config conf/bridge.toml
    """
    names, runs = _do(paths, db_path, lambda outboxes: outboxes.retry(exporter))
    if runs:
        click.echo(f"tried again now: {', '.join(names) or 'no exporter'}")
    else:
        click.echo("no bridge is running here: the next start tries at once", err=True)


@outbox_command.command("drop", short_help="Give up what an exporter has not delivered.")
@click.option("--exporter", required=True, metavar="NAME", help="Whose.")
@click.option("--older-than", metavar="DURATION", help='Only what left longer ago than this, such as "6h".')
@click.option("--all", "everything", is_flag=True, help="Everything it has not delivered.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_where
def drop_command(
    exporter: str, older_than: str | None, everything: bool, yes: bool, paths: tuple[Path, ...], db_path: Path | None
) -> None:
    """Give up spans an exporter has not delivered: it never will. Others are not concerned.

    The bridge counts them in exporter_send_failed_spans_total by reason operator. What is on its way to the backend is
    waited for, and not given up if it is taken.

    \b
    Examples:
      espan-bridge outbox drop --exporter backend --older-than 6h --config conf/bridge.toml
      espan-bridge outbox drop --exporter backend --all --yes --config conf/bridge.toml
    """
    if everything == (older_than is not None):
        raise click.UsageError("say what to give up: --older-than DURATION, or --all")
    older_than_s = None if older_than is None else _seconds(older_than)
    what = "everything" if older_than is None else f"what left more than {older_than} ago and"
    if not yes:
        click.confirm(f"Give up {what} {exporter} has not delivered? It is lost then", abort=True)
    spans, _ = _do(paths, db_path, lambda outboxes: outboxes.drop(exporter, older_than_s))
    click.echo(f"{exporter}: {spans} spans given up")


def _seconds(text: str) -> float:
    try:
        return parse_duration(text) / 1e9
    except Unreadable as exc:
        raise click.UsageError(f"--older-than: {exc}") from exc


def _do(
    paths: Sequence[Path], db_path: Path | None, what: Callable[[Outboxes], Awaitable[Result]]
) -> tuple[Result, bool]:
    """What the outboxes answer, and whether the bridge runs."""
    folder = db_path or load(paths, os.environ).settings.ebpftrace.db_path
    try:
        return anyio.run(partial(_ask, folder, what))
    except BaseExceptionGroup as group:
        if (known := group.split((ConfigError, StoreUnavailable, LookupError))[0]) is None:
            raise
        raise _told(_first(known)) from None
    except (ConfigError, StoreUnavailable, LookupError) as exc:
        raise _told(exc) from None


def _told(exc: BaseException) -> Exception:
    if isinstance(exc, ConfigError):
        return exc
    text = f"no exporter of this name: {exc.args[0]}" if isinstance(exc, LookupError) else str(exc)
    return click.ClickException(text)


def _first(exc: BaseException) -> BaseException:
    return _first(exc.exceptions[0]) if isinstance(exc, BaseExceptionGroup) else exc


async def _ask(folder: Path, what: Callable[[Outboxes], Awaitable[Result]]) -> tuple[Result, bool]:
    try:
        return await what(ControlClient(folder)), True
    except NotRunning:
        async with _stopped(folder) as outboxes:
            return await what(outboxes), False


@asynccontextmanager
async def _stopped(folder: Path) -> AsyncIterator[Outboxes]:
    # imported here: it takes a while, which an operator of a running bridge need not wait for
    from bridge.pipeline.outboxes import StoppedOutboxes
    from bridge.store import SqliteStore
    from bridge.telemetry import Instruments

    store = SqliteStore(folder, lock_wait_s=0, instruments=Instruments())
    async with store.examined():
        yield StoppedOutboxes(store)


def _table(status: Sequence[OutboxStatus]) -> str:
    rows = [COLUMNS, *(_row(one) for one in status)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _row(status: OutboxStatus) -> tuple[str, ...]:
    return (
        status.exporter,
        str(status.spans),
        str(status.ticks),
        _size(status.bytes),
        "-" if status.oldest_age_s is None else f"{_time(status.oldest_age_s)} ago",
        "-" if status.next_attempt_s is None else f"in {_time(status.next_attempt_s)}",
        status.last_error or "-",
    )


def _time(seconds: float) -> str:
    return format_duration(round(seconds) * 10**9)


def _size(size: int) -> str:
    return next((f"{size / step:.1f} {unit}" for step, unit in _STEPS if size >= step), f"{size} B")
