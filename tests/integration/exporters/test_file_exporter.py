"""The file exporter on a real file system."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

import anyio
import pytest

from bridge.component import Body
from bridge.errors import ConfigError
from bridge.exporters import FileExporter, NotTaken

pytestmark = pytest.mark.anyio


def line(number: int, length: int = 20) -> Body:
    """A line of exactly `length` bytes with its newline."""
    text = json.dumps({"n": number})
    return Body((text[:-1] + " " * (length - len(text) - 1) + "}\n").encode(), 1)


def numbers(path: Path) -> list[int]:
    return [json.loads(text)["n"] for text in path.read_text().splitlines()]


def backups_of(path: Path) -> list[Path]:
    """What was set aside, oldest first."""
    return sorted(path.parent.glob(f"{path.stem}-20*{path.suffix}"))


async def write(exporter: FileExporter, *bodies: Body) -> None:
    async with exporter.running():
        for body in bodies:
            await exporter.deliver(body)


@pytest.mark.parametrize("fsync", [False, True])
async def test_delivered_line_is_in_the_file(tmp_path: Path, fsync: bool) -> None:
    """When deliver returns a reader finds the line, while the exporter still runs; folders are made."""
    path = tmp_path / "new" / "traces.jsonl"
    exporter = FileExporter("file", path, fsync=fsync)
    async with exporter.running():
        await exporter.deliver(line(1))
        assert numbers(path) == [1]


async def test_file_is_appended_to(tmp_path: Path) -> None:
    """What an earlier run wrote stays."""
    path = tmp_path / "traces.jsonl"
    await write(FileExporter("file", path), line(1))
    await write(FileExporter("file", path), line(2))
    assert numbers(path) == [1, 2]


@pytest.mark.parametrize("torn", [b'{"n": 3', b"x" * (3 << 20)])
async def test_torn_line_is_cut_off_at_the_start(tmp_path: Path, torn: bytes) -> None:
    """A last line without its newline, of whatever length, is gone before anything is written behind it."""
    path = tmp_path / "traces.jsonl"
    path.write_bytes(line(1).data + torn)
    await write(FileExporter("file", path), line(2))
    assert numbers(path) == [1, 2]


async def test_file_of_one_torn_line_is_emptied(tmp_path: Path) -> None:
    """Without any newline nothing of the file is whole."""
    path = tmp_path / "traces.jsonl"
    path.write_bytes(b'{"n"')
    await write(FileExporter("file", path))
    assert path.read_bytes() == b""


async def test_lines_delivered_at_once_do_not_mix(tmp_path: Path) -> None:
    """Bodies in flight at the same time are each one line."""
    path = tmp_path / "traces.jsonl"
    exporter = FileExporter("file", path)
    async with exporter.running(), anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(exporter.deliver, line(number, 100_000))
    assert sorted(numbers(path)) == list(range(50))


async def test_full_file_is_set_aside_with_its_time(tmp_path: Path) -> None:
    """A line that would not fit begins a new file; the full one keeps its lines under its name and the time."""
    path = tmp_path / "traces.jsonl"
    await write(FileExporter("file", path, max_bytes=50), *(line(n) for n in range(5)))
    backups = backups_of(path)
    assert [numbers(backup) for backup in (*backups, path)] == [[0, 1], [2, 3], [4]]
    assert [datetime.strptime(b.stem, "traces-%Y-%m-%dT%H-%M-%S.%f") for b in backups]


async def test_line_longer_than_the_limit_has_a_file_of_its_own(tmp_path: Path) -> None:
    """A line is never cut: a file holds at least one."""
    path = tmp_path / "traces.jsonl"
    await write(FileExporter("file", path, max_bytes=10), line(1), line(2))
    assert [numbers(p) for p in (*backups_of(path), path)] == [[1], [2]]


async def test_oldest_backups_go(tmp_path: Path) -> None:
    """Of the files set aside the newest `max_backups` stay; other files are left alone."""
    path = tmp_path / "traces.jsonl"
    other = tmp_path / "traces-of-mine.jsonl"
    other.touch()
    await write(FileExporter("file", path, max_bytes=10, max_backups=2), *(line(n) for n in range(6)))
    assert [numbers(backup) for backup in backups_of(path)] == [[3], [4]]
    assert other.exists()


async def test_backups_go_with_age(tmp_path: Path) -> None:
    """At a rotation backups older than `max_age_days` go."""
    path = tmp_path / "traces.jsonl"
    old = tmp_path / "traces-2020-01-01T00-00-00.000.jsonl"
    old.touch()
    os.utime(old, (0, 0))
    await write(FileExporter("file", path, max_bytes=10, max_age_days=1), line(1), line(2))
    assert not old.exists()
    assert len(backups_of(path)) == 1


async def test_write_that_fails_leaves_whole_lines_and_is_retryable(tmp_path: Path) -> None:
    """When the disk refuses part of a line the part is cut off again, and the line can be delivered later."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = tmp_path / "traces.jsonl"
    exporter = FileExporter("file", path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        async with exporter.running():
            await exporter.deliver(line(1, 100))
            resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
            with pytest.raises(NotTaken, match="too large"):
                await exporter.deliver(line(2, 100))
            assert numbers(path) == [1]
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            await exporter.deliver(line(2, 100))
            assert numbers(path) == [1, 2]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


async def test_path_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    """A folder in the file's place ends the start, with the path."""
    with pytest.raises(ConfigError, match=str(tmp_path)):
        await write(FileExporter("file", tmp_path))


@pytest.mark.parametrize("becomes", ["deleted", "moved", "replaced", "folder_gone"])
async def test_a_file_that_somebody_takes_away_is_begun_anew(tmp_path: Path, becomes: str) -> None:
    """As logrotate and people do: what is written after that is in a new file under the name, not in the old one."""
    path = tmp_path / "traces" / "out.jsonl"
    exporter = FileExporter("x", path)
    async with exporter.running():
        await exporter.deliver(Body(b"one\n", 1))
        aside = tmp_path / "aside"
        if becomes == "deleted":
            path.unlink()
        elif becomes == "folder_gone":
            shutil.rmtree(path.parent)
        else:
            path.rename(aside)
        if becomes == "replaced":
            path.write_bytes(b"zero\n")
        await exporter.deliver(Body(b"two\n", 1))
        await exporter.deliver(Body(b"three\n", 1))
    before = b"zero\n" if becomes == "replaced" else b""
    assert path.read_bytes() == before + b"two\nthree\n"
    if aside.exists():
        assert aside.read_bytes() == b"one\n"
