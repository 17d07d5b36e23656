"""What a broken frame of SQLite's log hides, beside what SQLite itself reads of such a log."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.store.log_check import commits_lost, has_broken_head

COMMITS = 25
HEAD = 32


@pytest.fixture(scope="module", params=[512, 4096, 65536])
def logged(request: pytest.FixtureRequest) -> Iterator[tuple[bytes, bytes]]:
    """A database as it is on the disk, and its log with so many transactions, some of several pages."""
    with TemporaryDirectory() as folder:
        path, draw = Path(folder) / "a.db", Random(request.param)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA page_size = {request.param}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for _ in range(COMMITS):
                connection.execute("INSERT INTO t (b) VALUES (?)", (draw.randbytes(draw.choice([10, 3000, 9000])),))
            yield path.read_bytes(), path.with_name("a.db-wal").read_bytes()


def rows(database: bytes, log: bytes) -> tuple[int, int, bool]:
    """How many transactions SQLite reads, how many are said to be lost, and whether the head is said to be broken."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "b.db"
        beside = path.with_name("b.db-wal")
        path.write_bytes(database)
        beside.write_bytes(log)
        lost, headless = commits_lost(beside), has_broken_head(beside)
        with closing(sqlite3.connect(path)) as connection:
            (read,) = connection.execute("SELECT count(*) FROM t").fetchone()
        return read, lost, headless


def test_a_whole_log_hides_nothing(logged: tuple[bytes, bytes]) -> None:
    """Nor does one that ends in the middle of a frame, or has the rest of an older one behind it."""
    database, log = logged
    assert rows(database, log) == (COMMITS, 0, False)
    assert rows(database, log[:-7])[1:] == (0, False)
    assert rows(database, log + b"\x01" * len(log))[1:] == (0, False)
    assert rows(database, b"") == (0, 0, False)


@given(st.data())
def test_what_sqlite_does_not_read_behind_a_flipped_bit_is_lost(
    logged: tuple[bytes, bytes], data: st.DataObject
) -> None:
    """Wherever it is: in a page, in what a frame says of it, in the head of the log."""
    database, log = logged
    at = data.draw(st.integers(0, HEAD + 200) | st.integers(0, len(log) - 1))
    broken = bytearray(log)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    read, lost, headless = rows(database, bytes(broken))
    assert headless == (at < HEAD)
    assert headless or read + lost in (COMMITS, COMMITS - 1)  # the frame that is broken may have been the one that ends


def test_what_is_no_log_hides_nothing(tmp_path: Path) -> None:
    """Whatever is in it; what is shorter than a head is none."""
    path = tmp_path / "x-wal"
    for content, headless in ((b"", False), (b"x" * 31, False), (b"x" * 4000, True), (bytes(HEAD), True)):
        path.write_bytes(content)
        assert (commits_lost(path), has_broken_head(path)) == (0, headless)
    shutil.rmtree(tmp_path)
