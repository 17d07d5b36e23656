"""Memory that grows where it is."""

import numpy as np
import pytest

from bridge.linker.room import Room

U16 = np.dtype(np.uint16)


@pytest.mark.parametrize("before", [1, 1000, 100_000])
@pytest.mark.parametrize("after", [100_000, 3_000_000])
def test_values_stay_and_the_rest_is_zero(before: int, after: int) -> None:
    """What there was room for before stays, what is new is 0."""
    room = Room(before, U16)
    assert room.array.size == before
    assert not room.array.any()
    room.array[:] = np.arange(before) + 1
    room.resize(after)
    assert room.array.size == after
    assert (room.array[:before] == (np.arange(before) + 1).astype(np.uint16)).all()
    assert not room.array[before:].any()


def test_an_array_that_is_still_held_stays_as_it_was() -> None:
    """Whoever looks at the array before it grows looks at the same values afterwards, and at none that come later."""
    room = Room(10, U16)
    room.array[:] = 5
    held = room.array
    room.resize(20)
    room.array[:] = 6
    assert (held == 5).all()
    assert room.array.size == 20


def test_too_much_is_refused_and_changes_nothing() -> None:
    """No more than the address space has."""
    room = Room(10, U16)
    room.array[:] = 5
    with pytest.raises(MemoryError):
        room.resize(1 << 60)
    assert (room.array == 5).all()
    with pytest.raises(MemoryError):
        Room(1 << 60, U16)
