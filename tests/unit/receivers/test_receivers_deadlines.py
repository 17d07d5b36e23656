"""Time limits that share a timer."""

import anyio
import pytest

from bridge.receivers.deadlines import Deadlines

pytestmark = pytest.mark.anyio


async def test_what_is_not_taken_off_is_late_once_and_in_order() -> None:
    """What ended in time is not, whether it was put before or after."""
    late: list[str] = []
    all_late = anyio.Event()

    def note(key: str) -> None:
        late.append(key)
        if key == "last":
            all_late.set()

    deadlines = Deadlines[str](0.01, note)
    for key in ("first", "in time", "second", "last"):
        deadlines.put(key)
    deadlines.take_off("in time")
    with anyio.fail_after(20):
        await all_late.wait()
    deadlines.take_off("first")
    assert late == ["first", "second", "last"]


async def test_a_new_time_begins_after_all_had_ended() -> None:
    """The timer is set again."""
    late = anyio.Event()
    deadlines = Deadlines[str](0.01, lambda _: late.set())
    for key in ("one", "two"):
        deadlines.put(key)
        with anyio.fail_after(20):
            await late.wait()
        late = anyio.Event()


async def test_what_is_put_again_has_a_new_time() -> None:
    """It comes after what was put meanwhile."""
    late: list[str] = []
    all_late = anyio.Event()

    def note(key: str) -> None:
        late.append(key)
        if len(late) == 2:
            all_late.set()

    deadlines = Deadlines[str](0.01, note)
    for key in ("one", "two", "one"):
        deadlines.put(key)
    with anyio.fail_after(20):
        await all_late.wait()
    assert late == ["two", "one"]


async def test_without_a_limit_nothing_is_late() -> None:
    """An infinite time sets no timer."""
    late: list[str] = []
    deadlines = Deadlines[str](float("inf"), late.append)
    deadlines.put("one")
    await anyio.sleep(0.01)
    assert late == []
    assert deadlines._timer is None
