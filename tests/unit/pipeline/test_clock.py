"""The bridge's clock."""

import time

import pytest

from bridge.pipeline.clock import Clock


def test_it_reads_like_the_wall_clock_of_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jump of the wall clock afterwards does not touch it; it counts on with the monotonic clock."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 50)
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 57)
    assert clock.now_ns() == 1_007
