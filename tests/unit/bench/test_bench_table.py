"""What the bench says about its figures."""

from pathlib import Path

import pytest

from tests.bench import committed
from tests.bench.cases import CASES, RUNS, SHORT_CASES, Case
from tests.bench.load import Load
from tests.bench.run import Figures
from tests.bench.table import Line, table

COST = Case("cost", "run", "cpu_per_million", "CPU-s", goal=5, loops=1)
SPEED = Case("speed", "run", "rate", "spans/s", goal=100, better="more", loops=-1)


def figures(**changes: float) -> Figures:
    """A run without loss that kept up."""
    report = {
        "acknowledged": 1000, "refused": 0, "retries": 0, "requests": 10, "late_s": 0.0, "elapsed_s": 10.0,
        "cpu_s": 1.0, "begun_ns": 0, **changes,
    }  # fmt: skip
    totals = {"distinct": 1000, "copies": 0, "last_ns": 13 * 10**9, "late_p50_s": 2.0, "late_p99_s": 2.5}
    totals |= {key: value for key, value in changes.items() if key in totals}
    load = Load(rate=100, seconds=10, window_s=2)
    return Figures(load=load, report=report, totals=totals, bridge_cpu_s=2.0, peak_mb=100.0, sink_cpu_s=1.0)


def test_every_case_is_read_off_a_run() -> None:
    """And every run is there for a case; names are the keys of the committed file."""
    cases = (*CASES, *SHORT_CASES)
    assert {case.run for case in cases} == set(RUNS)
    assert len({case.name for case in cases}) == len(cases)


def test_machines_are_compared_in_calibration_loops() -> None:
    """A machine of half the speed takes twice the time and does half the work a second: the same, both times."""
    assert COST.normal(10, 0.2) == COST.normal(5, 0.1)
    assert SPEED.normal(100, 0.2) == SPEED.normal(200, 0.1)


@pytest.mark.parametrize(("case", "value", "reached"), [(COST, 5, True), (COST, 6, False), (SPEED, 99, False)])
def test_a_goal_is_a_bound_on_the_right_side(case: Case, value: float, reached: bool) -> None:
    """At most for costs, at least for rates."""
    assert case.reached(value) is reached


def test_the_table_says_how_each_case_did() -> None:
    """Goal, now, committed, ratio in loops; and why a figure is missing or does not count."""
    lines = [
        Line(COST, 10.0, 100.0, 8.0, 50.0, ("a note",)),
        Line(SPEED, None, None, 120.0, 12.0, ("there is no setting",)),
    ]
    _, _, cost, speed = ([cell.strip() for cell in row.split("|")[1:-1]] for row in table(lines).split("\n"))
    assert cost == ["cost", "<= 5", "10", "8", "2.00", "CPU-s", "goal missed; a note"]
    assert speed == ["speed", ">= 100", "-", "120", "-", "spans/s", "there is no setting"]


def test_figures_are_kept_case_by_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured replaces what was, the rest stays; what was not measured, or is no case, is not written."""
    first, second, third = CASES[:3]
    monkeypatch.setattr(committed, "FILE", tmp_path / "figures.json")
    committed.write([Line(first, 1.0, 10.0, None, None, ()), Line(second, 2.0, 20.0, None, None, ())])
    committed.write([
        Line(second, 3.00004, 30.0, None, None, ()), Line(third, None, None, None, None, ()),
        Line(COST, 1.0, 1.0, None, None, ()),
    ])  # fmt: skip
    assert committed.read() == {
        first.name: {"value": 1.0, "normal": 10.0},
        second.name: {"value": 3.0, "normal": 30.0},
    }


@pytest.mark.parametrize(
    "change", [{"refused": 1}, {"late_s": 2.0}, {"distinct": 999}, {"last_ns": 20 * 10**9}], ids=str
)
def test_keeping_up_needs_every_span_taken_and_delivered_in_time(change: dict[str, float]) -> None:
    """Nothing refused, nothing lost, sender and delivery on time."""
    assert figures().kept_up
    assert not figures(**change).kept_up


def test_a_driver_without_room_to_spare_is_told() -> None:
    """It measures itself; lost spans are told, too."""
    assert figures().notes() == []
    assert figures(cpu_s=8.0, distinct=990).notes() == [
        "does not count: generator and sink at 90% of their core",
        "10 LOST",
    ]
