"""What is imported for good is not searched for garbage, and everything else is."""

import gc
from collections.abc import Iterator

import pytest

from bridge.loading import for_good


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    searching = gc.isenabled()
    yield
    gc.unfreeze()
    if searching:
        gc.enable()


def test_nothing_is_searched_meanwhile_and_what_was_made_never() -> None:
    """Until it is over, however it ends."""
    gc.enable()
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), for_good():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(made)


def test_who_searches_for_no_garbage_still_does_not() -> None:
    """Where it was turned off before."""
    gc.disable()
    with for_good():
        pass
    assert not gc.isenabled()
