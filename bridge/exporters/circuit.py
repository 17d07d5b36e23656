"""The circuit: whether a backend may be asked at present."""

import random
from dataclasses import dataclass

import anyio

from bridge.exporters.retry import RetryPolicy

PROBES = 2


@dataclass(frozen=True, slots=True)
class Attempt:
    """Leave to deliver one body once."""

    taken_before: int
    """How many bodies had been taken when it began."""
    limit_s: float | None
    """After how long it is to be given up, besides the exporter's own deadline; None: that alone."""
    probe: bool
    period: int
    namings: int
    """How often the backend had named a time."""


class Circuit:
    """Lets attempts through: all of them while the backend takes bodies, one now and then while it does not.

    It opens with the first failure, and closes with the first answer that is no failure. While it is open one attempt
    at a time goes through, a probe, each after a wait that grows up to `max_s`. Where a probe has no answer yet when
    the next one is due, that goes beside it, and is given up in turn after `max_s`: so a question that hangs does not
    hide that the backend is back, and a backend that needs long to answer has its time. A time the backend named
    (Retry-After, RetryInfo) holds for every body. A body that fails although others were taken since it was tried
    before has only itself to blame, and does not open the circuit.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        """In a row; the circuit is open while there are any."""
        self._next_s = 0.0
        self._named_s = 0.0
        """Until when the backend asked to be left alone."""
        self._namings = 0
        self._probing = 0
        self._period = 0
        """Counts how often the circuit opened and closed: what began in an earlier period says nothing new."""
        self._changed = anyio.Event()
        self.taken = 0
        """Bodies the backend answered for good."""

    @property
    def is_open(self) -> bool:
        """Whether the backend is taken to be away."""
        return self._failures > 0

    @property
    def next_attempt_s(self) -> float:
        """Seconds until the backend may be asked, 0 where it may be now."""
        return max(0.0, self._next_s - anyio.current_time()) if self.is_open else 0.0

    async def permit(self) -> Attempt:
        """Return once an attempt may be made. `answered` or `failed` is to be told how it went."""
        while (wait_s := self._wait_s()) > 0:
            with anyio.move_on_after(wait_s):
                await self._changed.wait()
        if not self.is_open:
            return Attempt(self.taken, None, probe=False, period=self._period, namings=self._namings)
        limit_s = self._policy.max_s if self._probing else None
        self._probing += 1
        self._wait_for(self._policy.wait_s(self._failures, _spread()))
        return Attempt(self.taken, limit_s, probe=True, period=self._period, namings=self._namings)

    def answered(self, attempt: Attempt) -> bool:
        """The backend took a body, or refused it for good: it is there. Returns whether that closed the circuit."""
        self.taken += 1
        before = attempt.period != self._period or attempt.namings != self._namings
        if not self.is_open:
            return False
        if before and self._named_s > anyio.current_time():  # it was asked before it wanted to be left alone
            if attempt.probe and attempt.period == self._period:
                self._probing -= 1
                self._tell()
            return False
        self._failures = 0
        self._turn()
        return True

    def failed(self, attempt: Attempt, seen: int, retry_after_s: float | None) -> bool:
        """The backend did not take a body; `seen`: bodies taken when the body was tried before, or first.

        Returns whether that is the backend's doing; otherwise it is this body's alone.
        """
        alone = self.taken > seen
        current = attempt.period == self._period
        if current and attempt.probe:
            self._probing -= 1
        if retry_after_s:
            self._namings += 1
            self._open(current)
            until_s = anyio.current_time() + self._policy.named_wait_s(retry_after_s, _spread())
            self._next_s = self._named_s = max(self._named_s, until_s)
        elif not alone:
            self._open(current)
        self._tell()
        return not alone

    def retry_now(self) -> None:
        """End the present wait."""
        self._next_s = self._named_s = 0.0
        self._tell()

    def _wait_s(self) -> float:
        if not self.is_open:
            return 0.0
        return float("inf") if self._probing >= PROBES else self.next_attempt_s

    def _open(self, current: bool) -> None:
        if not self.is_open:
            self._failures = 1
            self._turn()
            self._wait_for(self._policy.wait_s(1, _spread()))
        elif current:
            self._failures += 1

    def _wait_for(self, wait_s: float) -> None:
        self._next_s = anyio.current_time() + wait_s

    def _turn(self) -> None:
        self._period += 1
        self._probing = 0
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _spread() -> float:
    return random.random()  # noqa: S311 -- no secret
