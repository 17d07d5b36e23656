"""What the store does with the files it finds."""

import logging
import sqlite3
from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.store import SqliteStore
from bridge.store.engines import PAGE_BYTES
from bridge.store.numbers import DATABASE_FILE
from bridge.telemetry import Instruments
from tests.integration.store.conftest import MakeStore
from tests.support.stored import departure_of, random_batch, rows_of


def files_in(folder: Path) -> dict[str, bytes]:
    """Content by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def make_folder(folder: Path, **files: str) -> None:
    """A folder with files of these names (without ending) and contents."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)


async def test_new_file_is_set_up(make_store: MakeStore, folder: Path) -> None:
    """The page size and the log's mode are the ones meant; a clean stop leaves no log behind."""
    async with make_store().running():
        pass
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert sorted(files_in(folder)) == [DATABASE_FILE, "espan.lock"]


@pytest.mark.parametrize("keep", [0, PAGE_BYTES])
async def test_damaged_file_is_set_aside(
    make_store: MakeStore, folder: Path, caplog: pytest.LogCaptureFixture, keep: int
) -> None:
    """A file that is no database, or one whose tables are broken, is renamed, never deleted; an error says so, and the
    bridge starts with a new one."""
    async with make_store().running():
        pass
    path = folder / DATABASE_FILE
    broken = path.read_bytes()[:keep] + b"\xa5" * (path.stat().st_size - keep)
    path.write_bytes(broken)
    store = make_store()
    async with store.running():
        assert await store.append(random_batch(1, 2), 0) == 1
    aside = {name: data for name, data in files_in(folder).items() if name.startswith(f"{DATABASE_FILE}.damaged-")}
    assert list(aside.values()) == [broken]
    assert [(record.levelno, record.set_aside) for record in caplog.records] == [(logging.ERROR, *aside)]


async def test_newer_version_is_refused(make_store: MakeStore, folder: Path) -> None:
    """A file written by a later bridge is left as it is."""
    async with make_store().running():
        pass
    path = folder / DATABASE_FILE
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE espan_store SET version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"newer bridge \(store version 99"):
        async with make_store().running():
            pass
    assert path.read_bytes() == before


async def test_database_of_somebody_else_is_refused(make_store: MakeStore, folder: Path) -> None:
    """An SQLite file with other tables is not touched, not even its journal mode."""
    make_folder(folder)
    path = folder / DATABASE_FILE
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="not one of the bridge's"):
        async with make_store().running():
            pass
    assert path.read_bytes() == before


async def test_foreign_files_are_left_alone(make_store: MakeStore, folder: Path) -> None:
    """Whatever else lies in the folder stays, the reference's own folders included."""
    chunks = folder / "1700000000000000000_20000000000"
    make_folder(chunks, chunk="theirs")
    store = make_store()
    async with store.running():
        await store.append(random_batch(1, 2), 0)
        await store.forget(1 << 60)
    assert files_in(chunks) == {"chunk.txt": b"theirs"}


async def test_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    """The error names the setting and the reason."""
    make_folder(tmp_path / "made", data="a file where a folder should be")
    store = SqliteStore(tmp_path / "made" / "data.txt", instruments=Instruments())
    with pytest.raises(ConfigError, match=r"inputs\.ebpftrace\.db_path: cannot make .*exists"):
        async with store.running():
            pass


async def test_file_that_cannot_be_opened_is_a_config_error(make_store: MakeStore, folder: Path) -> None:
    """A folder in the file's place, for one."""
    make_folder(folder / DATABASE_FILE)
    with pytest.raises(ConfigError, match=r"inputs\.ebpftrace\.db_path: cannot use .*unable to open"):
        async with make_store().running():
            pass


async def test_dropped_rows_give_their_pages_back(make_store: MakeStore, folder: Path) -> None:
    """Appending and forgetting in turn does not make the file grow."""
    store = make_store(payload_cache_bytes=0)
    sizes = []
    async with store.running():
        pages = sqlite3.connect(folder / DATABASE_FILE)
        for round_ in range(8):
            number = await store.append(random_batch(1, 2000), round_)
            await store.commit_tick(departure_of(rows_of((number, 2000))), round_)
            assert await store.forget(1 << 60) == 1
            sizes.append(pages.execute("PRAGMA page_count").fetchone()[0])
        pages.close()
    assert max(sizes[1:]) == sizes[1]


async def test_payload_goes_before_keys(make_store: MakeStore, folder: Path) -> None:
    """What has left and was delivered costs only its keys until these are forgotten too."""

    def rows() -> dict[str, int]:
        with sqlite3.connect(folder / DATABASE_FILE) as connection:
            counts = {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 -- names of ours
                for table in ("batch", "payload", "tick")
            }
        connection.close()
        return counts

    store = make_store()
    async with store.running():
        await store.register(["a"])
        number = await store.append(random_batch(1, 2), 0)
        tick = await store.commit_tick(departure_of(rows_of((number, 2))), 10)
        await store.forget(0)
        assert rows() == {"batch": 1, "payload": 1, "tick": 1}
        await store.advance("a", tick)
        await store.forget(10)
        assert rows() == {"batch": 1, "payload": 0, "tick": 1}
        await store.forget(11)
        assert rows() == {"batch": 0, "payload": 0, "tick": 0}
