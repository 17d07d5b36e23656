"""How long a failed delivery waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exporters import RetryPolicy

MIDDLE = 0.5


@pytest.mark.parametrize(("attempt", "wait_s"), [(1, 5.0), (2, 7.5), (3, 11.25), (6, 30.0), (10**6, 30.0)])
def test_backoff_grows_up_to_its_maximum(attempt: int, wait_s: float) -> None:
    """5 s, x1.5 each time, never over 30 s; however often it was tried."""
    assert RetryPolicy().wait_s(attempt, None, MIDDLE) == wait_s


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_jitter_stays_in_its_bounds(attempt: int, spread: float) -> None:
    """The wait lies within half and one and a half times the backoff."""
    backoff = RetryPolicy(jitter=0).wait_s(attempt, None, spread)
    assert 0.5 * backoff <= RetryPolicy(jitter=0.5).wait_s(attempt, None, spread) <= 1.5 * backoff


@given(st.floats(0.001, 3600), st.floats(0, 1, exclude_max=True))
def test_backends_time_is_honoured(retry_after_s: float, spread: float) -> None:
    """Never earlier than the backend said, and at most a tenth later, whatever the backoff is."""
    wait_s = RetryPolicy().wait_s(9, retry_after_s, spread)
    assert retry_after_s <= wait_s <= 1.1 * retry_after_s


def test_backend_cannot_silence_an_exporter_for_days() -> None:
    """A time far in the future counts as an hour; no time at all as the backoff."""
    assert RetryPolicy().wait_s(1, 1e9, 0.0) == 3600.0
    assert RetryPolicy().wait_s(1, 0.0, MIDDLE) == 5.0
