"""A setting of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.secured import Setting


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    made.issue()
    yield made
    made.provider.shutdown()
