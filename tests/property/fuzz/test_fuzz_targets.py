"""Every decoder takes changed bodies, settings and answers or refuses them as it should: see tests/fuzz."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as fuzz
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.trying import TooSlow, try_input
from tests.support.wire_bytes import Changes, changed, changes

REGRESSIONS = sorted((Path(fuzz.__file__).parent / "regressions").glob("*/*"))
SEEDS_OF = {name: target.seeds() for name, target in TARGETS.items()}
SEEDS = [pytest.param(name, seed, id=f"{name}-{i}") for name in TARGETS for i, seed in enumerate(SEEDS_OF[name])]
BUSY = 5.0
"""How much slower a busy machine may be."""


@pytest.mark.parametrize(("name", "seed"), SEEDS)
def test_what_fuzzing_begins_with_holds(name: str, seed: bytes) -> None:
    """And each seed is either taken or refused."""
    try_input(TARGETS[name], seed, slowness=BUSY)


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_found_stays_mended(path: Path) -> None:
    """Inputs that were a defect once."""
    try_input(TARGETS[path.parent.name], path.read_bytes(), slowness=BUSY)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), how=st.lists(changes, max_size=1), draw=st.randoms(use_true_random=False))
def test_changed_inputs_hold(name: str, data: st.DataObject, how: list[Changes], draw: object) -> None:
    """Bytes changed here and there, and stretches of other inputs: only errors a sender or an operator is told of."""
    seeds = SEEDS_OF[name]
    body = data.draw(st.sampled_from(seeds))
    body = changed(body, how[0]) if how else mutated(body, seeds, [], draw)  # type: ignore[arg-type]
    try_input(TARGETS[name], body, slowness=BUSY)


@pytest.mark.parametrize("name", ["otlp_json", "points_json", "points_pbjson", "line_protocol", "config", "profile"])
@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_anything_holds(name: str, data: bytes) -> None:
    """Whatever a stranger sends, or a disk holds."""
    try_input(TARGETS[name], data, slowness=BUSY)


def test_work_out_of_proportion_is_a_defect() -> None:
    """What the time limit is for."""
    with pytest.raises(TooSlow):
        try_input(Target(lambda _: sum(range(10**6)), list), b"", slowness=1e-9)
