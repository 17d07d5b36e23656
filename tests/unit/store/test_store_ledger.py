"""What may be dropped, and when."""

import numpy as np
import pytest

from bridge.store.ledger import Due, Ledger


def leave(ledger: Ledger, tick: int, left_ns: int, **counts: int) -> list[int]:
    """Rows of batches leave: `b3=2` means two rows of batch 3."""
    numbers = np.array([int(name[1:]) for name in counts], np.int64)
    return ledger.left(tick, left_ns, numbers, np.array(list(counts.values()), np.int64))


def drop(ledger: Ledger, before_ns: int) -> Due:
    """Forget what is due, as a store does it."""
    due = ledger.due(before_ns)
    ledger.dropped(due)
    return due


def test_payload_is_passed_once_whole_and_delivered() -> None:
    """A batch is reported once: when its last row has left and the last cursor has passed that tick."""
    ledger = Ledger(cursors={"a": 0, "b": 0})
    assert ledger.appended(1, 3) == []
    assert leave(ledger, 1, 10, b1=2) == []
    assert ledger.moved({"a": 1, "b": 1}) == []
    assert leave(ledger, 2, 20, b1=1) == []
    assert ledger.moved({"a": 2, "b": 1}) == []
    assert ledger.moved({"a": 2, "b": 2}) == [1]
    assert ledger.moved({"a": 2, "b": 2}) == []


def test_payload_is_asked_for_again_while_rows_leave_later() -> None:
    """Rows wait, or have left in a later tick than the one that is read; of a batch that is not stored none do."""
    ledger = Ledger(cursors={"a": 0})
    ledger.appended(1, 3)
    assert ledger.is_asked_for_after(1, 0)
    leave(ledger, 1, 10, b1=2)
    assert ledger.is_asked_for_after(1, 1)
    leave(ledger, 2, 20, b1=1)
    assert ledger.is_asked_for_after(1, 1)
    assert not ledger.is_asked_for_after(1, 2)
    assert not ledger.is_asked_for_after(7, 0)


def test_without_exporters_whole_batches_are_passed() -> None:
    """Nobody to wait for."""
    ledger = Ledger()
    ledger.appended(1, 1)
    assert leave(ledger, 1, 10, b1=1) == [1]


def test_empty_batch_is_due_at_once() -> None:
    """A batch without rows waits for nothing."""
    ledger = Ledger(cursors={"a": 0})
    assert ledger.appended(1, 0) == [1]
    assert drop(ledger, 0) == Due([1], [1], [])
    assert ledger.batches == []


def test_due_changes_nothing() -> None:
    """A transaction that failed is tried again with the same numbers."""
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.appended(number, 1)
        leave(ledger, number, number * 10, **{f"b{number}": 1})
    drop(ledger, 0)
    assert ledger.due(25) == ledger.due(25)
    assert sorted(ledger.due(25).batches) == [1, 2]


def test_keys_go_by_the_time_the_last_row_left() -> None:
    """Strictly before the limit, whatever the order of numbers; the payload goes first, alone if need be."""
    ledger = Ledger()
    for number in (1, 2):
        ledger.appended(number, 1)
    leave(ledger, 1, 100, b2=1)
    leave(ledger, 2, 50, b1=1)  # the clock went back
    assert drop(ledger, 50) == Due([2, 1], [], [])
    assert drop(ledger, 51) == Due([], [1], [2])
    assert drop(ledger, 100) == Due([], [], [])
    assert drop(ledger, 101) == Due([], [2], [1])


def test_batch_is_as_old_as_the_latest_time_a_row_left() -> None:
    """Also when the clock went back between two ticks."""
    ledger = Ledger()
    ledger.appended(1, 2)
    leave(ledger, 1, 100, b1=1)
    leave(ledger, 2, 50, b1=1)
    assert drop(ledger, 100).batches == []
    assert drop(ledger, 101).batches == [1]


def test_passed_and_aged_batches_go_together() -> None:
    """One call may drop payload and keys of some batches and only the keys of others."""
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.appended(number, 1)
    leave(ledger, 1, 10, b1=1)
    drop(ledger, 0)
    leave(ledger, 2, 20, b2=1)
    leave(ledger, 3, 90, b3=1)
    due = drop(ledger, 50)
    assert (due.payloads, sorted(due.batches), sorted(due.ticks)) == ([2, 3], [1, 2], [1, 2])
    assert ledger.batches == [3]
    assert drop(ledger, 91) == Due([], [3], [3])


def test_tick_goes_with_the_last_batch_it_mentions() -> None:
    """Decisions are kept as long as any batch needs them."""
    ledger = Ledger()
    ledger.appended(1, 1)
    ledger.appended(2, 2)
    leave(ledger, 1, 10, b1=1, b2=1)
    leave(ledger, 2, 60, b2=1)
    assert drop(ledger, 50).ticks == []
    assert ledger.has_tick(1)
    assert sorted(drop(ledger, 70).ticks) == [1, 2]
    assert not ledger.has_tick(1)


def test_empty_tick_goes_once_delivered_and_old() -> None:
    """A tick in which nothing left is there for cursors only."""
    ledger = Ledger(cursors={"a": 0})
    leave(ledger, 1, 10)
    assert drop(ledger, 99).ticks == []
    ledger.moved({"a": 1})
    assert drop(ledger, 10).ticks == []
    assert drop(ledger, 11).ticks == [1]
    assert ledger.next_tick(0) is None


def test_next_tick_jumps_over_gaps() -> None:
    """Numbers of ticks need not be dense."""
    ledger = Ledger(cursors={"a": 0})
    for tick in (1, 4, 9):
        leave(ledger, tick, 10)
    assert [ledger.next_tick(after) for after in (0, 1, 3, 4, 8, 9)] == [1, 4, 4, 9, 9, None]


def test_check_names_what_is_wrong() -> None:
    """Unknown batches, and more rows than wait."""
    ledger = Ledger()
    ledger.appended(1, 2)
    ledger.check(np.array([1]), np.array([2]))
    leave(ledger, 1, 1, b1=1)
    with pytest.raises(ValueError, match="batch 1 would leave, which has 1 waiting rows"):
        ledger.check(np.array([1]), np.array([2]))
    with pytest.raises(ValueError, match="batch 2 would leave, which is not stored"):
        ledger.check(np.array([2]), np.array([1]))
