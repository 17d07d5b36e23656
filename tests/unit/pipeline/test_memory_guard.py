"""Senders are pushed back by what memory really is, and let in again; never for good."""

import logging
from dataclasses import dataclass

import pytest

from bridge.errors import Throttled
from bridge.pipeline.memory import MIB
from bridge.pipeline.memory_guard import FEWEST, READ_S, SELDOM_S, STAYS_S, TRICKLE_S, MemoryGuard

LIMIT, WAITING = 1000 * MIB, 10_000


@dataclass
class Machine:
    """Memory and time as a test says they are."""

    mib: int = 100
    now_s: float = 0.0

    def guard(self, max_waiting_spans: int = 2 * WAITING, processes: int = 1) -> MemoryGuard:
        return MemoryGuard(
            LIMIT,
            in_flight_bytes=1000,
            max_waiting_spans=max_waiting_spans,
            may_wait=WAITING,
            processes=processes,
            resident=lambda: self.mib * MIB,
            now_s=lambda: self.now_s,
        )

    def at(self, guard: MemoryGuard, mib: int, *, waiting: int = 0, after_s: float = 1.0) -> None:
        self.mib, self.now_s = mib, self.now_s + after_s
        guard.look(waiting)


def test_at_full_no_more_may_wait_than_do_until_memory_falls() -> None:
    """Between the two thresholds it stays as it is, so that it does not swing."""
    machine = Machine()
    guard = machine.guard()
    machine.at(guard, 840, waiting=5000)
    assert (guard.full, guard.max_waiting_spans) == (False, WAITING)
    machine.at(guard, 850, waiting=6000)
    machine.at(guard, 800, waiting=3000)
    assert (guard.full, guard.max_waiting_spans) == (True, 6000)
    machine.at(guard, 700)
    assert (guard.full, guard.max_waiting_spans) == (False, WAITING)


def test_some_may_wait_however_few_did_when_memory_became_full() -> None:
    """It would be a dead end otherwise."""
    machine = Machine()
    guard = machine.guard()
    machine.at(guard, 900, waiting=0)
    assert guard.max_waiting_spans == FEWEST * WAITING


def test_over_the_limit_nothing_is_let_in_not_even_alone() -> None:
    """Other processes' memory counts; what is inside stays, and room that is given back is there once memory fell."""
    machine = Machine()
    guard = machine.guard()
    guard.take(800, alone=False)
    guard.others_bytes = 400 * MIB
    machine.mib, machine.now_s = 550, 1
    with pytest.raises(Throttled, match=r"950 MiB are in use \(memory_limit = 1000 MiB\)") as caught:
        guard.take(1, alone=True)
    assert (caught.value.reason, caught.value.retry_after_s) == ("memory", 1.0)
    assert guard.pushes_back
    machine.mib, machine.now_s = 100, 100
    guard.take(200, alone=False)
    assert not guard.pushes_back


def test_memory_is_read_again_after_a_moment_only() -> None:
    """A request does not cost a system call."""
    machine = Machine(mib=845, now_s=5)
    guard = machine.guard()
    guard.read()
    machine.mib = 990
    guard.take(1, alone=True)
    machine.now_s += READ_S
    with pytest.raises(Throttled):
        guard.take(1, alone=True)


@pytest.mark.parametrize(
    ("own", "others", "processes", "stays_s"),
    [
        (100, 0, 1, SELDOM_S),  # 750 MiB below "full": three quarters of a second
        (700, 0, 1, 150 / 1024),
        (200, 500, 1, 150 / 1024),
        (200, 500, 3, 150 / 1024 / 3),
        (845, 0, 1, READ_S),
        (860, 0, 1, 60 / 1024),  # "full" is behind it, "over" ahead
        (915, 0, 1, READ_S),
        (950, 0, 1, READ_S),
    ],
)
def test_memory_is_read_before_it_could_reach_the_next_threshold(
    own: int, others: int, processes: int, stays_s: float
) -> None:
    """However fast all processes grow, and no more often than that; from "over" on as often as ever."""
    machine = Machine(mib=own)
    guard = machine.guard(processes=processes)
    guard.others_bytes = others * MIB
    guard.read()
    assert guard.stays_s == pytest.approx(stays_s)
    machine.mib = 0
    machine.now_s += 0.99 * READ_S
    guard.read()
    assert guard.own_bytes == own * MIB
    machine.now_s += stays_s
    guard.read()
    assert guard.own_bytes == 0


def test_listeners_share_what_requests_may_take() -> None:
    """One that is alone at its listener is let in all the same."""
    guard = Machine().guard()
    guard.take(900, alone=False)
    with pytest.raises(Throttled, match="900 bytes of requests are being handled"):
        guard.take(101, alone=False)
    guard.take(101, alone=True)
    guard.give(900)
    guard.take(800, alone=False)


def test_memory_that_stays_over_is_an_error_once_and_lets_requests_trickle_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One at a time and a second apart, since nothing else would ever change it."""
    machine = Machine()
    guard = machine.guard()
    for _ in range(int(STAYS_S) + 5):
        machine.at(guard, 950)
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "memory_limit" in error.message
    guard.take(10, alone=True)
    machine.now_s += TRICKLE_S
    with pytest.raises(Throttled):
        guard.take(10, alone=True)
    guard.give(10)
    guard.take(10, alone=True)
    guard.give(10)
    with pytest.raises(Throttled):
        guard.take(10, alone=True)


@pytest.mark.parametrize(("configured", "reason"), [(WAITING - 1, "throttled"), (WAITING + 1, "memory")])
def test_a_sender_is_told_which_bound_it_met(configured: int, reason: str) -> None:
    """linker.max_waiting_spans where that is the lower one."""
    refusal = Machine().guard(configured).refusal("too many")
    assert refusal.reason == reason
    assert ("linker.max_waiting_spans" in str(refusal)) == (reason == "throttled")
