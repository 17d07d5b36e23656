"""Spans are refused before the disk is full, so that what is stored can leave."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import StoreUnavailable
from bridge.store import SqliteStore
from bridge.store.room import ENOUGH, RESERVE_SHARE, Room
from bridge.telemetry import Instruments
from tests.support.small_disk import NotPermitted, SmallDisk, small_disk
from tests.support.stored import departure_of, random_batch, rows_of

MIB = 1 << 20
DISK_MIB = 32
RESERVE = DISK_MIB * MIB // RESERVE_SHARE


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 32 MiB."""
    try:
        with small_disk(tmp_path / "disk", DISK_MIB) as found:
            yield found
    except NotPermitted as exc:
        pytest.skip(str(exc))


def nothing() -> int:
    return 0


def test_the_reserve_is_kept_with_some_distance_between_stop_and_go(disk: SmallDisk) -> None:
    """Below it nothing is taken, and then not before there is a quarter more; the text says where, and what to do."""
    room = Room(disk.path)
    disk.fill(leave_bytes=RESERVE)
    assert room.lacking(nothing) == ""
    disk.fill(leave_bytes=RESERVE - MIB)
    assert str(disk.path) in room.lacking(nothing)
    assert "make room there" in room.lacking(nothing)
    disk.make_room()
    disk.fill(leave_bytes=int(RESERVE * ENOUGH) - MIB // 2)
    assert room.lacking(nothing)
    disk.make_room()
    disk.fill(leave_bytes=int(RESERVE * ENOUGH))
    assert room.lacking(nothing) == ""


def test_pages_that_are_free_in_the_file_are_room_while_the_log_has_some(disk: SmallDisk) -> None:
    """What left makes room, although the file gives none back."""
    room = Room(disk.path)
    disk.fill(leave_bytes=RESERVE * 3 // 4)
    assert room.lacking(nothing)
    assert room.lacking(lambda: 2 * RESERVE) == ""
    disk.fill(leave_bytes=RESERVE // 4)
    assert room.lacking(lambda: 2 * RESERVE)


async def test_what_is_stored_leaves_while_nothing_is_taken(disk: SmallDisk) -> None:
    """Ticks, cursors and forgetting go on; with room there are new batches again, by themselves."""
    store = SqliteStore(disk.path / "data", instruments=Instruments(), lock_wait_s=0)
    async with store.running():
        await store.register(["a"])
        number = await store.append(random_batch(1, 50), 0)
        disk.fill(leave_bytes=RESERVE - MIB)
        with pytest.raises(StoreUnavailable, match=r"is full: .* make room there"):
            await store.append(random_batch(2, 50), 0)
        assert "is full" in store.unavailable
        tick = await store.commit_tick(departure_of(rows_of((number, 50))), 1)
        await store.advance("a", tick)
        assert await store.forget(2) == 1
        assert "is full" in store.unavailable
        disk.make_room()
        assert await store.append(random_batch(2, 50), 0) == number + 1
        assert store.unavailable == ""
