"""Requests that arrive within a short time are decoded and committed together.

What a request costs beyond its spans, such as a scan, two dozen arrays and a commit, a few requests cost together but
once. Nobody pays for it with more than a little time: a request waits WAIT_S at most, and one of few spans less in
proportion, so that no sender is held below FULL_SPANS / WAIT_S spans a second, however few it sends at a time. Nobody
waits for company that is not to be expected: a group goes once as many requests are here as there were at once of late.
That number finds its level: while some wait others come, and are counted; a sender that waits for each answer is one.
Only now and then is it tried whether anybody would come who never did. Where many come at once, groups begin no more
often than every PACE_S, and each of many senders of few spans that wait for their answers may get below that.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Protocol, Self

import anyio
from anyio.abc import TaskGroup

from bridge.errors import StoreUnavailable
from bridge.spans import SpanBatch
from bridge.telemetry.own_traces import UNTRACED, Trace

WAIT_S, FULL_SPANS = 0.1, 512
"""How long a request of so many spans waits for others at most; one of fewer waits in proportion less."""
PACE_S, MANY = 0.01, 32
"""Where so many requests waited at once of late a group goes this long after the one before; where fewer, in proportion
sooner. A group costs as much as ten small requests: without this it has five of them, however many come."""
MAX_SPANS, MAX_BYTES = 4096, 3 << 19
"""Of those that go together: with so many nothing is won by waiting for more."""
FORGET_S = 1.0
"""What there was so long ago, or twice that, is not expected any more."""
TRY_EVERY, TRY_SELDOM = 64, 1024
"""Of groups that wait for nobody every so manieth waits, and more seldom where that was in vain."""
MAX_UNDER_WAY = 16
"""Groups that are decoded and committed at once where they are full: the store joins those that wait for a commit."""
MAX_HELD_REQUESTS, MAX_HELD_BYTES = 8192, 32 << 20
"""In all groups that are not done; more go by themselves, into the bounds that there are. A request leaves its group
when its sender gives up, unless that has begun."""
MAX_BYTES_ALONE = 512 << 10
"""A larger request is a batch by itself."""
_AT_ONCE, _NEVER = -math.inf, math.inf
APART_S, MAX_APART = 60.0, 1000
"""A sender of something that is not taken goes by itself so long: to decode twice would cost more than is won."""


class DecodedTogether(Protocol):
    """What became of several requests of which every span was taken."""

    @property
    def batch(self) -> SpanBatch: ...
    @property
    def faulty(self) -> dict[str, int]: ...
    def part(self, first: int, end: int) -> Self:
        """The spans from first up to end alone."""
        ...


@dataclass(frozen=True, slots=True)
class Joint:
    """How requests of one protocol are decoded together."""

    count: Callable[[bytes], int]
    """Spans of a request; below 0 where it cannot be put beside others."""
    decode: Callable[[Sequence[tuple[bytes, str, int]]], DecodedTogether | None]
    """All of these requests, with the addresses they came from and their spans; None where not all of each is taken."""


_Request = tuple[bytes, str, int]
"""Its bytes, the address it came from, and how many spans it has."""


@dataclass(slots=True, eq=False)
class _Group:
    """Requests that go together."""

    due_s: float
    requests: dict[int, _Request] = field(default_factory=dict)
    """By position."""
    added: int = 0
    spans: int = 0
    size: int = 0
    """Bytes of all."""
    begun: bool = False
    traces: list[Trace] = field(default_factory=list)
    """Of those requests whose way is recorded."""
    left: set[str] = field(default_factory=set)
    """Addresses of those that gave up after it had begun."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    taken: bool = False
    errors: dict[int, Exception | None] = field(default_factory=dict)
    """Of each request. It has failed until its commit returned: one that was cancelled must not look like a success."""

    def add(self, data: bytes, peer: str, spans: int) -> int:
        """One more request; its position."""
        self.requests[self.added] = (data, peer, spans)
        self.added += 1
        self.spans += spans
        self.size += len(data)
        return self.added - 1

    def remove(self, position: int) -> None:
        data, _, spans = self.requests.pop(position)
        self.spans -= spans
        self.size -= len(data)

    def mark(self, stage: str) -> None:
        """Say that all were at this stage since the last mark."""
        for trace in self.traces:
            trace.mark(stage)

    def fail(self, error: Exception) -> None:
        """Have all fail with this error."""
        self.errors = dict.fromkeys(self.requests, error)

    @property
    def full(self) -> bool:
        """Whether one more such request would not fit in."""
        number = len(self.requests)
        return not self.fits(self.size // number, self.spans // number)

    def fits(self, size: int, spans: int) -> bool:
        return self.spans + spans <= MAX_SPANS and self.size + size <= MAX_BYTES


class Gathering:
    """Puts requests of one receiver together. For one event loop of asyncio; takes none but while `running`."""

    def __init__(
        self,
        joint: Joint,
        run: Callable[[Callable[[], DecodedTogether | None], int], Awaitable[DecodedTogether | None]],
        commit: Callable[[DecodedTogether], Awaitable[None]],
    ) -> None:
        """run: works a function out that reads so many bytes. commit: takes spans over."""
        self._joint, self._run, self._commit = joint, run, commit
        self._tasks: TaskGroup | None = None
        """While requests are taken."""
        self._now_s: Callable[[], float] = time.monotonic
        self._timer: asyncio.Handle | None = None
        self._due_s = _NEVER
        """When it goes off, if there is one."""
        self._groups: deque[_Group] = deque()
        """Those that have not begun; only the last may still be added to."""
        self._waiting = 0
        """Senders whose request is in a group that is not done."""
        self._held_requests = self._held_bytes = self._under_way = 0
        self._began_s = _AT_ONCE
        self._peak = self._peak_before = 0
        """How many requests waited at once at most, of late and before."""
        self._counted_s = 0.0
        self._alone, self._try_after = 0, TRY_EVERY
        """Groups since one waited without need, and after how many the next does."""
        self._tries = False
        self._apart: dict[str, float] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take requests while the context is open. Leave it when nobody waits for one any more."""
        async with anyio.create_task_group() as tasks:
            self._tasks, self._now_s = tasks, asyncio.get_running_loop().time
            try:
                yield
            finally:
                self._tasks = None
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                while self._groups:  # nobody waits for ever
                    self._groups.popleft().done.set()
                tasks.cancel_scope.cancel()

    async def take(self, data: bytes, peer: str, trace: Trace = UNTRACED) -> int:
        """Return how many spans it had once the request is committed; 0 where it is to be decoded by itself.

        trace: of the request, told how long it waited for others and was decoded.

        Raises what the commit raises.
        """
        if not self._tasks or len(data) > MAX_BYTES_ALONE or (self._apart and self._is_apart(peer)):
            return 0
        if self._held_requests >= MAX_HELD_REQUESTS or self._held_bytes + len(data) > MAX_HELD_BYTES:
            return 0
        spans = self._joint.count(data)
        if not 0 < spans <= MAX_SPANS:
            return 0
        self._waiting += 1
        now_s = self._now_s()
        self._note(now_s)
        group, position = self._add(data, peer, spans, now_s)
        if trace is not UNTRACED:
            group.traces.append(trace)
        try:
            await group.done.wait()
        finally:
            self._waiting -= 1
            if not group.done.is_set():
                self._leave(group, position, peer)
        if not group.taken:
            return 0
        error = group.errors[position]
        if error is not None:
            # several senders wait for one commit: each gets an error of its own
            raise copy(error) from error
        return spans

    def count(self, data: bytes) -> int:
        """Spans of a request that was put beside others."""
        return self._joint.count(data)

    def set_apart(self, peer: str) -> None:
        """Have this sender's requests go by themselves for a while."""
        now_s = self._now_s()
        if len(self._apart) >= MAX_APART:
            self._apart = {known: until_s for known, until_s in self._apart.items() if until_s > now_s}
        if len(self._apart) < MAX_APART:
            self._apart[peer] = now_s + APART_S

    def _is_apart(self, peer: str) -> bool:
        until_s = self._apart.get(peer)
        if until_s is not None and until_s <= self._now_s():
            del self._apart[peer]
            return False
        return until_s is not None

    def _add(self, data: bytes, peer: str, spans: int, now_s: float) -> tuple[_Group, int]:
        due_s = now_s + WAIT_S * min(1.0, spans / FULL_SPANS)
        group = self._groups[-1] if self._groups else None
        if group is None or not group.fits(len(data), spans):
            group = _Group(due_s)
            self._groups.append(group)
        group.due_s = min(group.due_s, due_s)
        position = group.add(data, peer, spans)
        self._held_requests += 1
        self._held_bytes += len(data)
        self._look()
        return group, position

    def _leave(self, group: _Group, position: int, peer: str) -> None:
        """Whoever sent this request does not wait any more."""
        if group.begun:
            group.left.add(peer)
            return
        self._held_requests -= 1
        self._held_bytes -= len(group.requests[position][0])
        group.remove(position)
        if not group.requests and group in self._groups:
            self._groups.remove(group)

    def _note(self, now_s: float) -> None:
        """Note how many wait at once."""
        if now_s - self._counted_s >= FORGET_S:
            self._peak_before = self._peak if now_s - self._counted_s < 2 * FORGET_S else 0
            self._peak, self._counted_s = 0, now_s
        self._peak = max(self._peak, self._waiting)

    def _look(self) -> None:
        """See to it that the first group goes when its time has come; what is being read already may still join."""
        due_s = self._first_due_s()
        if self._timer is not None:
            if self._due_s <= due_s < _NEVER:  # it looks again by itself
                return
            self._timer.cancel()
            self._timer = None
        if due_s < _NEVER:
            loop, self._due_s = asyncio.get_running_loop(), due_s
            soon = due_s <= loop.time()
            self._timer = loop.call_soon(self._go) if soon else loop.call_at(due_s, self._go)

    def _go(self) -> None:
        """Let those groups go whose time has come."""
        self._timer = None
        while self._tasks and self._first_due_s() <= (now_s := self._now_s()):
            group = self._groups.popleft()
            group.begun = True
            self._began_s = now_s
            self._learn(len(group.requests))
            self._under_way += 1
            self._tasks.start_soon(self._take, group)
        self._look()

    def _first_due_s(self) -> float:
        """When the first group is to go, unless there is news."""
        if not self._groups or self._under_way >= MAX_UNDER_WAY:
            return _NEVER
        group = self._groups[0]
        if len(self._groups) > 1 or group.full:
            return _AT_ONCE
        if self._under_way:  # what comes meanwhile may still join
            return _NEVER
        expected = max(self._peak, self._peak_before)
        pace_s = self._began_s + PACE_S * min(1.0, expected / MANY)
        tries = self._tries and len(group.requests) == 1
        if self._waiting >= expected and not tries:
            return pace_s
        return max(pace_s, group.due_s)

    def _learn(self, requests: int) -> None:
        """A group goes with so many requests: whether the next one waits though nobody is expected."""
        if self._tries:
            self._try_after = TRY_EVERY if requests > 1 else min(2 * self._try_after, TRY_SELDOM)
        self._alone = 0 if requests > 1 or self._tries else self._alone + 1
        self._tries = self._alone >= self._try_after

    async def _take(self, group: _Group) -> None:
        """Never raises: what happens is told to those who wait."""
        group.fail(StoreUnavailable("the write was abandoned"))
        requests = list(group.requests.values())
        group.mark("wait")
        try:
            decoded = await self._run(partial(self._joint.decode, requests), group.size)
            group.mark("decode")
            if decoded is not None:
                group.taken = True
                await self._commit_all(group, decoded)
        except Exception as exc:  # noqa: BLE001 -- before anything was taken each request is tried by itself
            group.fail(exc)
        finally:
            self._held_requests -= len(group.requests)
            self._held_bytes -= group.size
            self._under_way -= 1
            group.done.set()
            self._look()
            if not group.taken:  # of those that are gone nobody will find out whether it was their fault
                for peer in group.left:
                    self.set_apart(peer)

    async def _commit_all(self, group: _Group, decoded: DecodedTogether) -> None:
        try:
            await self._commit(decoded)
            group.errors = dict.fromkeys(group.requests)
        except StoreUnavailable:
            raise
        except Exception:
            if len(group.requests) == 1:
                raise
            # where there is no room for all there may be for some: who comes with others is no worse off than alone
            ends = list(accumulate(spans for _, _, spans in group.requests.values()))
            async with anyio.create_task_group() as tasks:
                for position, first, end in zip(group.requests, (0, *ends), ends, strict=False):
                    tasks.start_soon(self._commit_one, group, position, partial(decoded.part, first, end))

    async def _commit_one(self, group: _Group, position: int, part: Callable[[], DecodedTogether]) -> None:
        try:
            await self._commit(part())
            group.errors[position] = None
        except Exception as exc:  # noqa: BLE001 -- told to the one who waits for it
            group.errors[position] = exc
