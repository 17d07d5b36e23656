"""The stores the contract is held to. One more implementation is one more place to keep things in, here."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.component import SpanStore
from bridge.store import SqliteStore
from bridge.telemetry import Instruments
from tests.support.sharded_store import ShardedStore
from tests.support.store_model import Disk, ModelStore

MakeStore = Callable[[], SpanStore]


@pytest.fixture(params=["sqlite", "sharded", "model"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Makes a store over what the one before it left."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "data", instruments=Instruments())
    if request.param == "sharded":
        return lambda: ShardedStore(tmp_path / "data", 1)
    disk = Disk()
    return lambda: ModelStore(disk)
