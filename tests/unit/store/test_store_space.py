"""When the store takes batches, and when it does not. Numbers alone: nothing is measured here."""

from dataclasses import replace

import pytest

from bridge.errors import Throttled
from bridge.store.shrinking import KEEP_SHARE, surplus
from bridge.store.space import LOG_BYTES, STEP_BYTES, FileSpace, Limits, Space

MIB = 1 << 20
PAGE = 16384
LIMITS = Limits(max_bytes=1024 * MIB)
STEP_MIB, LOG_MIB = 64, 16


def file(used_mib: float, free_mib: float = 0) -> FileSpace:
    """A file with so much in use, and so much in free pages."""
    free = int(free_mib * MIB / PAGE)
    return FileSpace(PAGE, int(used_mib * MIB / PAGE) + free, free)


def refusal(space: Space, waiting_bytes: int = 0) -> Throttled | None:
    """What a batch is told."""
    try:
        space.admit(waiting_bytes)
    except Throttled as exc:
        return exc
    return None


def test_reserve_and_log_are_shares_of_a_small_quota_and_bounded_of_a_large_one() -> None:
    """Ticks have a sixteenth, each log a sixty-fourth; 256 and 64 MiB are enough for any."""
    assert (LIMITS.step_bytes, LIMITS.log_bytes) == (STEP_MIB * MIB, LOG_MIB * MIB)
    large = Limits(max_bytes=1 << 40)
    assert (large.step_bytes, large.log_bytes) == (STEP_BYTES, LOG_BYTES)
    assert Space(LIMITS, files=3).close_bytes == (1024 - STEP_MIB - 3 * LOG_MIB) * MIB


def test_batches_are_refused_from_the_quota_on_until_a_step_is_freed() -> None:
    """Between the two marks what held before holds on; the refusal says which setting, why, and when to come again."""
    space = Space(LIMITS, files=1)
    closes = space.close_bytes / MIB
    answers = []
    for used in (closes - 1, closes, closes - 1, closes - STEP_MIB, closes - STEP_MIB - 1, closes - 1, closes + 1):
        space.measured(file(used))
        answers.append(refusal(space) is None)
    assert answers == [True, False, False, False, True, True, False]
    told = refusal(space)
    assert told is not None
    assert told.reason == "quota"
    assert told.retry_after_s is not None
    assert f"store.max_bytes = {LIMITS.max_bytes}" in str(told)


def test_free_pages_of_a_file_do_not_count() -> None:
    """They are used again before the file grows."""
    space = Space(LIMITS, files=1)
    space.measured(file(10, free_mib=2000))
    assert refusal(space) is None


def test_what_waits_for_its_commit_counts() -> None:
    """Batches of many senders at once cannot run over the quota before it is noticed."""
    space = Space(LIMITS, files=1)
    space.measured(file(space.close_bytes / MIB - 1))
    assert refusal(space, MIB // 2) is None
    assert refusal(space, MIB) is not None
    assert refusal(space) is None


def test_all_files_share_the_quota() -> None:
    """What other processes have in theirs counts as one's own does, and so does what they freed."""
    space = Space(LIMITS, files=3)
    closes = int(space.close_bytes)
    space.measured(file(1))
    space.measured_elsewhere(closes - MIB)
    assert space.used_bytes == closes
    assert refusal(space) is not None
    space.measured_elsewhere(0)
    assert refusal(space) is None


def test_free_pages_count_where_a_file_has_to_grow() -> None:
    """What others' files have free is of no use to this one: all files together stay below the quota."""
    space = Space(LIMITS, files=2)
    closes = int(space.close_bytes)
    space.measured(file(1, free_mib=2))
    space.measured_elsewhere(closes // 2, free_bytes=closes // 2)
    assert refusal(space, MIB) is None
    assert refusal(space, 2 * MIB) is not None


def test_other_processes_are_taken_to_append_as_much() -> None:
    """Between two looks at their files, and of what waits."""
    space = Space(LIMITS, files=3, others=1)
    closes = int(space.close_bytes)
    space.measured(file(10))
    space.measured_elsewhere(closes - 20 * MIB)
    assert refusal(space, 4 * MIB) is None
    assert refusal(space, 5 * MIB) is not None
    space.measured(file(14))
    assert refusal(space) is None
    space.measured(file(15))
    assert refusal(space) is not None


def test_every_refusal_is_counted_by_its_reason() -> None:
    """And nothing else is."""
    reasons: list[str] = []
    space = Space(LIMITS, files=1, refused=reasons.append)
    assert refusal(space) is None
    space.measured(file(1024))
    assert refusal(space) is not None
    assert refusal(space) is not None
    assert reasons == ["quota", "quota"]


@pytest.mark.parametrize(
    ("used_mib", "free_mib", "back_mib"),
    [(0, 0, 0), (0, 8, 0), (0, 100, 92), (400, 100, 0), (400, 150, 50)],
)
def test_free_pages_are_given_back_beyond_a_share(used_mib: float, free_mib: float, back_mib: float) -> None:
    """What is forgotten every few seconds is used again at once; what a backlog left is not."""
    assert KEEP_SHARE == 4
    assert surplus(file(used_mib, free_mib), 8 * MIB) * PAGE == back_mib * MIB


def test_nothing_is_given_back_of_a_file_that_was_not_measured() -> None:
    """Before the first look all is 0."""
    assert surplus(Space(LIMITS, files=1).own, 0) == 0


def test_a_log_that_outgrows_its_share_counts() -> None:
    """A reader keeps it from being copied over: batches wait until it has let go, and no step has to be freed first."""
    limits = Limits(64 * MIB)
    space = Space(limits, files=1)
    room = space.close_bytes / MIB
    space.measured(replace(file(room - 3), log_bytes=limits.log_bytes + MIB))
    space.admit(MIB)
    space.measured(replace(file(room - 3), log_bytes=limits.log_bytes + 3 * MIB))
    with pytest.raises(Throttled):
        space.admit(MIB)
    space.measured(file(room - 3))
    space.admit(MIB)
