"""What goes wrong with the store's disk, and with clocks, under load: the short form of tests/torture/disk.py."""

from pathlib import Path

import pytest

from tests.support.faults import NoCompiler
from tests.support.small_disk import NotPermitted
from tests.torture.disk import play


@pytest.mark.parametrize("name", ["disk_full", "refusals", "broken_under_it", "clock_jumps"])
async def test_the_service_resumes_by_itself_and_nothing_acknowledged_is_lost(tmp_path: Path, name: str) -> None:
    """Senders are told to come again, and why; /readyz says so; the log says so once; then it goes on."""
    try:
        print(await play(name, tmp_path))
    except (NotPermitted, NoCompiler) as exc:
        pytest.skip(str(exc))
