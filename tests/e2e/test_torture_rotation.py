"""The short form of tests/torture/rotation.py; its docstring says what must hold."""

from tests.torture import rotation
from tests.torture.__main__ import table


def test_rotation_fails_no_request() -> None:
    """Twice, the second time with a broken file first; a hundred times in `make torture`."""
    print(f"\n{table('rotation', rotation.run(long=False, options={}), 0)}")
