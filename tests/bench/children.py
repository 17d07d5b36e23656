"""Processes of a run: pinned to cores, their output read all the time, ended with the run; every wait has a bound."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ANSWER_S = 60.0
END_S = 60.0
REMEMBERED_LINES = 50


class RunFailed(Exception):
    """A run that says nothing about cost: a process ended, logged an error, or did not answer."""


class Child:
    """A Python module as a process. A thread reads what it writes, so that no full pipe ever stops it."""

    def __init__(self, name: str, command: Sequence[str], cores: set[int]) -> None:
        self.name = name
        self.error = ""
        """The first error it logged (a line of JSON with that level), or the first line of a traceback."""
        self._lines: queue.Queue[str] = queue.Queue()
        self._last: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        os.sched_setaffinity(self._process.pid, cores)  # before it has threads of its own
        self._reader = threading.Thread(target=self._read, name=f"read {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._last.append(line)
            if not self.error and _is_error(line):
                self.error = line.strip()
            self._lines.put(line)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """The last lines it wrote."""
        return "".join(self._last)

    def check(self) -> None:
        """Raise RunFailed if it ended or logged an error."""
        if self.error:
            raise RunFailed(f"{self.name} logged an error: {self.error}")
        if not self.running:
            raise RunFailed(f"{self.name} ended:\n{self.output}")

    def event(self, wanted: str, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The next line of JSON in which this word is, as an object. Raises RunFailed where it does not come."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=min(left_s, 0.2))
            except queue.Empty:
                if not self.running and self._lines.empty() and not self._reader.is_alive():
                    break
                continue
            if wanted in line and line.startswith("{"):
                return dict(json.loads(line))
        raise RunFailed(f"{self.name} never said {wanted!r}:\n{self.output}")

    def ask(self, command: str, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Write a command to its standard input; the object it answers with."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
        except OSError as exc:
            raise RunFailed(f"{self.name} does not listen:\n{self.output}") from exc
        return self.event("{", timeout_s)

    def cpu_s(self) -> float:
        """CPU seconds of the process and its children, all threads; those of children that ended, too."""
        times = [process.cpu_times() for process in self._family()]
        ended = times[0].children_user + times[0].children_system
        return float(sum(t.user + t.system for t in times) + ended)

    def peak_mb(self) -> float:
        """Peak resident memory of the process and its children, each at its own time."""
        return sum(_peak_mb(process.pid) for process in self._family())

    def _family(self) -> list[psutil.Process]:
        self.check()
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def stop(self) -> None:
        """Close its input and ask it to end; kill it where it does not."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_S)
        self._reader.join(END_S)
        self._process.stdin.close()
        self._process.stdout.close()


@contextmanager
def child(name: str, *command: str, cores: set[int]) -> Iterator[Child]:
    """A process that ends with the context."""
    started = Child(name, command, cores)
    try:
        yield started
    finally:
        started.stop()


def _is_error(line: str) -> bool:
    if line.startswith("{"):
        return json.loads(line).get("level") in ("error", "critical")
    return line.startswith("Traceback")


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
