"""Importing the bridge without looking for garbage in what it makes."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def for_good() -> Iterator[None]:
    """Import inside: modules stay as long as the process, so that they are not searched for garbage now or later.

    The searches are a tenth of what imports take; later ones pass over what was imported.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if searching:
            gc.enable()
