"""Numbers of batches: which process wrote it in the upper bits, the how-manieth of that process in the lower ones.

The bridge's own process is writer 0, so that a bridge of one process numbers from 1 on. Writers are in the lower
half of what 64 bits with a sign can say, and each has 2**48 numbers: at 10,000 batches a second, for 890 years.
"""

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

WRITER_SHIFT = 48
OWN = 0
"""The bridge's own process."""
DATABASE_FILE = "espan.db"
_FILE = re.compile(r"ingest-([1-9]\d{0,4})\.db")


def writer_of(number: int) -> int:
    """Which process wrote the batch of this number."""
    return number >> WRITER_SHIFT


def before_first(writer: int) -> int:
    """The number below all of this writer's."""
    return writer << WRITER_SHIFT


def by_writer(numbers: Iterable[int]) -> list[tuple[int, list[int]]]:
    """The numbers in order, cut where the writer changes."""
    return [(writer, list(of_one)) for writer, of_one in groupby(numbers, writer_of)]


def file_of(folder: Path, writer: int) -> Path:
    """The database this process alone writes to."""
    return folder / (DATABASE_FILE if writer == OWN else f"ingest-{writer}.db")


def writers_in(folder: Path) -> list[int]:
    """Ingest processes, past ones included, that have a database in the folder, ascending."""
    found = (_FILE.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)
