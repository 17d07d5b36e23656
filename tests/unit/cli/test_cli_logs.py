"""Logs: one line an event, whatever is in it; fields beside a constant message."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from bridge.telemetry.log_writer import BackgroundHandler
from bridge.telemetry.logs import configure_logging

logger = logging.getLogger("bridge.some.part")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """pytest's own handlers come back."""
    root, ours = logging.getLogger(), logging.getLogger("bridge")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_json_lines_have_time_level_logger_message_and_fields() -> None:
    """Fields stand beside the message under their own names, numbers stay numbers."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    logger.info("ready", extra={"otlp_grpc": "localhost:4317", "spans": np.int64(5), "exporters": ["a"], "level": "x"})
    event = json.loads(stream.getvalue())
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "info",
        "logger": "bridge.some.part",
        "message": "ready",
        "otlp_grpc": "localhost:4317",
        "spans": 5,
        "exporters": ["a"],
        "level_": "x",
    }


def test_console_lines_are_words_and_quoted_where_they_must_be() -> None:
    """key=value, quotes only around what is no plain word."""
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    logger.warning("not taken", extra={"exporter": "a", "error": "no answer", "spans": 3, "empty": ""})
    line = stream.getvalue().split(" ", 1)[1]
    assert line == 'WARNING not taken exporter=a error="no answer" spans=3 empty="" (some.part)\n'


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_event_is_one_line_whatever_is_in_it(log_format: str) -> None:
    """Line ends in fields and messages, and tracebacks, are written as escapes."""
    stream = io.StringIO()
    configure_logging("info", log_format, stream)  # type: ignore[arg-type]  # a parameter of the test
    try:
        int("two\nlines")
    except ValueError:
        logger.exception("fell\nover", extra={"text": "a\nb\x1b[0m"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "ValueError: invalid literal" in stream.getvalue()


def test_the_level_is_the_bridges_own() -> None:
    """At debug the bridge speaks, libraries only from warning on; at error they are quiet too."""
    stream = io.StringIO()
    configure_logging("debug", "console", stream)
    logger.debug("ours")
    logging.getLogger("some.library").info("theirs")
    logging.getLogger("some.library").warning("their warning")
    assert "ours" in stream.getvalue()
    assert "their warning" in stream.getvalue()
    assert "theirs" not in stream.getvalue()
    configure_logging("error", "console", stream)
    logging.getLogger("some.library").warning("quiet now")
    assert "quiet now" not in stream.getvalue()


def test_configuring_twice_logs_once() -> None:
    """What was set up before is replaced."""
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", "console", first)
    configure_logging("info", "console", second)
    logger.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_logs_go_to_standard_error() -> None:
    """Standard output is the console exporter's."""
    configure_logging("info", "console")
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, BackgroundHandler)
    assert handler.descriptor == sys.stderr.fileno()
    handler.close()
