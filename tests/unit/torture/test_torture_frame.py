"""What `make torture` does with its scenarios."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from tests.torture import __main__ as frame


def scenario(run: Callable[..., object]) -> ModuleType:
    module = ModuleType("a scenario")
    module.run = run  # type: ignore[attr-defined]
    return module


def breaks(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    raise AssertionError("three spans lost")


def keeps(*, long: bool, options: Mapping[str, str]) -> dict[str, object]:
    return {"long": long, **options}


def test_a_broken_promise_is_the_exit_code_and_all_others_are_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Figures are kept of those that kept their promises, beside the figures of scenarios that did not run."""
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"soak": {"figures": {"lost": 0}}}))
    monkeypatch.setattr(frame, "FILE", file)
    monkeypatch.setitem(sys.modules, "tests.torture.kills", scenario(breaks))
    monkeypatch.setitem(sys.modules, "tests.torture.terms", scenario(keeps))
    monkeypatch.setattr(frame, "known", lambda: ["kills", "terms"])
    monkeypatch.setattr(sys, "argv", ["torture", "--only", "kills,terms", "--write", "--", "ROUNDS=3"])
    assert frame.main() == 1
    said = capsys.readouterr().out
    assert "kills: a promise was broken: three spans lost" in said
    assert "broken: kills" in said
    kept = json.loads(file.read_text())
    assert list(kept) == ["terms", "soak"]
    assert kept["terms"]["figures"] == {"long": True, "ROUNDS": "3"}
    assert kept["terms"]["form"] == "long"


def test_every_scenario_is_there() -> None:
    """A module of that name, which can be imported and has `run`."""
    assert set(frame.known()) == set(frame.SCENARIOS)
