"""Faults of disk and clock that no test can have for real: a library loaded before libc (faults.c), and its switches.

`Faults` says what goes wrong in every process that was started with its `variables`, from now on.
"""

import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE = Path(__file__).with_name("faults.c")
_NAMES: Final = ("clock_offset_ns", "sync_delay_us", "write_errno", "sync_errno", "open_errno", "syncs")
_NUMBER: Final = struct.Struct("=q")


class NoCompiler(Exception):
    """There is no C compiler here."""


@dataclass(frozen=True)
class Faults:
    """Nothing is wrong until something is set."""

    variables: Mapping[str, str]
    """Of processes in which the faults are to be."""
    _shared: mmap.mmap

    def set(self, **values: int) -> None:
        """Change some: clock_offset_ns, sync_delay_us, and error numbers for write, sync and open; 0 is none."""
        for name, value in values.items():
            _NUMBER.pack_into(self._shared, _NAMES.index(name) * _NUMBER.size, value)

    @property
    def syncs(self) -> int:
        """How often a file was synced so far."""
        return int(_NUMBER.unpack_from(self._shared, _NAMES.index("syncs") * _NUMBER.size)[0])


@contextmanager
def faults(folder: Path, under: Path) -> Iterator[Faults]:
    """Faults for files below `under`; what is built lies in `folder`. Raises NoCompiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("no C compiler to build tests/support/faults.c with")
    library, shared = folder / "faults.so", folder / "faults"
    if not library.exists():
        command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
    shared.write_bytes(bytes(len(_NAMES) * _NUMBER.size))
    with shared.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        variables = {"LD_PRELOAD": str(library), "FAULTS_FILE": str(shared), "FAULTS_UNDER": f"{under.resolve()}/"}
        yield Faults(variables, mapped)
