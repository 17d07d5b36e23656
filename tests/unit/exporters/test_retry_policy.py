"""How long a failed delivery waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exporters import RetryPolicy

SPREADS = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("failures", "wait_s"), [(1, 0.5), (2, 0.75), (3, 1.125), (6, 2.0), (10**6, 2.0)])
def test_backoff_grows_up_to_its_maximum(failures: int, wait_s: float) -> None:
    """0.5 s, x1.5 each time, never over 2 s; however often it was tried."""
    assert RetryPolicy().wait_s(failures, 0.0) == wait_s


@given(st.integers(1, 50), SPREADS)
def test_jitter_only_shortens(failures: int, spread: float) -> None:
    """The wait lies between half the backoff and all of it, so that the maximum is one."""
    backoff = RetryPolicy(jitter=0).wait_s(failures, spread)
    assert 0.5 * backoff <= RetryPolicy(jitter=0.5).wait_s(failures, spread) <= backoff


@given(st.floats(0.001, 3600), SPREADS)
def test_backends_time_is_honoured(retry_after_s: float, spread: float) -> None:
    """Never earlier than the backend said, and at most a tenth later, whatever the backoff is."""
    assert retry_after_s <= RetryPolicy().named_wait_s(retry_after_s, spread) <= 1.1 * retry_after_s


def test_backend_cannot_silence_an_exporter_for_days() -> None:
    """A time far in the future counts as an hour."""
    assert RetryPolicy().named_wait_s(1e9, 0.0) == 3600.0


@pytest.mark.parametrize(("failures", "wait_s"), [(1, 0.5), (2, 1.0), (5, 8.0), (10, 256.0), (11, 300.0), (10**6, 300)])
def test_a_body_alone_is_tried_more_and_more_seldom(failures: int, wait_s: float) -> None:
    """What fails while others are taken must not keep taking their place: its wait doubles up to five minutes."""
    assert RetryPolicy().body_wait_s(failures, 0.0) == wait_s
