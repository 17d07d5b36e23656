"""Which process listens at a port, as far as Linux tells this user; elsewhere nobody is known."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_LISTENING = "0A"
MAX_COMMAND = 60


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, and how it was started."""

    pid: int
    command: str


def holder_of(port: int) -> Holder | None:
    """Who listens at the port; None where that cannot be seen."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    for pid in _pids():
        if sockets and not sockets.isdisjoint(_descriptors(pid)):
            return Holder(pid, _command(pid))
    return None


def belongs_to(pid: int, owner: int) -> bool:
    """Whether it is this process or one that it started."""
    return owner in (pid, _parent(pid))


def _inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        for line in _text(PROC / "net" / table).splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _pids() -> list[int]:
    try:
        return [int(path.name) for path in PROC.iterdir() if path.name.isdecimal()]
    except OSError:
        return []


def _descriptors(pid: int) -> Iterator[str]:
    folder = PROC / str(pid) / "fd"
    try:
        links = list(folder.iterdir())
    except OSError:  # another user's, or gone
        return
    for link in links:
        try:
            yield str(link.readlink())
        except OSError:
            continue


def _command(pid: int) -> str:
    words = _text(PROC / str(pid) / "cmdline").split("\0")
    names = [os.path.basename(word) for word in words[:3] if word and not word.startswith("-")]  # noqa: PTH119 -- no path
    return " ".join(names)[:MAX_COMMAND] or _text(PROC / str(pid) / "comm").strip()


def _parent(pid: int) -> int:
    status = _text(PROC / str(pid) / "stat").rpartition(")")[2].split()
    return int(status[1]) if len(status) > 1 else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
