"""How much timing may look at, from how long linking takes."""

import logging

import pytest

from bridge.pipeline.effort import BURST_S, LEAST, SHARE, Effort

TICK_S = 0.5


class Linker:
    """Ticks of a linker: each takes `fixed_s`, and `whole_s` on top when all effort is made."""

    def __init__(self) -> None:
        self.effort, self.now_s = Effort(0.0), 0.0

    def work(self, seconds: float, whole_s: float, fixed_s: float = 0.01) -> float:
        """Tick until so much time passed; returns the share of it that linking took."""
        began_s, linked_s = self.now_s, 0.0
        while self.now_s - began_s < seconds:
            linking_s = fixed_s + whole_s * self.effort.value
            linked_s += linking_s
            self.now_s += max(TICK_S, linking_s)
            self.effort.note(linking_s, self.now_s)
        return linked_s / (self.now_s - began_s)


def test_a_burst_is_linked_in_full() -> None:
    """As long as a bucket lasts nothing is left out, though linking takes all of the time."""
    linker = Linker()
    linker.work(0.9 * BURST_S / (1 - SHARE), whole_s=TICK_S)
    assert linker.effort.value == 1.0


@pytest.mark.parametrize("times", [1.5, 5, 50])
def test_linking_keeps_to_its_share(times: float) -> None:
    """However much timing would like to do, linking takes about its share, and effort is made to use that."""
    linker = Linker()
    linker.work(200, whole_s=times * TICK_S)
    share = linker.work(200, whole_s=times * TICK_S)
    assert SHARE / 2 < share < 1.2 * SHARE


def test_what_can_be_done_in_time_is_done() -> None:
    """Below its share linking is not cut, and after too much it is whole again."""
    linker = Linker()
    linker.work(1000, whole_s=0.9 * SHARE * TICK_S)
    assert linker.effort.value == 1.0
    linker.work(100, whole_s=10 * TICK_S)
    assert LEAST <= linker.effort.value < 0.3
    linker.work(100, whole_s=0.5 * SHARE * TICK_S)
    assert linker.effort.value == 1.0


def test_rows_alone_do_not_stop_timing_for_good() -> None:
    """Where other work takes all of the time, as after a restart, effort falls to its least and comes back."""
    linker = Linker()
    linker.work(200, whole_s=0.0, fixed_s=TICK_S)
    assert linker.effort.value == LEAST
    linker.work(100, whole_s=0.0)
    assert linker.effort.value == 1.0


def test_it_is_told_once_each_way(caplog: pytest.LogCaptureFixture) -> None:
    """A warning when timing is cut first, and a word when it is whole again."""
    linker = Linker()
    with caplog.at_level(logging.INFO):
        linker.work(50, whole_s=10 * TICK_S)
        linker.work(100, whole_s=0.0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


def test_a_load_that_is_just_too_much_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not each time that effort is whole for a moment."""
    linker = Linker()
    with caplog.at_level(logging.INFO):
        linker.work(1200, whole_s=1.05 * SHARE * TICK_S)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
