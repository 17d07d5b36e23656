"""Lines are written by a thread; a reader that is stuck costs lines, never time."""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator

import pytest

from bridge.telemetry.log_writer import BackgroundHandler

LINE = 100
WAIT_S = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue  # the test has


def logger_to(handler: logging.Handler) -> logging.Logger:
    """A logger with this handler alone."""
    logger = logging.Logger("bridge.test")
    logger.addHandler(handler)
    return logger


def read_until(descriptor: int, text: bytes) -> bytes:
    """What comes out, up to and with this text."""
    found = b""
    while text not in found:
        found += os.read(descriptor, 1 << 16)
    return found


def log_until_stuck(logger: logging.Logger, handler: BackgroundHandler, line: str) -> int:
    """Log a line until nothing is taken any more, however long the thread has for it; how often."""
    in_a_row = 0
    for rounds in range(1, 500):
        dropped = handler.dropped
        for _ in range(100):
            logger.info(line)
        in_a_row = in_a_row + 1 if handler.dropped == dropped + 100 else 0
        if in_a_row == 5:
            return 100 * rounds
        time.sleep(0.01)
    pytest.fail("lines are still taken")


def test_events_come_out_in_order_and_all_of_them(pipe: tuple[int, int]) -> None:
    """Also those that several threads log at once: each thread's in its order."""
    reader, writer = pipe
    handler = BackgroundHandler(writer)
    logger = logger_to(handler)

    def log(thread: int) -> None:
        for number in range(100):
            logger.info("%d %d", thread, number)

    threads = [threading.Thread(target=log, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close()
    os.close(writer)
    with os.fdopen(os.dup(reader)) as written:
        lines = [tuple(map(int, line.split())) for line in written]
    assert sorted(lines) == [(thread, number) for thread in range(4) for number in range(100)]
    for thread in range(4):
        assert [number for t, number in lines if t == thread] == list(range(100))


def test_nobody_waits_for_a_reader_that_is_stuck_and_what_is_dropped_is_told(pipe: tuple[int, int]) -> None:
    """Lines wait up to a bound; as soon as somebody reads, a line says how many there was no room for."""
    reader, writer = pipe
    handler = BackgroundHandler(writer, max_queued_bytes=20 * LINE)
    handler.setFormatter(logging.Formatter("%(message)s dropped=%(dropped)s", defaults={"dropped": "-"}))
    logger, counted = logger_to(handler), []
    logged = log_until_stuck(logger, handler, "x" * LINE)
    handler.count_dropped_with(counted.append)
    before = handler.dropped
    assert counted == [before]
    logger.info("y" * LINE)
    assert sum(counted) == handler.dropped == before + 1
    found, told = b"", 0
    while told < before + 1:
        found += read_until(reader, b"\n")
        told = sum(map(int, re.findall(rb"nobody read them dropped=(\d+)\n", found)))
    assert told == before + 1
    assert found.count(b"x" * LINE) == logged - before
    logger.info("again")
    assert b"again" in read_until(reader, b"again")
    handler.close()


def test_an_exit_does_not_wait_for_a_reader_that_is_stuck(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flushing and closing come back, and the thread is a daemon."""
    monkeypatch.setattr("bridge.telemetry.log_writer.FLUSH_S", 0.05)
    reader, writer = pipe
    others = set(threading.enumerate())
    handler = BackgroundHandler(writer)
    logger = logger_to(handler)
    for _ in range(2000):
        logger.info("x" * LINE)
    handler.flush()
    handler.close()
    stuck = [thread for thread in threading.enumerate() if thread not in others]
    assert stuck
    assert all(thread.daemon for thread in stuck)
    os.close(reader)  # nobody will ever read: the thread gives up and ends
    for thread in stuck:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_an_event_that_cannot_be_shown_harms_nobody(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is written."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    reader, writer = pipe
    handler = BackgroundHandler(writer)
    logger = logger_to(handler)
    logger.info("%d", "no number")
    logger.info("fine")
    assert read_until(reader, b"fine\n") == b"fine\n"
    handler.close()
