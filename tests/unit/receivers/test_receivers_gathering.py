"""Which requests go together, how long they wait for each other, and what becomes of each."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from bridge.codec.otlp_protobuf import decode_request, decode_requests
from bridge.codec.otlp_scan import count_spans
from bridge.codec.together import Together
from bridge.errors import StoreUnavailable, Throttled
from bridge.receivers import gathering
from bridge.receivers.gathering import Gathering, Joint
from tests.support.espans import ORDINARY_IDS, REQUIRED, request_of, span_of

FOR_EVER = 3600.0


class Commits:
    """What was committed together; while `gate` is closed a commit takes its time."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.spans: list[int] = []
        self.begun = 0
        self.gate = anyio.Event()
        self.gate.set()
        self.errors: list[Exception] = []

    async def commit(self, decoded: Any) -> None:
        self.begun += 1
        if len(decoded.batch) > self.room:
            raise Throttled("no room", retry_after_s=3.0)
        self.room -= len(decoded.batch)
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop()
        self.spans.append(len(decoded.batch))


async def work_out(function: Any, _size: int) -> Any:
    return function()


def spans(number: int) -> bytes:
    """A request of so many eSpans."""
    return request_of(*[span_of(REQUIRED) for _ in range(number)])


@asynccontextmanager
async def running(commits: Commits, joint: Joint = Joint(count_spans, decode_requests)) -> AsyncIterator[Gathering]:  # noqa: B008 -- frozen
    found = Gathering(joint, work_out, commits.commit)
    with anyio.fail_after(20):
        async with found.running():
            yield found


async def all_wait() -> None:
    """Let every task go on as far as it gets."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits for ever for a sender that may still come."""
    monkeypatch.setattr(gathering, "WAIT_S", FOR_EVER)
    monkeypatch.setattr(gathering, "FORGET_S", FOR_EVER)


@pytest.mark.usefixtures("patient")
async def test_a_sender_alone_waits_for_nobody() -> None:
    """One request after another, each at once."""
    commits = Commits()
    async with running(commits) as found:
        for _ in range(5):
            assert await found.take(spans(512), "peer", "a") == 512
    assert commits.spans == [512] * 5


async def test_what_comes_during_a_commit_goes_together() -> None:
    """However small it is, and from whomever."""
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for sender in range(10):
            tasks.start_soon(found.take, spans(1 + sender), "peer", sender)
            await all_wait()
        assert commits.begun == 1
        commits.gate.set()
    assert commits.spans == [1, sum(range(2, 11))]


@pytest.mark.usefixtures("patient")
async def test_a_request_waits_for_those_that_sent_of_late() -> None:
    """And goes once all of them are here; those that are known by name do not count twice."""
    commits = Commits()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for sender in "abc":
            assert await _alone(found, commits, sender)
        for sender in "aab":
            tasks.start_soon(found.take, spans(512), "peer", sender)
        await all_wait()
        assert len(commits.spans) == 4
        assert commits.spans[-1] == 3 * 512


async def _alone(found: Gathering, commits: Commits, sender: str) -> bool:
    """Have a sender known whose request does not wait: it is so large that nothing is to be won by it."""
    before = len(commits.spans)
    assert await found.take(spans(gathering.MAX_SPANS - 1), "peer", sender)
    return commits.spans[before:] == [gathering.MAX_SPANS - 1]


async def test_a_request_waits_no_longer_than_its_spans_are_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span waits for a 512th of the time; as long as one of 512 would wait, this test would not end."""
    monkeypatch.setattr(gathering, "WAIT_S", 30.0)
    commits = Commits()
    async with running(commits) as found:
        assert await _alone(found, commits, "a")
        assert await _alone(found, commits, "b")
        assert await found.take(spans(1), "peer", "a") == 1
        assert await found.take(spans(4), "peer", "a") == 4
    assert commits.spans[-2:] == [1, 4]


async def test_those_that_wait_go_with_one_that_may_not_wait_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small request takes the others along."""
    monkeypatch.setattr(gathering, "WAIT_S", 60.0)
    commits = Commits()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for sender in "abc":
            assert await _alone(found, commits, sender)
        tasks.start_soon(found.take, spans(512), "peer", "a")
        await all_wait()
        assert await found.take(spans(1), "peer", "b") == 1
    assert commits.spans[-1] == 513


async def test_no_group_is_larger_than_it_may_be() -> None:
    """What does not fit in is the next one's."""
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        tasks.start_soon(found.take, spans(1), "peer", "first")
        await all_wait()
        for sender in range(10):
            tasks.start_soon(found.take, spans(1000), "peer", sender)
        await all_wait()
        commits.gate.set()
    assert commits.spans == [1, 4000, 4000, 2000]


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", request_of(), spans(gathering.MAX_SPANS + 1), b"\x0a\x00" * (gathering.MAX_BYTES_ALONE // 2 + 1)],
    ids=["empty", "unreadable", "no spans", "too many", "too large"],
)
async def test_some_requests_go_by_themselves(data: bytes) -> None:
    """They are told apart before anybody waits."""
    commits = Commits()
    async with running(commits) as found:
        assert await found.take(data, "peer", "a") == 0
    assert not commits.begun


async def test_where_one_is_not_taken_all_go_by_themselves() -> None:
    """Each is decoded alone then, which says what is wrong with it."""
    bad = request_of(span_of({}, **{**ORDINARY_IDS, "trace_id": b"short"}))
    assert decode_request(bad, peer="").rejected == 1
    commits = Commits()
    commits.gate = anyio.Event()
    took: list[tuple[str, int]] = []

    async def take(found: Gathering, data: bytes, sender: str) -> None:
        took.append((sender, await found.take(data, "peer", sender)))

    async with running(commits) as found, anyio.create_task_group() as tasks:
        tasks.start_soon(take, found, spans(1), "first")
        await all_wait()
        tasks.start_soon(take, found, spans(2), "good")
        tasks.start_soon(take, found, bad, "bad")
        await all_wait()
        commits.gate.set()
    assert sorted(took) == [("bad", 0), ("first", 1), ("good", 0)]
    assert commits.spans == [1]


async def test_a_sender_set_apart_goes_by_itself_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others do not, and it does not for ever; no more are remembered than may be."""
    monkeypatch.setattr(gathering, "MAX_APART", 2)
    commits = Commits()
    async with running(commits) as found:
        for peer in ("bad", "worse", "too many"):
            found.set_apart(peer)
        assert await found.take(spans(1), "bad", "a") == 0
        assert await found.take(spans(1), "too many", "b") == 1
        monkeypatch.setattr(gathering, "APART_S", -1.0)
        found.set_apart("other")
        found._apart["bad"] = anyio.current_time()
        assert await found.take(spans(1), "bad", "a") == 1
        assert await found.take(spans(1), "worse", "a") == 0


async def test_each_gets_an_error_of_its_own() -> None:
    """They are raised in different tasks."""
    commits = Commits()
    commits.gate = anyio.Event()
    raised: list[StoreUnavailable] = []

    async def take(found: Gathering) -> None:
        try:
            await found.take(spans(1), "peer", "a")
        except StoreUnavailable as exc:
            raised.append(exc)

    async with running(commits) as found, anyio.create_task_group() as tasks:
        tasks.start_soon(take, found)
        await all_wait()
        tasks.start_soon(take, found)
        tasks.start_soon(take, found)
        await all_wait()
        commits.errors = [StoreUnavailable("not now", retry_after_s=3.0) for _ in range(2)]
        commits.gate.set()
    assert [exc.retry_after_s for exc in raised] == [3.0] * 3
    assert len({id(exc) for exc in raised}) == 3
    assert commits.begun == 2


async def test_where_there_is_no_room_for_all_there_is_for_some() -> None:
    """Each of them is tried, the ones that came first first; the others are told what they would be told alone."""
    commits = Commits()
    commits.gate, commits.room = anyio.Event(), 10
    told: dict[int, object] = {}

    async def take(found: Gathering, number: int) -> None:
        try:
            told[number] = await found.take(spans(number), "peer", number)
        except Throttled as exc:
            told[number] = exc.retry_after_s

    async with running(commits) as found, anyio.create_task_group() as tasks:
        for number in (1, 3, 8, 5):
            tasks.start_soon(take, found, number)
            await all_wait()
        commits.gate.set()
    assert told == {1: 1, 3: 3, 8: 3.0, 5: 5}
    assert sorted(commits.spans) == [1, 3, 5]


async def test_what_is_held_is_bounded_though_senders_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose sender is gone stays in its group; more go by themselves then."""
    monkeypatch.setattr(gathering, "MAX_HELD_REQUESTS", 5)
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for sender in range(5):
            with anyio.move_on_after(0.01):
                await found.take(spans(1), "peer", sender)
        assert await found.take(spans(1), "peer", "more") == 0
        commits.gate.set()
        await all_wait()
        tasks.start_soon(found.take, spans(1), "peer", "again")
    assert commits.spans == [1, 4, 1]


async def test_nobody_waits_for_ever_when_it_ends() -> None:
    """What has not begun goes by itself, and what has fails as retryable."""
    commits = Commits()
    commits.gate = anyio.Event()
    ended: list[object] = []

    async def take(found: Gathering) -> None:
        try:
            ended.append(await found.take(spans(1), "peer", "a"))
        except Exception as exc:  # noqa: BLE001 -- looked at below
            ended.append(type(exc).__name__)

    async with anyio.create_task_group() as tasks, running(commits) as found:
        tasks.start_soon(take, found)
        await all_wait()
        tasks.start_soon(take, found)
        await all_wait()
    assert sorted(ended, key=str) == [0, "StoreUnavailable"]
    assert await found.take(spans(1), "peer", "a") == 0


async def test_an_error_of_ours_is_told_to_those_who_wait(caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing was committed yet each goes by itself, and later requests are taken as ever."""

    def broken(requests: Sequence[tuple[bytes, str]]) -> Together | None:
        if len(requests[0][0]) == len(spans(2)):
            raise RuntimeError("of ours")
        return decode_requests(requests)

    commits = Commits()
    async with running(commits, Joint(count_spans, broken)) as found:
        assert await found.take(spans(2), "peer", "a") == 0
        assert await found.take(spans(1), "peer", "a") == 1
    assert commits.spans == [1]
