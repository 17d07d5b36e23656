"""The scheduling policy of the process, of its threads and of the processes it makes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.pipeline.process import let_others_finish
from tests.support.bridge_process import Setup, running

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


def knows_policies() -> bool:
    """Whether the system has them, and the C library asks for them: musl's does not."""
    try:
        return hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) >= 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not knows_policies(), reason="this system has no such policies")


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


def policies_of_threads(pid: int) -> list[int]:
    """Of each thread of a process."""
    return [os.sched_getscheduler(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()]


@pytest.mark.anyio
async def test_all_threads_of_a_bridge_and_its_processes_are_scheduled_alike(tmp_path: Path) -> None:
    """The real process, once all of its threads are there."""
    async with running(Setup(tmp_path, workers=2).export_to_file(tmp_path / "out")) as bridge:
        for pid in (bridge.pid, *bridge.workers().values()):
            assert set(policies_of_threads(pid)) == {os.SCHED_BATCH}
            assert len(policies_of_threads(pid)) > 2


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
