"""Which requests go together, how long they wait for each other, and what becomes of each."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from bridge.codec.otlp_protobuf import decode_request, decode_requests
from bridge.codec.otlp_scan import count_spans
from bridge.codec.together import Together
from bridge.errors import InvalidData, StoreUnavailable, Throttled
from bridge.receivers import gathering
from bridge.receivers.gathering import Gathering, Joint
from tests.support.espans import ORDINARY_IDS, REQUIRED, request_of, span_of

FOR_EVER = 3600.0


class Commits:
    """What was committed together; while `gate` is closed a commit takes its time."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.refuses = 1 << 30
        """Batches of so many spans, and larger ones."""
        self.spans: list[int] = []
        self.begun = 0
        self.gate = anyio.Event()
        self.gate.set()
        self.errors: list[Exception] = []

    async def commit(self, decoded: Any) -> None:
        self.begun += 1
        if len(decoded.batch) > self.room:
            raise Throttled("no room", retry_after_s=3.0)
        if len(decoded.batch) >= self.refuses:
            raise InvalidData("not these")
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


async def come_at_once(found: Gathering, commits: Commits, number: int) -> None:
    """Have so many requests come at once that do not wait for each other: each is as large as a group may be."""
    before = len(commits.spans)
    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(found.take, spans(gathering.MAX_SPANS), "peer")
    assert commits.spans[before:] == [gathering.MAX_SPANS] * number


@pytest.fixture(autouse=True)
def unpaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups may begin one right after the other."""
    monkeypatch.setattr(gathering, "PACE_S", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits for ever for others, and what was there is expected for ever."""
    monkeypatch.setattr(gathering, "WAIT_S", FOR_EVER)
    monkeypatch.setattr(gathering, "FORGET_S", FOR_EVER)


@pytest.mark.usefixtures("patient")
async def test_a_sender_alone_waits_for_nobody() -> None:
    """One request after another, each at once."""
    commits = Commits()
    async with running(commits) as found:
        for _ in range(5):
            assert await found.take(spans(512), "peer") == 512
    assert commits.spans == [512] * 5


async def test_what_comes_during_a_commit_goes_together() -> None:
    """However small it is, and from whomever."""
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(found.take, spans(1 + number), "peer")
            await all_wait()
        assert commits.begun == 1
        commits.gate.set()
    assert commits.spans == [1, sum(range(2, 11))]


@pytest.mark.usefixtures("patient")
async def test_a_request_waits_for_as_many_as_there_were_at_once() -> None:
    """And all go when they are here."""
    commits = Commits()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        await come_at_once(found, commits, 3)
        for _ in range(2):
            tasks.start_soon(found.take, spans(512), "peer")
        await all_wait()
        assert commits.begun == 3
        tasks.start_soon(found.take, spans(512), "peer")
        await all_wait()
        assert commits.spans[3:] == [3 * 512]


async def test_what_there_was_long_ago_is_not_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that is alone by now goes at once."""
    monkeypatch.setattr(gathering, "FORGET_S", 0.0)
    monkeypatch.setattr(gathering, "WAIT_S", FOR_EVER)
    commits = Commits()
    async with running(commits) as found:
        await come_at_once(found, commits, 3)
        assert await found.take(spans(512), "peer") == 512


@pytest.mark.usefixtures("patient")
async def test_now_and_then_it_is_tried_whether_anybody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes then is expected from then on."""
    monkeypatch.setattr(gathering, "TRY_EVERY", 3)
    commits = Commits()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for _ in range(3):
            assert await found.take(spans(512), "peer") == 512
        for _ in range(2):
            tasks.start_soon(found.take, spans(512), "peer")
            await all_wait()
            assert commits.begun == 3
            tasks.start_soon(found.take, spans(512), "peer")
            await all_wait()
            assert commits.spans.pop() == 2 * 512
            commits.begun = 3


async def test_it_is_tried_more_seldom_where_it_is_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as seldom each time."""
    monkeypatch.setattr(gathering, "TRY_EVERY", 2)
    monkeypatch.setattr(gathering, "FORGET_S", FOR_EVER)
    monkeypatch.setattr(gathering, "WAIT_S", 0.01)
    commits = Commits()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for _ in range(3):
            assert await found.take(spans(512), "peer") == 512
        monkeypatch.setattr(gathering, "WAIT_S", FOR_EVER)
        for _ in range(4):
            assert await found.take(spans(512), "peer") == 512
        tasks.start_soon(found.take, spans(512), "peer")
        await all_wait()
        assert commits.begun == 7
        tasks.start_soon(found.take, spans(512), "peer")


@pytest.mark.usefixtures("patient")
async def test_groups_are_paced_by_how_many_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though all that are expected are here, small as they are, a group goes a while after the one before; a full one
    does not wait, and neither does one of a few where very many count as many."""
    commits = Commits()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        await come_at_once(found, commits, 3)
        monkeypatch.setattr(gathering, "PACE_S", FOR_EVER)
        for _ in range(3):
            tasks.start_soon(found.take, spans(1), "peer")
        await all_wait()
        assert commits.spans[3:] == []
        tasks.start_soon(found.take, spans(gathering.MAX_SPANS), "peer")
        await all_wait()
        assert commits.spans[3:] == [3, gathering.MAX_SPANS]
        monkeypatch.setattr(gathering, "MANY", 1 << 62)
        for _ in range(4):
            tasks.start_soon(found.take, spans(1), "peer")
        await all_wait()
        assert commits.spans[5:] == [4]


async def test_a_request_waits_no_longer_than_its_spans_are_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span waits for a 512th of the time; as long as one of 512 would wait, this test would not end."""
    monkeypatch.setattr(gathering, "WAIT_S", 30.0)
    commits = Commits()
    async with running(commits) as found:
        await come_at_once(found, commits, 2)
        assert await found.take(spans(1), "peer") == 1
        assert await found.take(spans(4), "peer") == 4
    assert commits.spans[-2:] == [1, 4]


async def test_those_that_wait_go_with_one_that_may_not_wait_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small request takes the others along."""
    monkeypatch.setattr(gathering, "WAIT_S", 60.0)
    monkeypatch.setattr(gathering, "FORGET_S", FOR_EVER)
    commits = Commits()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        await come_at_once(found, commits, 3)
        tasks.start_soon(found.take, spans(512), "peer")
        await all_wait()
        assert await found.take(spans(1), "peer") == 1
    assert commits.spans[-1] == 513


async def test_no_group_is_larger_than_it_may_be() -> None:
    """What does not fit in is the next one's."""
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        tasks.start_soon(found.take, spans(1), "peer")
        await all_wait()
        for _ in range(10):
            tasks.start_soon(found.take, spans(1000), "peer")
        await all_wait()
        commits.gate.set()
    assert commits.spans == [1, 4000, 4000, 2000]
    assert commits.begun == 4


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", request_of(), spans(gathering.MAX_SPANS + 1), b"\x0a\x00" * (gathering.MAX_BYTES_ALONE // 2 + 1)],
    ids=["empty", "unreadable", "no spans", "too many", "too large"],
)
async def test_some_requests_go_by_themselves(data: bytes) -> None:
    """They are told apart before anybody waits."""
    commits = Commits()
    async with running(commits) as found:
        assert await found.take(data, "peer") == 0
    assert not commits.begun


async def test_where_one_is_not_taken_all_go_by_themselves() -> None:
    """Each is decoded alone then, which says what is wrong with it."""
    bad = request_of(span_of({}, **{**ORDINARY_IDS, "trace_id": b"short"}))
    assert decode_request(bad, peer="").rejected == 1
    commits = Commits()
    commits.gate = anyio.Event()
    took: list[tuple[str, int]] = []

    async def take(found: Gathering, data: bytes, sender: str) -> None:
        took.append((sender, await found.take(data, "peer")))

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
        assert await found.take(spans(1), "bad") == 0
        assert await found.take(spans(1), "too many") == 1
        monkeypatch.setattr(gathering, "APART_S", -1.0)
        found.set_apart("other")
        found._apart["bad"] = anyio.current_time()
        assert await found.take(spans(1), "bad") == 1
        assert await found.take(spans(1), "worse") == 0


async def test_each_gets_an_error_of_its_own() -> None:
    """They are raised in different tasks."""
    commits = Commits()
    commits.gate = anyio.Event()
    raised: list[StoreUnavailable] = []

    async def take(found: Gathering) -> None:
        try:
            await found.take(spans(1), "peer")
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
            told[number] = await found.take(spans(number), "peer")
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
    """A request whose sender is gone stays in its group once that has begun; more go by themselves then."""
    monkeypatch.setattr(gathering, "MAX_HELD_REQUESTS", 1)
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found:
        with anyio.move_on_after(0.01):
            await found.take(spans(1), "peer")
        assert await found.take(spans(2), "peer") == 0
        commits.gate.set()
        await all_wait()
        assert await found.take(spans(3), "peer") == 3
    assert commits.spans == [1, 3]


async def test_whoever_gives_up_before_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither spans nor a group of none of them."""
    monkeypatch.setattr(gathering, "MAX_HELD_REQUESTS", 3)
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        tasks.start_soon(found.take, spans(1), "peer")
        await all_wait()
        for _ in range(9):
            with anyio.move_on_after(0.001):
                await found.take(spans(2), "peer")
        tasks.start_soon(found.take, spans(3), "peer")
        await all_wait()
        commits.gate.set()
    assert commits.spans == [1, 3]


async def test_who_spoils_a_group_and_leaves_is_set_apart() -> None:
    """It will not be there to be told that it was its fault."""
    bad = request_of(span_of({}, **{**ORDINARY_IDS, "trace_id": b"short"}))
    begun, go_on = anyio.Event(), anyio.Event()

    async def slowly(function: Any, _size: int) -> Any:
        begun.set()
        await go_on.wait()
        return function()

    found = Gathering(Joint(count_spans, decode_requests), slowly, Commits().commit)
    with anyio.fail_after(20):
        async with found.running(), anyio.create_task_group() as tasks:
            tasks.start_soon(found.take, bad, "evil")
            await begun.wait()
            tasks.cancel_scope.cancel()
        async with found.running():
            go_on.set()
            await all_wait()
            assert await found.take(spans(1), "good") == 1
            assert await found.take(spans(1), "evil") == 0


async def test_full_groups_do_not_wait_for_each_other() -> None:
    """The store may join them in one commit; what is not full waits, and gets fuller."""
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for number in (gathering.MAX_SPANS, gathering.MAX_SPANS, gathering.MAX_SPANS, 1, 2):
            tasks.start_soon(found.take, spans(number), "peer")
            await all_wait()
        assert commits.begun == 3
        commits.gate.set()
    assert commits.spans[3:] == [3]


async def test_no_more_go_at_once_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs is not handed one group after another."""
    monkeypatch.setattr(gathering, "MAX_UNDER_WAY", 2)
    commits = Commits()
    commits.gate = anyio.Event()
    async with running(commits) as found, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(found.take, spans(gathering.MAX_SPANS), "peer")
            await all_wait()
        assert commits.begun == 2
        commits.gate.set()
    assert commits.begun == 4


async def test_one_that_the_store_does_not_take_costs_no_other() -> None:
    """Each of a group is tried by itself where all of them fail for good."""
    commits = Commits()
    commits.gate, commits.refuses = anyio.Event(), 7
    told: dict[int, object] = {}

    async def take(found: Gathering, number: int) -> None:
        try:
            told[number] = await found.take(spans(number), "peer")
        except InvalidData as exc:
            told[number] = str(exc)

    async with running(commits) as found, anyio.create_task_group() as tasks:
        for number in (1, 2, 7):
            tasks.start_soon(take, found, number)
            await all_wait()
        commits.gate.set()
    assert told == {1: 1, 2: 2, 7: "not these"}


async def test_nobody_waits_for_ever_when_it_ends() -> None:
    """What has not begun goes by itself, and what has fails as retryable."""
    commits = Commits()
    commits.gate = anyio.Event()
    ended: list[object] = []

    async def take(found: Gathering) -> None:
        try:
            ended.append(await found.take(spans(1), "peer"))
        except Exception as exc:  # noqa: BLE001 -- looked at below
            ended.append(type(exc).__name__)

    async with anyio.create_task_group() as tasks, running(commits) as found:
        tasks.start_soon(take, found)
        await all_wait()
        tasks.start_soon(take, found)
        await all_wait()
    assert sorted(ended, key=str) == [0, "StoreUnavailable"]
    assert await found.take(spans(1), "peer") == 0


async def test_an_error_of_ours_costs_nobody_anything() -> None:
    """Where nothing was committed yet each goes by itself, and later requests are taken as ever."""

    def broken(requests: Sequence[tuple[bytes, str, int]]) -> Together | None:
        if len(requests[0][0]) == len(spans(2)):
            raise RuntimeError("of ours")
        return decode_requests(requests)

    commits = Commits()
    async with running(commits, Joint(count_spans, broken)) as found:
        assert await found.take(spans(2), "peer") == 0
        assert await found.take(spans(1), "peer") == 1
    assert commits.spans == [1]


@pytest.mark.anyio
async def test_requests_are_taken_again_after_a_pause() -> None:
    """What was set for before it does not keep those after it from going."""
    commits = Commits()
    found = Gathering(Joint(count_spans, decode_requests), work_out, commits.commit)
    with anyio.fail_after(20):
        for _ in range(2):
            async with found.running(), anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(found.take, spans(1), "10.0.0.1")
    assert sum(commits.spans) == 4
