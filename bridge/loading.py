"""Importing the bridge: without looking for garbage in what it makes, and without threads that have nothing to do."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def for_good() -> Iterator[None]:
    """Import inside: modules stay as long as the process, so that they are not searched for garbage now or later.

    The searches are a tenth of what imports take; later ones pass over what was imported. numpy is kept from starting a
    thread for each core, with memory of its own: nothing here multiplies matrices.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if searching:
            gc.enable()
