"""What can be told of a store from outside, without its lock and without a change to it."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from bridge.store import tables
from bridge.store.lock import LOCK_FILE
from bridge.store.numbers import OWN, file_of, writers_in


def owner_of(folder: Path) -> int:
    """Process id of the bridge that owns the folder, 0 where none does or that cannot be seen."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # shared, and let go of at once: whoever starts in this very moment waits for it as for any other
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).strip()
        return int(text) if text.isdigit() else 0
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return 0


def files_of(folder: Path) -> list[Path]:
    """The databases of a store that are there."""
    return [path for writer in (OWN, *writers_in(folder)) if (path := file_of(folder, writer)).exists()]


def strangers_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """Databases this bridge could not use, and why: of a newer bridge, or of somebody else.

    What is only in the log of a bridge that was killed is not seen; a start sees it.
    """
    for path in files_of(folder):
        # immutable: SQLite neither locks nor makes a file beside it
        engine = create_engine(f"sqlite:///file:{path.absolute()}?mode=ro&immutable=1&uri=true")
        try:
            with engine.connect() as connection:
                names = inspect(connection).get_table_names()
                if names and tables.store.name not in names:
                    yield path, "a database, but not one of the bridge's"
                    continue
                version = connection.execute(select(tables.store.c.version)).scalar_one_or_none() if names else None
                if version is not None and version > tables.STORE_VERSION:
                    yield path, f"written by a newer bridge (store version {version}, known: {tables.STORE_VERSION})"
        except SQLAlchemyError:
            continue  # damage is a start's to find and to mend
        finally:
            engine.dispose()
