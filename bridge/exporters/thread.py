"""A thread for calls that may hang: in the file system, in a resolver."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar, TypeVarTuple

import anyio

Result = TypeVar("Result")
Args = TypeVarTuple("Args")


class OneThread:
    """Runs blocking calls one after the other, each in a thread that whoever gives up leaves behind.

    While a call that was left behind has not come back no other is begun: whatever hangs costs one thread, and never
    one that anybody else needs. The process can end meanwhile.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = anyio.Lock()
        self._running = False

    @property
    def hangs(self) -> bool:
        """Whether a call that nobody waits for any more has not come back."""
        return self._running

    async def run(self, call: Callable[[*Args], Result], *args: *Args, timeout_s: float) -> Result:
        """What the call returns or raises. Raises TimeoutError where it takes longer, or an earlier one still hangs."""
        async with self._turn:
            if self._running:
                raise TimeoutError("an earlier call has not come back yet")
            loop = asyncio.get_running_loop()
            outcome: asyncio.Future[Result] = loop.create_future()
            self._running = True
            Thread(target=self._call, args=(loop, outcome, call, *args), name=self._name, daemon=True).start()
            with anyio.fail_after(timeout_s):
                return await outcome

    def _call(
        self,
        loop: asyncio.AbstractEventLoop,
        outcome: "asyncio.Future[Result]",
        call: Callable[[*Args], Result],
        *args: *Args,
    ) -> None:
        try:
            result = call(*args)
        except Exception as exc:  # noqa: BLE001 -- it is raised where the result is waited for
            tell: Callable[[], None] = _unless_done(outcome, outcome.set_exception, exc)
        else:
            tell = _unless_done(outcome, outcome.set_result, result)
        self._running = False
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell)


def _unless_done(outcome: "asyncio.Future[Result]", tell: Callable[[*Args], None], *args: *Args) -> Callable[[], None]:
    def once() -> None:
        if not outcome.done():
            tell(*args)

    return once
