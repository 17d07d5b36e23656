"""The short forms of what `make torture` does to whole bridges; each docstring of tests/torture says what must hold."""

import pytest

from tests.torture import kills, soak, terms
from tests.torture.__main__ import table


def show(name: str, figures: dict[str, object]) -> None:
    print(f"\n{table(name, figures, 0)}")


# in parts: each test has two minutes, on a slow machine too
@pytest.mark.parametrize(("workers", "count"), [(1, 15), (1, 15), (2, 10), (2, 10)])
def test_kill_9_at_random_moments_loses_nothing(workers: int, count: int) -> None:
    """Thirty kills of a bridge of one process, twenty of one with two ingest processes; each part has its own seed."""
    show("kills", kills.run(long=False, options={"KILLS": f"{count}", "WORKERS": f"{workers}"}))


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_hands_over_to_a_successor_that_waits(workers: int) -> None:
    """The successor has the same store and the same ports."""
    show("terms", terms.run(long=False, options={"WORKERS": f"{workers}"}))


def test_a_steady_load_leaves_descriptors_threads_and_the_database_as_they_are() -> None:
    """Half a minute; hours are for `make torture`."""
    show("soak", soak.run(long=False, options={}))
