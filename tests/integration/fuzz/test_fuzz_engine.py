"""The fuzzer itself: it tries inputs, says how many, and keeps the one that fails."""

import random
from pathlib import Path

import pytest

from bridge.errors import InvalidData
from tests.fuzz import __main__ as fuzz
from tests.fuzz import engine, targets
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import Target


def test_a_target_is_run_in_a_process_of_its_own() -> None:
    """And its inputs are counted."""
    code, inputs, said = fuzz.run("headers", 1, by_chance=True)
    assert code == 0, said
    assert inputs > 10


def test_an_input_that_fails_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that a sender is told of do not end the search; any other does, and its input is there afterwards."""

    def serve(data: bytes) -> None:
        if len(data) % 2:
            raise InvalidData("odd")
        if b"\xff" in data:
            raise RuntimeError("a defect")

    monkeypatch.setattr(targets, "TARGETS", {"planted": Target(serve, lambda: [b"some bytes"])})
    monkeypatch.setattr("tests.fuzz.trying.bound_memory", lambda: None)
    (tmp_path / "crashes").mkdir()
    with pytest.raises(RuntimeError, match="a defect"):
        engine.by_chance("planted", 60, tmp_path)
    (kept,) = (tmp_path / "crashes").iterdir()
    assert kept.name.startswith("planted-")
    with pytest.raises(RuntimeError, match="a defect"):
        serve(kept.read_bytes())


def test_changes_reach_every_kind_of_input() -> None:
    """Longer, shorter, parts of others, words; an empty seed is changed as well."""
    draw, pool = random.Random(7), [b"abc" * 20, b""]
    made = {mutated(pool[i % 2], pool, [b"word"], draw) for i in range(3000)}
    assert any(len(data) > 60 for data in made)
    assert any(0 < len(data) < 60 for data in made)
    assert any(b"word" in data for data in made)
