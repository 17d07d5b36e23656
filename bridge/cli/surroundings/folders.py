"""Folders and files the bridge is to write to."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from bridge.cli.surroundings.naming import name_of
from bridge.config.exporters import FileExporterSettings
from bridge.config.problems import Problem
from bridge.config.settings import Settings
from bridge.store.examining import files_of, strangers_in

DB_PATH = ("inputs", "ebpftrace", "db_path")
MIB = 1 << 20
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
"""Where a file system has no files without a name."""


def store_in_the_way(settings: Settings, origins: Mapping[str, str], owner: int) -> Iterator[Problem]:
    """What would keep the store from being opened; owner: process id of the bridge that owns it, 0 for none."""
    folder = settings.ebpftrace.db_path
    for text in _of_store(folder, settings.store.min_free_bytes, owner):
        yield Problem(name_of(DB_PATH, origins), f' = "{folder}": {text}', (DB_PATH,))


def files_in_the_way(settings: Settings, origins: Mapping[str, str]) -> Iterator[Problem]:
    """File exporters that could not write."""
    for name, exporter in settings.exporters.items():
        if isinstance(exporter, FileExporterSettings):
            where = ("exporters", name, "path")
            if text := _not_writable(exporter.path) if exporter.path.exists() else _no_folder(exporter.path.parent):
                yield Problem(name_of(where, origins), f' = "{exporter.path}": {text}', (where,))


def _of_store(folder: Path, min_free_bytes: int, owner: int) -> Iterator[str]:
    if owner:
        yield f"in use by another bridge (pid {owner}); stop that one, or give each its own folder"
        return
    if text := _no_folder(folder):
        yield text
        return
    usage = shutil.disk_usage(_existing(folder))
    least = min(min_free_bytes, usage.total // 8)
    if usage.total and usage.free < max(least, 1):
        yield (
            f"only {usage.free // MIB} MiB are free there, less than the {least // MIB} MiB that store.min_free_bytes "
            "leaves, so that every sender would be pushed back; make room, or name another folder"
        )
    if folder.is_dir():
        yield from filter(None, map(_not_writable, files_of(folder)))
        for path, text in strangers_in(folder):
            yield f"{path.name} is {text}; name another folder, or start the program that wrote it"


def _no_folder(folder: Path) -> str:
    """Why files cannot be made in it, or it cannot be made itself; "" where they can."""
    nearest = _existing(folder)
    if not nearest.is_dir():
        return f"{nearest} is a file; name a folder"
    return _not_writable(nearest, "folder")


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _not_writable(path: Path, kind: str = "file") -> str:
    if kind == "file" and path.is_dir():
        return f"{path} is a folder; name a file"
    match _errno_of_writing(path, kind):
        case 0:
            return ""
        case errno.EROFS:
            return f"the file system of {path} is mounted read-only; name a {kind} on another"
        case errno.ENOSPC | errno.EDQUOT:
            return f"no room is left for this user at {path}; make room, or name another {kind}"
        case errno.EACCES | errno.EPERM:
            user = os.geteuid()
            return f"user {user} may not write to {path}; `chown {user} {path}` as root lets it, or name another {kind}"
        case other:
            return f"{path} cannot be written: {os.strerror(other)}; name another {kind}"


def _errno_of_writing(path: Path, kind: str) -> int:
    """The error that writing there meets, 0 for none: in a folder to a file without a name, which leaves nothing."""
    mode = os.O_WRONLY | (os.O_APPEND if kind == "file" else os.O_TMPFILE)
    try:
        os.close(os.open(path, mode | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
    except OSError as exc:
        if exc.errno not in _NO_TMPFILE:
            return exc.errno or errno.EIO
        return 0 if os.access(path, os.W_OK | os.X_OK) else errno.EACCES
    return 0
