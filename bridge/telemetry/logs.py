"""The bridge's logs: a constant message, fields given as `extra`, one line an event on standard error.

Nothing here looks into fields for secrets: what is secret is kept out of them where they are made.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from bridge.telemetry.log_writer import BackgroundHandler

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
_HEAD = ("time", "level", "logger", "message")


def configure_logging(
    level: Literal["debug", "info", "warning", "error"],
    log_format: Literal["console", "json"],
    stream: TextIO | None = None,
    fields: Mapping[str, object] | None = None,
) -> None:
    """Send every log event to the stream; replaces what was set up before.

    Without a stream they go to standard error, by a thread that writes them: nobody waits for whoever reads them.
    fields: what every event carries besides its own.

    The level is the bridge's own. Libraries speak from warning on: their details are about them, and many.
    """
    handler = BackgroundHandler(sys.stderr.fileno()) if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    if fields:
        handler.addFilter(_Adding(fields))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        if isinstance(old, BackgroundHandler):
            old.close()
    root.addHandler(handler)
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("bridge").setLevel(LEVELS[level])
    logging.captureWarnings(True)


class _Adding(logging.Filter):
    """Lets every event pass, and adds fields to it."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        super().__init__()
        self._fields = fields

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.update(self._fields)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        head = dict(
            zip(_HEAD, (_time(record), record.levelname.lower(), record.name, record.getMessage()), strict=True)
        )
        fields = {f"{key}_" if key in _HEAD else key: value for key, value in _fields(self, record).items()}
        return json.dumps(head | fields, ensure_ascii=False, default=_plain)


class ConsoleFormatter(logging.Formatter):
    """`time LEVEL message key=value ... (logger)`; values that are no plain words are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_word(value)}" for key, value in _fields(self, record).items())
        message = _one_line(record.getMessage())
        return f"{_time(record)} {record.levelname:<7} {message}{fields} ({record.name.removeprefix('bridge.')})"


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in record.__dict__.items() if key not in _OWN}
    if record.exc_info:
        fields["exception"] = formatter.formatException(record.exc_info)
    if record.stack_info:
        fields["stack"] = formatter.formatStack(record.stack_info)
    return fields


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _word(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    if not isinstance(value, str):
        return text
    plain = text and all(c.isprintable() and c not in ' "=' for c in text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]


def _plain(value: object) -> object:
    """numpy's numbers as Python's, sets as lists, everything else as text."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 1) == 0 else str(value)


def count_dropped_events(add: Callable[[float], object]) -> None:
    """Tell a counter of events that are not written because nobody reads them."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, BackgroundHandler):
            handler.count_dropped_with(add)
