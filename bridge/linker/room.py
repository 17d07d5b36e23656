"""Memory for columns that grows where it is: nothing is copied, and no page is there before it is written to."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Room:
    """An array in memory mapped for it alone, of as many values as there is room for; what was not written is 0."""

    __slots__ = ("_map", "array")

    def __init__(self, capacity: int, dtype: np.dtype[Any]) -> None:
        """Raises MemoryError where the system gives no more."""
        self._map = _mapped(capacity * dtype.itemsize)
        self.array: NDArray[Any] = np.frombuffer(self._map, dtype, capacity)

    def resize(self, capacity: int) -> None:
        """Make room for so many values, no fewer than before: `array` is a new one that begins with those of the old.

        Raises MemoryError where the system gives no more; everything is as it was then.
        """
        dtype, n = self.array.dtype, self.array.size
        self.array = np.empty(0, dtype)  # a map does not move while an array looks at it
        try:
            self._map.resize(max(1, capacity * dtype.itemsize))
        except (BufferError, SystemError):  # somebody else looks at it, or the system cannot move a map
            larger = _mapped(capacity * dtype.itemsize)
            larger[: n * dtype.itemsize] = memoryview(self._map)[: n * dtype.itemsize]
            self._map, n = larger, capacity
        except OSError as exc:
            raise MemoryError(f"no room for {capacity} values of {dtype}") from exc
        else:
            n = capacity
        finally:
            self.array = np.frombuffer(self._map, dtype, n)


def _mapped(nbytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, max(1, nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as exc:
        raise MemoryError(f"no room for {nbytes} bytes") from exc
