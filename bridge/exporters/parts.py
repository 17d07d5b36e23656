"""Requests that a backend does not take as a whole, sent in parts."""

import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bridge.exporters.failures import Refused
from bridge.exporters.repeats import Repeats

logger = logging.getLogger(__name__)

LEARNT_S = 600.0
"""How long it is remembered which size was too large; limits are raised, too."""
MAX_BEGUN = 64
"""Requests of which it is known how much was taken; of others what was taken may be sent again."""
MAX_BLAMED, MAX_IN_VAIN = 64, 16
"""So often at most a request is halved to find the spans that are to blame, and so often before any part was taken. One
among 65,536 is found with half as many each time; where nothing is taken it is not some of them."""


@dataclass(slots=True)
class _Progress:
    """How many of a request's spans, from its beginning, are settled, and how many of those were refused."""

    settled: int = 0
    refused: int = 0
    why: Refused | None = None
    blamed: int = 0
    """How often it was halved though it was not too large."""

    def may_blame(self) -> bool:
        """Whether it is worth looking for those of its spans that are to blame."""
        return self.blamed < (MAX_BLAMED if self.settled > self.refused else MAX_IN_VAIN)

    def refuse(self, spans: int, why: Refused) -> None:
        """The next so many spans are not taken, or as many of them as the backend says."""
        self.refused += spans if why.spans is None else min(spans, why.spans)
        self.settled += spans
        # not the one that was raised: it holds on to the request
        self.why = Refused(str(why), reason=why.reason, too_large=why.too_large, answer=why.answer)


class Parts:
    """Sends requests, halved and halved again where the backend says that one is too large for it, or that it does not
    take it and some of its spans may be why (`Refused.some`): then the others are taken.

    A size that was too large is not tried again for a while, and a request that stopped in the middle goes on from
    there when it is tried again: a backend that takes little at a time gets through all of it.
    """

    def __init__(
        self,
        exporter: str,
        send: Callable[[bytes, int], Awaitable[None]],
        cut: Callable[[bytes, int, int], bytes],
    ) -> None:
        """send: takes a request as it is sent, and how many spans it has. cut: makes one with the spans from the one
        number up to the other alone."""
        self._exporter, self._send, self._cut = exporter, send, cut
        self._warnings = Repeats()
        self._begun: dict[bytes, _Progress] = {}
        self._too_large_bytes, self._until_s = math.inf, 0.0

    async def deliver(self, request: bytes, spans: int) -> None:
        """Send all of it. Raises Refused for the spans that were not taken, a span that is too large by itself among
        them, and what `send` raises: a request that is to be sent again then goes on where it stopped."""
        progress = self._begun.pop(_key(request), None) if self._begun else None
        progress = progress or _Progress()
        rest = self._cut(request, progress.settled, spans) if progress.settled else request
        try:
            await self._deliver(rest, spans - progress.settled, progress)
        finally:
            if 0 < progress.settled < spans:  # also where it was given up
                self._remember(request, progress)
        if progress.why:
            why, some = progress.why, progress.refused if progress.refused < spans else None
            raise Refused(str(why), reason=why.reason, spans=some, too_large=why.too_large, answer=why.answer)

    async def _deliver(self, request: bytes, spans: int, progress: _Progress) -> None:
        if spans < 2 or not self._is_too_large(len(request)):
            try:
                await self._send(request, spans)
            except Refused as exc:
                if spans < 2 or not (exc.too_large or (exc.some and progress.may_blame())):
                    progress.refuse(spans, exc)
                    return
                if exc.too_large:
                    self._learn(len(request))
                else:
                    progress.blamed += 1
            else:
                progress.settled += spans
                return
        for begin, end in ((0, spans // 2), (spans // 2, spans)):
            await self._deliver(self._cut(request, begin, end), end - begin, progress)

    def _is_too_large(self, size: int) -> bool:
        return size >= self._too_large_bytes and time.monotonic() < self._until_s

    def _learn(self, size: int) -> None:
        """This size is too large for the backend."""
        now_s = time.monotonic()
        known = self._too_large_bytes if now_s < self._until_s else math.inf
        self._too_large_bytes = min(known, size)
        if known == math.inf:
            self._until_s = now_s + LEARNT_S
        if self._warnings.worth_logging(""):
            logger.warning(
                "requests are too large for the backend and are sent in parts: lower max_batch_bytes",
                extra={"exporter": self._exporter, "bytes": size},
            )

    def _remember(self, request: bytes, progress: _Progress) -> None:
        if len(self._begun) >= MAX_BEGUN:
            del self._begun[next(iter(self._begun))]
        self._begun[_key(request)] = progress


def _key(request: bytes) -> bytes:
    return hashlib.blake2b(request, digest_size=16).digest()
