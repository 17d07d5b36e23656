"""A small file system of its own, where a test may mount one, that can be filled and made read-only for real."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

_MIB: Final = 1 << 20
Kind = Literal["tmpfs", "ext4"]


class NotPermitted(Exception):
    """Nothing can be mounted here."""


class SmallDisk:
    """A mounted file system."""

    def __init__(self, path: Path, mib: int) -> None:
        self.path, self.mib = path, mib
        self._ballast = path / "somebody-elses-file"

    @property
    def free_bytes(self) -> int:
        """What is left."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Have another program take everything, but for a rest."""
        with self._ballast.open("ab", buffering=0) as file:
            while (size := min(_MIB, self.free_bytes - leave_bytes)) > 0:
                try:
                    file.write(bytes(size))
                except OSError:
                    return

    def make_room(self) -> None:
        """Have the other program give it back."""
        self._ballast.unlink(missing_ok=True)

    def read_only(self, on: bool) -> None:
        """Remount it; raises CalledProcessError while a file is open for writing on file systems that mind."""
        _run("mount", "-o", f"remount,{'ro' if on else 'rw'}", str(self.path))


@contextmanager
def small_disk(path: Path, mib: int, kind: Kind = "tmpfs") -> Iterator[SmallDisk]:
    """Mount one of this size at `path`, which is made. Raises NotPermitted."""
    path.mkdir()
    image = path.with_name(f"{path.name}.img")
    try:
        if kind == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0777", "tmpfs", str(path))
        else:
            with image.open("wb") as file:
                file.truncate(mib * _MIB)
            _run("mkfs.ext4", "-q", "-m", "0", str(image))
            _run("mount", "-o", "loop", str(image), str(path))
    except (subprocess.CalledProcessError, FileNotFoundError) as exc:
        image.unlink(missing_ok=True)
        raise NotPermitted(f"no {kind} can be mounted here: {exc}") from exc
    try:
        yield SmallDisk(path, mib)
    finally:
        _run("umount", "--lazy", str(path))
        image.unlink(missing_ok=True)


def _run(*command: str) -> None:
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise FileNotFoundError(command[0])
    subprocess.run([program, *command[1:]], check=True, capture_output=True)
