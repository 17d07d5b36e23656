"""The scheduling policy of the process, of its threads and of the processes it makes."""

import errno
import os
import subprocess
import sys

import pytest

from bridge.pipeline.process import let_others_finish

POLICIES = """
import os
import subprocess
import sys
import threading
from bridge.pipeline.process import let_others_finish

let_others_finish()
of = [os.sched_getscheduler(0)]
thread = threading.Thread(target=lambda: of.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
child = "import os; print(os.sched_getscheduler(0))"
of.append(int(subprocess.run([sys.executable, "-c", child], capture_output=True, check=True).stdout))
print(*of)
"""
pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system has no such policies")


def policies(begun_as: int) -> set[int]:
    """Of a process that begins with this policy, one of its threads, and one of its children."""
    done = subprocess.run(
        [sys.executable, "-c", POLICIES],
        preexec_fn=lambda: os.sched_setscheduler(0, begun_as, os.sched_param(0)),
        capture_output=True,
        timeout=60,
        check=True,
    )
    return set(map(int, done.stdout.split()))


def test_threads_that_wake_do_not_interrupt() -> None:
    """Neither those of the process nor those of its children."""
    assert policies(os.SCHED_OTHER) == {os.SCHED_BATCH}


def test_what_somebody_chose_stays() -> None:
    """As `chrt` or a service manager set it."""
    assert policies(os.SCHED_IDLE) == {os.SCHED_IDLE}


@pytest.mark.parametrize("name", ["sched_getscheduler", "sched_setscheduler"])
def test_a_system_that_refuses_stops_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a seccomp filter does, or musl."""
    before = os.sched_getscheduler(0)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, refuse)
        let_others_finish()
    assert os.sched_getscheduler(0) == before
