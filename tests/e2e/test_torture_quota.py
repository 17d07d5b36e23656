"""The short form of tests/torture/quota.py; its docstring says what must hold."""

import pytest

from tests.torture import quota
from tests.torture.__main__ import table


@pytest.mark.parametrize(("workers", "mode"), [(1, "push_back"), (2, "drop_oldest")])
def test_quota_is_kept_and_what_it_costs_is_told(workers: int, mode: str) -> None:
    """64 MiB, filled once; hours are for `make torture`."""
    figures = quota.run(long=False, options={"WORKERS": f"{workers}", "MODES": mode})
    print(f"\n{table('quota', figures, 0)}")
