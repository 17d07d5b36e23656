"""What follows from `memory_limit`, and what it is when it is left out."""

from pathlib import Path

import pytest

from bridge.config import Settings
from bridge.errors import ConfigError
from bridge.pipeline import memory
from bridge.pipeline.memory import MIB, cgroup_limit, default_limit, memory_bounds, within_memory

LIMITS = [300 * MIB, 512 * MIB, 2 << 30, 16 << 30]


def settings(limit: int | None, workers: int = 1, **linker: int) -> Settings:
    return Settings.model_validate({"memory_limit": limit, "workers": workers, "linker": linker})


def machine(root: Path, cgroup: str, limits: dict[str, str]) -> Path:
    """Files of a machine whose process is in this control group."""
    for name, text in {"proc/self/cgroup": cgroup, **limits}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_least_limit_of_a_group_and_those_above_it_holds(tmp_path: Path) -> None:
    """Of version 2; a group without a limit says max."""
    top = "sys/fs/cgroup"
    limits = {f"{top}/a/b/memory.max": "max\n", f"{top}/a/memory.max": "1000\n", f"{top}/memory.max": "2000\n"}
    root = machine(tmp_path, "0::/a/b\n", limits)
    assert cgroup_limit(root) == 1000
    assert default_limit(root) == 800


def test_a_container_sees_its_own_limit_at_the_top(tmp_path: Path) -> None:
    """Whatever its path is on the machine; here of version 1, which knows no word for none."""
    file = "sys/fs/cgroup/memory/memory.limit_in_bytes"
    assert cgroup_limit(machine(tmp_path / "a", "9:cpu:/x\n4:memory:/docker/1\n", {file: "5000\n"})) == 5000
    assert cgroup_limit(machine(tmp_path / "b", "4:memory:/\n", {file: "9223372036854771712\n"})) is None


def test_without_a_limit_there_is_a_stated_default(tmp_path: Path) -> None:
    """Also where there are no control groups at all."""
    assert default_limit(tmp_path) == default_limit(machine(tmp_path, "0::/\n", {})) == memory.DEFAULT_LIMIT


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("workers", [1, 2])
def test_everything_at_its_bound_fits_into_the_limit(limit: int, workers: int) -> None:
    """Programs, bodies, rows and ticks, each at its cost."""
    limit += (workers - 1) * 2 * memory.WORKER_BYTES
    bounds = memory_bounds(settings(limit, workers))
    programs = memory.PROGRAM_BYTES + (workers * memory.WORKER_BYTES if workers > 1 else 0)
    bodies = memory.BODY_COST * bounds.in_flight_bytes
    rows = memory.WAITING_COST * bounds.waiting_spans + memory.LEFT_COST * bounds.remembered_spans
    assert bounds.limit_bytes == limit
    assert programs + bodies + rows + bounds.tick_bytes + bounds.page_bytes < limit
    assert 0 < bounds.page_bytes <= memory.PAGE_BYTES
    assert memory.BODY_COST * bounds.request_bytes >= memory.SPAN_COST * bounds.request_spans


def test_bounds_are_lowered_and_never_raised() -> None:
    """What an operator sets lower than memory allows stays; the rest is lowered to what it allows."""
    within = within_memory(settings(300 * MIB, max_retained_spans=1000))
    bounds = memory_bounds(within)
    assert within.linker.max_retained_spans == 1000
    assert within.receivers.otlp_grpc.max_request_bytes == bounds.request_bytes < 64 * MIB
    assert within.receivers.otlp_http.max_in_flight_bytes == bounds.in_flight_bytes
    assert within.receivers.datakit.max_held_requests == bounds.held_requests < 1000
    plenty = within_memory(settings(64 << 30))
    assert plenty.receivers == Settings().receivers
    assert plenty.store == Settings().store


def test_the_default_takes_the_largest_request_of_the_settings() -> None:
    """2 GiB are enough for requests of 64 MiB, and for as many held ones as are asked for."""
    within = within_memory(settings(memory.DEFAULT_LIMIT))
    assert within.receivers.otlp_grpc.max_request_bytes == 64 * MIB
    assert within.receivers.datakit.max_held_requests == 1000


def test_too_little_memory_is_an_error_that_says_how_much_it_takes() -> None:
    """The amount it names is enough."""
    with pytest.raises(ConfigError, match=r'memory_limit = \d+: too little .* allowed: "(\d+)MiB" or more') as caught:
        memory_bounds(settings(100 * MIB, workers=4))
    least = int(str(caught.value).split('"')[1].removesuffix("MiB"))
    assert memory_bounds(settings(least * MIB, workers=4)).waiting_spans > 0


def test_resident_memory_is_that_of_the_process_and_0_for_one_that_is_gone() -> None:
    """A block that is written to shows in it."""
    before = memory.resident_bytes()
    block = bytearray(b"\1") * (32 * MIB)
    assert memory.resident_bytes() - before > 24 * MIB
    assert len(block) == 32 * MIB
    assert memory.resident_bytes(2**22 + 1) == 0
