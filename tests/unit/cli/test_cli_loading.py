"""What is imported for good is not searched for garbage, and everything else is."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.loading import for_good


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    searching = gc.isenabled()
    yield
    gc.unfreeze()
    if searching:
        gc.enable()


def test_nothing_is_searched_meanwhile_and_what_was_made_never() -> None:
    """Until it is over, however it ends."""
    gc.enable()
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), for_good():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(made)


def test_who_searches_for_no_garbage_still_does_not() -> None:
    """Where it was turned off before."""
    gc.disable()
    with for_good():
        pass
    assert not gc.isenabled()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not list threads")
@pytest.mark.parametrize(("asked", "threads"), [(None, 1), ("2", 2)], ids=["nothing said", "asked for"])
def test_numpy_starts_no_threads_unless_asked(asked: str | None, threads: int) -> None:
    """On a machine of many cores each would take memory, and have nothing to do."""
    if asked and (os.cpu_count() or 1) < threads:
        pytest.skip("one core")
    code = (
        "import os; from bridge.loading import for_good\n"
        "with for_good(): import numpy\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    environment |= {"OPENBLAS_NUM_THREADS": asked} if asked else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == threads
